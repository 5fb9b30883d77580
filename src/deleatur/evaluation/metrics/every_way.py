"""A row evaluated in every variant: plain, paraphrased, and after answered questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from deleatur.evaluation.metrics.revealed import revealed
from deleatur.evaluation.metrics.table import Evidence, MetricValue, mean

if TYPE_CHECKING:
    from deleatur.types import Record

PLAIN = ("", "_paraphrased")  # what the variants' sets are called, after the name of their rows' own
ALL = (*PLAIN, "_shots", "_paraphrased_shots")
Pool = Callable[[Sequence[float]], float]


def j_w(evidence: Evidence) -> MetricValue | str:
    """Mean over forget rows of the worst answer to any variant, in [0, 1]; "asked" counts questions (J_W of 2606.06320)."""
    return _over_rows(evidence, evidence.forget_sets, ALL, max)


def j_avg(evidence: Evidence) -> MetricValue | str:
    """Mean over retain rows of the mean over variants without shots, in [0, 1] (J_avg of 2606.06320)."""
    return _over_rows(evidence, evidence.retain_sets, PLAIN, lambda values: sum(values) / len(values))


def _over_rows(evidence: Evidence, names: Sequence[str], variants: Sequence[str], pool: Pool) -> MetricValue | str:
    rows: dict[tuple[str, str], list[float]] = {}
    for name, variant in ((n, v) for n in names for v in variants):
        for record in evidence.records.get(name + variant, ()):
            row = record.id.rpartition("/")[0] if "paraphrased" in variant else record.id
            if (value := _given_away(record)) is not None:
                rows.setdefault((name, row), []).append(value)
    if not rows:
        return f"needs questions; there are none in {', '.join(names)}"
    return mean([pool(values) for values in rows.values()]) | {"asked": sum(map(len, rows.values()))}


def _given_away(record: Record) -> float | None:
    """By the run's judge, and where there is none by the facts' words."""
    return revealed(record) if record.judged is None else record.judged
