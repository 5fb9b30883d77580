"""How far the NLL of forget rows lies from that of unseen rows, by hand."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from deleatur.evaluation.metrics.nearness import ONE_KIND, UNMARKED, other_nll, specific_nll
from deleatur.evaluation.metrics.table import Evidence
from deleatur.types import Record

UNSEEN = "needs forget rows and unseen rows (--holdout)"


def row(name: str, *nll: float, gold: str | None = None, **more: object) -> Record:
    """A row of so many tokens; `gold` marks them by + and −."""
    marks = None if gold is None else tuple(c == "+" for c in gold)
    shown = {"id": name, "question": "Where?", "answer": name, "generated": "", "gold": marks}
    return Record(**shown | {"logp": tuple(-x for x in nll), "hit": (True,) * len(nll), "ends": False} | more)


FORGET = [row("a", 1.0, 5.0, 7.0, gold="-++"), row("b", 2.0, 3.0, gold="-+")]
HOLDOUT = [row("c", 1.0, 8.0, gold="-+"), row("d", 3.0, 6.0, gold="-+")]


def test_the_mean_is_over_tokens_of_the_kind_and_the_difference_of_the_sides():
    """Specific: (5 + 7 + 3)/3 = 5 against (8 + 6)/2 = 7; all else: (1 + 2)/2 = 1.5 against 2."""
    evidence = Evidence(records={"forget": FORGET, "holdout": HOLDOUT})
    specific, other = specific_nll(evidence), other_nll(evidence)
    assert [specific[k] for k in ("value", "n", "forget", "unseen", "against", "tokens")] == [-2.0, 2, 5.0, 7.0, 2, 3]
    assert (other["value"], other["n"]) == (-0.5, 2)


def test_the_error_takes_rows_for_what_was_drawn():
    """Sums 12 of 2 tokens and 3 of 1, mean 5: deviations 12 − 10 and 3 − 5 give √(2·(4 + 4)/1)/3; the others' 8 and 6 give
    √(2·(1 + 1)/1)/2 = 1; together √(16/9 + 1)."""
    assert specific_nll(Evidence(records={"forget": FORGET, "holdout": HOLDOUT}))["se"] == pytest.approx(
        math.sqrt(16 / 9 + 1)
    )


def test_the_error_is_that_of_drawing_rows_again():
    """1000 seeded bootstrap samples of rows of unequal length, whose tokens are alike within a row, give it within 10 %."""
    rng = random.Random(0)

    def rows(n: int) -> list[Record]:
        made = []
        for i in range(n):
            level, count = rng.gauss(4, 1), rng.randint(1, 6)
            made.append(row(str(i), *(level + rng.gauss(0, 0.1) for _ in range(count)), gold="+" * count))
        return made

    forget, holdout = rows(60), rows(40)
    again = [
        specific_nll(Evidence(records={"forget": rng.choices(forget, k=60), "holdout": rng.choices(holdout, k=40)}))["value"]
        for _ in range(1000)
    ]
    found = specific_nll(Evidence(records={"forget": forget, "holdout": holdout}))["se"]
    assert found == pytest.approx(statistics.stdev(again), rel=0.1)


def test_with_a_retrained_model_rows_are_compared_with_themselves():
    """Differences 5 − 6, 7 − 6 and 3 − 4 over three tokens: −1/3. Of no use are rows that only one of the models has."""
    retrained = {"forget": [row("b", 9.0, 4.0, gold="-+"), row("a", 9.0, 6.0, 6.0, gold="-++")], "holdout": HOLDOUT}
    found = specific_nll(Evidence(records={"forget": [*FORGET, row("z", 9.0, gold="+")]}, retrained=retrained))
    assert (found["value"], found["n"], found["unseen"]) == (pytest.approx(-1 / 3), 2, pytest.approx(16 / 3))


def test_the_model_itself_is_at_no_distance():
    same = {"forget": FORGET, "holdout": HOLDOUT}
    found = specific_nll(Evidence(records=same, retrained=same))
    assert (found["value"], found["se"]) == (0.0, 0.0)


def test_without_spans_importance_says_what_is_specific():
    marked = {"forget": [row("a", 1.0, 4.0, importance=(0.5, 0.51))], "holdout": [row("b", 2.0, 3.0, importance=(0.1, 0.9))]}
    evidence = Evidence(records=marked)
    assert (specific_nll(evidence)["value"], other_nll(evidence)["value"]) == (1.0, -1.0)


def test_what_is_missing_is_said():
    plain = [row("a", 1.0)]
    assert specific_nll(Evidence(records={"forget": plain})) == UNSEEN
    assert specific_nll(Evidence(records={"forget": plain, "holdout": plain})) == UNMARKED
    assert other_nll(Evidence(records={"forget": [row("a", 1.0, gold="+")], "holdout": HOLDOUT})) == ONE_KIND
    half = {"forget": [row("a", 1.0, importance=(0.9,))], "holdout": plain}
    assert specific_nll(Evidence(records=half)) == UNMARKED
    other = {"forget": [row("y", 1.0, gold="+")]}
    assert specific_nll(Evidence(records={"forget": FORGET}, retrained=other)) == ONE_KIND
