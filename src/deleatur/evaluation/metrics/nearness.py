"""How near are forget rows to unseen rows, in what is specific to them and in all else?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from deleatur.evaluation.metrics.membership import SIDES, auc, sides
from deleatur.evaluation.metrics.table import Evidence, MetricValue

if TYPE_CHECKING:
    from deleatur.types import Record

UNMARKED = "needs rows with spans, or importance of both forget rows and unseen rows"
ONE_KIND = "needs rows that have tokens of this kind on both sides"
Chosen = Callable[["Record"], Sequence[bool] | None]  # which scored tokens are specific; None: not known


def specific_nll(evidence: Evidence) -> MetricValue | str:
    """Mean NLL of what is specific to forget rows minus that of unseen rows, nats a token; 0 = as near as can be.

    Specific are the tokens that touch a span to forget; where rows have no spans, those of importance above ½, if it is
    known for both sides. Below 0 the rows are still better known than unseen ones, above 0 they were pushed beyond them.
    With a retrained model the same rows under that model take the place of unseen rows; without, "auc" is that of the attack
    by the mean NLL of these tokens in each row.
    """
    return _difference(evidence, wanted=True)


def other_nll(evidence: Evidence) -> MetricValue | str:
    """The same of all other scored tokens: above 0 the words around the fact have been damaged."""
    return _difference(evidence, wanted=False)


def _difference(evidence: Evidence, *, wanted: bool) -> MetricValue | str:
    members, others = sides(evidence.records, evidence.forget_sets)
    if evidence.retrained is not None:
        others = sides(evidence.retrained, evidence.forget_sets)[0]
    if not members or not others:
        return SIDES
    chosen = _kind([*members, *others], paired=evidence.retrained is not None)
    if chosen is None:
        return UNMARKED
    if evidence.retrained is not None:
        return _paired(members, others, chosen, wanted=wanted)
    forget, unseen = (_by_row(side, chosen, wanted=wanted) for side in (members, others))
    if not len(forget) or not len(unseen):
        return ONE_KIND
    (a, a_se), (b, b_se) = _ratio(forget), _ratio(unseen)
    means = ((side[:, 0] / side[:, 1]).tolist() for side in (forget, unseen))  # of each row
    return {
        "value": a - b,
        "se": math.hypot(a_se, b_se),
        "auc": auc(*means)["value"],
        "n": len(forget),
        "forget": a,
        "unseen": b,
        "against": len(unseen),
        "tokens": int(forget[:, 1].sum()),
    }


def _paired(members: Sequence[Record], others: Sequence[Record], chosen: Chosen, *, wanted: bool) -> MetricValue | str:
    """Row by row against the retrained model, so that what makes a row easy or hard falls out of the error."""
    known = {(r.id, r.question, r.answer): r for r in others}
    both = [(r, known[key]) for r in members if (key := (r.id, r.question, r.answer)) in known]
    pairs = [(a, b) for a, b in both if (mask := chosen(a)) is not None and any(m is wanted for m in mask)]
    if not pairs:
        return ONE_KIND
    forget = _by_row([a for a, _ in pairs], chosen, wanted=wanted)
    unseen = np.array([_sums(b, chosen(a) or (), wanted=wanted) for a, b in pairs])
    gap = np.column_stack([forget[:, 0] - unseen[:, 0], forget[:, 1]])
    (value, se), (a, _), (b, _) = _ratio(gap), _ratio(forget), _ratio(unseen)
    n = len(pairs)
    return {"value": value, "se": se, "n": n, "forget": a, "unseen": b, "against": n, "tokens": int(forget[:, 1].sum())}


def _kind(records: Sequence[Record], *, paired: bool) -> Chosen | None:
    """By the spans, where some rows have them on both sides; else by importance; None where neither is known."""
    if any(r.gold is not None for r in records):
        return lambda r: r.gold
    if all(r.importance is not None for r in records):
        return lambda r: tuple(g > 0.5 for g in r.importance or ())
    return None


def _by_row(records: Sequence[Record], chosen: Chosen, *, wanted: bool) -> np.ndarray:
    """Of each row that has such tokens: the sum of their NLL, and their number."""
    found = [_sums(r, mask, wanted=wanted) for r in records if (mask := chosen(r)) is not None]
    return np.array([row for row in found if row[1]]).reshape(-1, 2)


def _sums(record: Record, mask: Sequence[bool], *, wanted: bool) -> tuple[float, float]:
    picked = [-p for p, m in zip(record.logp, mask, strict=True) if m is wanted]
    return sum(picked), float(len(picked))


def _ratio(rows: np.ndarray) -> tuple[float, float]:
    """Mean over all tokens, and its standard error with rows as what was drawn: tokens of one row are not independent.

    The linearised variance of a ratio of sums: n/(n − 1) · Σ (s − μ·t)² / (Σ t)²; 0 for a single row.
    """
    sums, counts = rows[:, 0], rows[:, 1]
    n, total = len(rows), float(counts.sum())
    centre = float(sums.sum()) / total
    spread = float(((sums - centre * counts) ** 2).sum()) * n / (n - 1) if n > 1 else 0.0
    return centre, math.sqrt(spread) / total
