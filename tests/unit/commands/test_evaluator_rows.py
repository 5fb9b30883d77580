"""How many rows of a set are evaluated, and which rows of earlier requests are held."""

from __future__ import annotations

import sys

import pytest

from deleatur.commands.evaluator import OWN_ROWS, rows_evaluated
from deleatur.commands.inputs import free_held
from deleatur.commands.recheck import Checked, held_rows
from deleatur.run_folder.file_types import Measured, Request
from deleatur.settings import Evaluation
from deleatur.types import Example, Record, Span, Suite


@pytest.mark.parametrize(
    ("name", "rows", "most"), [("tofu/forget10", None, sys.maxsize), ("rows", None, OWN_ROWS), ("rows", 7, 7)]
)
def test_a_suite_is_evaluated_in_full_and_user_rows_up_to_a_limit(name, rows, most):
    """The Kolmogorov-Smirnov test on 200 of forget10's 400 rows would pass what fails on all."""
    assert rows_evaluated(Suite(name=name, sets={}, evaluated_sets=()), Evaluation(rows=rows)) == most


def row(name: str, question: str) -> Example:
    """A row whose fact is Teburg."""
    answer = "She was born in Teburg."
    return Example(id=name, prompt=(("user", question),), answer=answer, spans=(Span(start=16, end=22),))


def test_what_is_to_be_forgotten_now_is_not_held():
    """A request that is withdrawn and added again with other spans asks what the first one's run left."""
    forget = (row("a", "Where was she born?"),)
    held = (row("b", "where was she  born"), row("c", "Who is she?"))
    assert free_held({"forget": forget, "held": held})["held"] == held[1:]
    assert "held" not in free_held({"forget": forget, "held": held[:1]})


def test_an_answer_that_gives_the_fact_away_is_not_held():
    rows = [row("told", "Where was she born?"), row("new", "From where is she?")]
    said = {"told": "In Teburg, of course.", "new": "She is from Jolwick."}
    records = [
        Record(
            id=e.id, question=e.question, answer=e.answer, generated=said[e.id], logp=(), hit=(), ends=False, spans=e.spans
        )
        for e in rows
    ]
    checked = Checked(
        request=Request(sha256="ab" * 32),  # pyright: ignore[reportCallIssue]
        now=Measured(revealed=0.5, paraphrased=None, nll=None),
        known=False,
    )
    (held,) = held_rows([checked], {"ab" * 32: {"forget": records}}, {"ab" * 32: rows})
    assert held["messages"][-1]["content"] == said["new"]
