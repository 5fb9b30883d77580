"""Many answers drawn at temperature 1, and the exact chance that draws contain the fact."""

from __future__ import annotations

from deleatur.auditing.arms import Arm
from deleatur.auditing.asking import probability_within
from deleatur.auditing.attacks.table import Attack, Findings, answered, one_by_one


def run(arm: Arm, setting: str) -> Findings:
    """Answers to the plain questions, and 1 − (1 − P)^k, P the probability of the fact behind the true beginning."""
    n, encoded = arm.settings.samples, arm.encoded()
    questions = arm.questions()
    drawn = arm.generator.draw(questions, n, arm.settings.seed)
    predictions = arm.predictions(encoded)
    exact = {f"exact@{k}": tuple(probability_within(encoded, predictions, k)) for k in draws(n)}
    return Findings(answered=answered(questions, drawn), values=exact)


def draws(n: int) -> tuple[int, ...]:
    """Budgets k at which n samples are read."""
    return tuple(dict.fromkeys(k for k in (1, 8, n) if k <= n))


DRAW = Attack(
    asks="Answers drawn at temperature 1 and top-p 1: does one of k reveal the fact (leak@k)? And the exact chance from the "
    "fact's probability behind the true beginning of the answer.",
    source="2511.04934",
    settings=lambda s: (f"n{s.samples}",),
    run=one_by_one(run),
)
