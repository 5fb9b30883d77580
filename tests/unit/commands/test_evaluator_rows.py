"""How many rows of a set are evaluated, and what is said of it."""

from __future__ import annotations

import sys

import pytest

from deleatur.commands.evaluator import OWN_ROWS, rows_evaluated
from deleatur.settings import Evaluation
from deleatur.types import Suite


@pytest.mark.parametrize(
    ("name", "rows", "most"), [("tofu/forget10", None, sys.maxsize), ("rows", None, OWN_ROWS), ("rows", 7, 7)]
)
def test_a_suite_is_evaluated_in_full_and_user_rows_up_to_a_limit(name, rows, most):
    """The Kolmogorov-Smirnov test on 200 of forget10's 400 rows would pass what fails on all."""
    assert rows_evaluated(Suite(name=name, sets={}, evaluated_sets=()), Evaluation(rows=rows)) == most
