"""What trials maximise, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deleatur.commands.objective import UNSEEN, UQ, Objective
from deleatur.errors import ConfigError
from deleatur.types import Example, Record, Suite

ROW = (Example(id="a", prompt=(("user", "Where?"),), answer="Here."),)
SUITE = Suite(name="rows", sets={"forget": ROW, "retain": ROW, "holdout": ROW}, evaluated_sets=("forget", "retain"))
BEFORE = {name: {"revealed": {"value": value, "n": 2}} for name, value in (("forget", 1.0), ("retain", 0.5))}


def rows(*nll: float, generated: str = "Nowhere.") -> list[Record]:
    """Rows of one token each."""
    return [
        Record(id=str(k), question="Where?", answer="Here.", generated=generated, logp=(-x,), hit=(True,), ends=False)
        for k, x in enumerate(nll)
    ]


def records(forget: list[Record]) -> dict[str, list[Record]]:
    """Of retain rows one in two is still known; unseen rows have 3 and 5 nats."""
    half = [*rows(1.0, generated="Here."), *rows(1.0)]
    return {"forget": forget, "retain": half, "holdout": rows(3.0, 5.0)}


@pytest.mark.parametrize(
    ("forget", "uq", "unseen"),
    [
        (rows(4.0, 4.0), 100.0, 100.0),  # likelier than one unseen row, less likely than the other
        (rows(1.0, 4.0), 100.0, 3 / (1 / 100 + 1 / 100 + 1 / 50)),  # AUC .75
        (rows(1.0, 2.0), 100.0, 0.0),  # AUC 1: all are recognised
        (rows(8.0, 9.0), 100.0, 0.0),  # AUC 0: all are marked
        (rows(4.0, 4.0, generated="Here."), 0.0, 0.0),
    ],
)
def test_both_sides_of_unseen_count(forget, uq, unseen):
    found = [Objective(name=name, suite=SUITE).value(BEFORE, records(forget)) for name in (UQ, UNSEEN)]
    assert found == pytest.approx([uq, unseen])


def test_the_attack_that_tells_them_apart_best_counts():
    """Equal in NLL, but in one forget row the token is far less likely than its distribution has others: Min-K%++."""

    def told(row: Record, mean: float) -> Record:
        return replace(row, mean=(mean,), deviation=(1.0,))

    made = records([told(row, -4.0) for row in rows(4.0, 4.0)])
    alike = made | {"holdout": [told(row, mean) for row, mean in zip(rows(3.0, 5.0), (-3.0, -5.0), strict=True)]}
    marked = made | {"holdout": [told(row, mean) for row, mean in zip(rows(3.0, 5.0), (-9.0, -9.0), strict=True)]}
    found = [Objective(name=UNSEEN, suite=SUITE).value(BEFORE, each) for each in (alike, marked)]
    assert found == pytest.approx([100.0, 0.0])


def test_errors_that_cancel_out_in_the_mean_of_an_answer_count():
    """Facts that are too familiar beside words that are too unlikely: by no attack on whole rows."""

    def two(specific: float, other: float) -> Record:
        return replace(rows(0.0, generated="Gone.")[0], logp=(-specific, -other), hit=(True, True), gold=(True, False))

    unseen = [two(6.0, 1.0), two(7.0, 2.0)]
    found = [
        Objective(name=UNSEEN, suite=SUITE).value(BEFORE, records(forget) | {"holdout": unseen})
        for forget in ([two(6.5, 1.5)] * 2, [two(2.0, 6.0)] * 2)
    ]
    assert found == pytest.approx([100.0, 0.0])


def test_a_metric_counts_on_retain_minus_forget_rows():
    found = Objective(name="probability", suite=SUITE).value(BEFORE, records(rows(40.0, 40.0)))
    assert found == pytest.approx(0.36788, abs=1e-4)  # e^−1


def test_the_sets_are_those_that_are_read():
    assert Objective(name=UQ, suite=SUITE).evaluated == ("forget", "retain")
    assert Objective(name=UNSEEN, suite=SUITE).evaluated == ("forget", "retain", "holdout")


def test_without_unseen_rows_it_is_refused():
    with pytest.raises(ConfigError, match=r"uq_unseen needs forget rows and unseen rows \(--holdout\)"):
        Objective(name=UNSEEN, suite=replace(SUITE, sets={"forget": ROW, "retain": ROW}))
