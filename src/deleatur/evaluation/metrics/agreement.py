"""Does importance point at the tokens that had to be forgotten?"""

from collections.abc import Sequence

import numpy as np

from deleatur.types import Record


def agreement(records: Sequence[Record], *, budget: float) -> dict[str, float | int]:
    """ROC-AUC, average precision, and precision among the `budget` share of highest importance, pooled over rows.

    Ties count as if broken at random. Empty where no row has spans, or the spans cover all tokens or none.
    """
    marked = [r for r in records if r.gold is not None and r.importance is not None]
    gold = np.array([g for r in marked for g in r.gold or ()], dtype=bool)
    score = np.array([i for r in marked for i in r.importance or ()], dtype=float)
    if not gold.any() or gold.all():
        return {}
    return {
        "roc_auc": roc_auc(score, gold),
        "average_precision": _average_precision(score, gold),
        "precision_at_budget": _precision_at(score, gold, max(1, round(budget * len(gold)))),
        "budget": budget,
        "gold_share": float(gold.mean()),
        "n": len(gold),
    }


def roc_auc(score: np.ndarray, gold: np.ndarray) -> float:
    """Share of pairs in which the gold token has the higher score, ties by half."""
    from scipy.stats import rankdata  # here and not above: it is slow to import, and not needed before the first step

    positives, negatives = int(gold.sum()), int((~gold).sum())
    above = rankdata(score)[gold].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def _average_precision(score: np.ndarray, gold: np.ndarray) -> float:
    """Σ precision · gain in recall over the distinct thresholds, as scikit-learn defines it."""
    order = np.argsort(-score, kind="stable")
    last_of_tie = np.append(np.diff(score[order]) != 0, True)
    found = np.cumsum(gold[order])[last_of_tie]
    taken = (np.arange(len(gold)) + 1)[last_of_tie]
    gained = np.diff(found, prepend=0) / gold.sum()
    return float((found / taken * gained).sum())


def _precision_at(score: np.ndarray, gold: np.ndarray, k: int) -> float:
    threshold = np.sort(score)[-k]
    above, tied = score > threshold, score == threshold
    return float((gold[above].sum() + (k - above.sum()) * gold[tied].mean()) / k)
