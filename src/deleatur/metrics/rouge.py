"""Overlap of what was said with what was told."""

from functools import cache

from rouge_score.rouge_scorer import RougeScorer

from deleatur.types import Record


def rouge_l(record: Record) -> float | None:
    """ROUGE-L recall with stemming of the greedy answer, in [0, 1]; None where nothing was asked (TOFU, 2401.06121)."""
    if not record.question:
        return None
    return _scorer().score(record.answer, record.generated)["rougeL"].recall


@cache
def _scorer() -> RougeScorer:
    return RougeScorer(["rougeL"], use_stemmer=True)
