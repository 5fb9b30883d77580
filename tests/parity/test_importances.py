"""Every importance but the learned one against its published formula, restated in importances_table.py."""

from __future__ import annotations

import pytest
from importances_table import FORMULAS, SEEDS, SHAPES, deviation, main

from deleatur.importance import IMPORTANCES


def test_every_importance_has_a_formula():
    """The learned one has the tests of test_atwu.py and test_whole_method.py, novelty those of test_novelty.py."""
    assert {*FORMULAS, "learned", "novelty"} == set(IMPORTANCES)


@pytest.mark.parametrize("name", [*FORMULAS])
def test_the_formulas_cases_are_of_the_tables_class(name):
    assert {type(settings) for settings in FORMULAS[name][1]} == {IMPORTANCES[name]}


@pytest.mark.parametrize("lengths", SHAPES, ids=str)
@pytest.mark.parametrize("name", [*FORMULAS])
def test_an_importance_is_its_published_formula(name, lengths):
    assert all(deviation(name, lengths, seed) <= 1e-6 for seed in SEEDS)


def test_the_table_has_a_line_for_each(capsys):
    main()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["importance", *FORMULAS]
