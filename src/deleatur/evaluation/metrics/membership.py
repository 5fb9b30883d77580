"""Can forget rows be distinguished from unseen rows?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from deleatur.evaluation.metrics.familiarity import grad_norm, min_k, min_k_plus, zlib_loss
from deleatur.evaluation.metrics.probability import loss
from deleatur.evaluation.metrics.table import RETRAINED, Evidence, MetricValue

if TYPE_CHECKING:
    from deleatur.types import Record

MEMBERS, OTHERS = "forget_mia", ("retain_mia", "holdout")  # sets made for attacks come before what else there is
SIDES = "needs forget rows and unseen rows (--holdout)"
Z = 1.959964  # of a 95 % interval


def mia_loss(evidence: Evidence) -> MetricValue | str:
    """AUC of the mean NLL: forget rows against unseen ones (1709.01604)."""
    return _attack(evidence, loss)


def mia_min_k(evidence: Evidence) -> MetricValue | str:
    """AUC of Min-K%: the mean NLL of a row's least likely tokens (2310.16789)."""
    return _attack(evidence, min_k)


def mia_min_k_plus(evidence: Evidence) -> MetricValue | str:
    """AUC of Min-K%++: Min-K% in standard deviations of each distribution (2404.02936)."""
    return _attack(
        evidence, min_k_plus, lacks="needs records with the distributions' mean and deviation; evaluate the model again"
    )


def mia_zlib(evidence: Evidence) -> MetricValue | str:
    """AUC of the mean NLL over the length of the text compressed by zlib (2012.07805)."""
    return _attack(evidence, zlib_loss)


def mia_grad_norm(evidence: Evidence) -> MetricValue | str:
    """AUC of the norm of the mean NLL's gradient (2402.17012)."""
    return _attack(evidence, grad_norm, lacks="needs gradient norms (--evaluation.grad-norm)")


def mia_reference(evidence: Evidence) -> MetricValue | str:
    """AUC of the mean NLL minus the retrained model's on the same row."""
    if evidence.retrained is None:
        return RETRAINED
    both = zip(sides(evidence.records, evidence.forget_sets), sides(evidence.retrained, evidence.forget_sets), strict=True)
    members, others = (_differences(ours, theirs) for ours, theirs in both)
    return _deviating(_compared(members, others)) if members and others else SIDES


def privleak(evidence: Evidence) -> MetricValue | str:
    """100·((1 − A) − (1 − A*)) / (1 − A*), A the value of `mia_min_k`, A* the retrained model's (MUSE, 2407.06460).

    0 where forget rows are as unfamiliar as to a model never trained on them, negative where they leak, positive where they
    have become too unlikely. OpenUnlearning puts A* = ½ where it has no retrained model; here that is a sentence.
    """
    if evidence.retrained is None:
        return RETRAINED
    model_auc = mia_min_k(evidence)
    retrained_auc = _attack(Evidence(records=evidence.retrained, forget_sets=evidence.forget_sets), min_k)
    if isinstance(model_auc, str) or isinstance(retrained_auc, str):
        return SIDES
    a, b = float(model_auc["value"]), float(retrained_auc["value"])
    if b == 1:
        return "cannot be read: to the retrained model too every forget row is more familiar than every unseen row"
    return {"value": 100 * (b - a) / (1 - b), "n": model_auc["n"], "auc": a, "auc_retrained": b}


def auc(members: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """Share of pairs in which the member has the lower score, ties by half, and its 95 % interval by DeLong's variance.

    Where all pairs agree that variance is 0: there, the bound that as many independent pairs as the smaller side has rows
    would give. A side of one row leaves it open.
    """
    a, b = np.array(members)[:, None], np.array(others)[None]
    below = (a < b) + (a == b) / 2
    centre, fewest = float(below.mean()), min(below.shape)
    if fewest == 1:
        low, high = 0.0, 1.0
    elif centre in (0.0, 1.0):
        bound = 0.025 ** (1 / fewest)
        low, high = (bound, 1.0) if centre else (0.0, 1 - bound)
    else:
        rates = below.mean(1), below.mean(0)  # one of each member, one of each other row
        reach = Z * math.sqrt(sum(float(rate.var(ddof=1)) / len(rate) for rate in rates))
        low, high = max(0.0, centre - reach), min(1.0, centre + reach)
    return {"value": centre, "low": low, "high": high}


def _attack(evidence: Evidence, score: Callable[[Record], float | None], *, lacks: str = SIDES) -> MetricValue | str:
    """AUC with forget rows as members; "against" counts the rows they are compared with, "deviation" is its distance from
    the AUC that the same attack has on a retrained model, "retrained", or where there is none from .5."""
    found = sides(evidence.records, evidence.forget_sets)
    if not all(found):
        return SIDES
    members, others = ([s for r in side if (s := score(r)) is not None] for side in found)
    if not members or not others:
        return lacks
    figure = _compared(members, others)
    theirs = (
        _attack(Evidence(records=evidence.retrained, forget_sets=evidence.forget_sets), score)
        if evidence.retrained
        else SIDES
    )
    return _deviating(figure) if isinstance(theirs, str) else _deviating(figure, retrained=float(theirs["value"]))


def _deviating(figure: MetricValue, **retrained: float) -> MetricValue:
    """With how far the value is from where it should be, either way."""
    return figure | retrained | {"deviation": abs(float(figure["value"]) - retrained.get("retrained", 0.5))}


def _compared(members: Sequence[float], others: Sequence[float]) -> MetricValue:
    return auc(members, others) | {"n": len(members), "against": len(others)}


def _differences(ours: Sequence[Record], theirs: Sequence[Record]) -> list[float]:
    """On rows that both models were evaluated on."""
    known = {(r.id, r.question, r.answer): loss(r) for r in theirs}
    return [loss(r) - known[row] for r in ours if (row := (r.id, r.question, r.answer)) in known]


def sides(records: Mapping[str, Sequence[Record]], forget_sets: Sequence[str]) -> tuple[Sequence[Record], Sequence[Record]]:
    """Members and others: MUSE's and RWKU's texts for attacks where they are, else the forget rows and the holdout."""
    members = records.get(MEMBERS) or [r for name in forget_sets for r in records.get(name, ())]
    return members, next((found for name in OTHERS if (found := records.get(name))), ())
