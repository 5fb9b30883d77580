"""Records → metrics → the numbers of results.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from deleatur.errors import ConfigError
from deleatur.evaluation.metrics import METRICS, SET_METRICS
from deleatur.evaluation.metrics.table import Evidence, Figure, mean
from deleatur.evaluation.metrics.trade_off import trade_off

if TYPE_CHECKING:
    from deleatur.types import Record

Figures = dict[str, dict[str, Figure]]  # set → metric → value, n, se


def measure(records: Mapping[str, Sequence[Record]]) -> Figures:
    """Every metric's mean on every set, with its standard error; a metric that applies to no row of a set is left out."""
    out: Figures = {}
    for name, rows in records.items():
        values = {metric: [v for r in rows if (v := m.of(r)) is not None] for metric, m in METRICS.items()}
        out[name] = {metric: mean(found) for metric, found in values.items() if found}
    return out


def measure_sets(evidence: Evidence, names: Sequence[str]) -> dict[str, Figure | dict[str, str]]:
    """Figures of whole sets by name; {"lacks": a sentence} where something is missing. Raises ConfigError on other names."""
    if unknown := [name for name in names if name not in SET_METRICS]:
        raise ConfigError(f"{unknown[0]} is no figure of whole sets; there are {', '.join(SET_METRICS)}")
    found = {name: SET_METRICS[name].of(evidence) for name in names}
    return {name: {"lacks": figure} if isinstance(figure, str) else figure for name, figure in found.items()}


def quality(
    before: Figures,
    after: Figures,
    *,
    metric: str = "revealed",
    forget_sets: Sequence[str] = ("forget",),
    retain_sets: Sequence[str] = ("retain",),
) -> dict[str, float | None]:
    """FQ, RD and UQ of one metric, a side's sets pooled as the mean of their values; None where one of the sets lacks it.

    Plain texts have no question, so they have no `revealed`.
    """
    sides = [_pooled(figures, metric, names) for names in (forget_sets, retain_sets) for figures in (before, after)]
    if None in sides:
        return {"fq": None, "rd": None, "uq": None}
    f0, f, r0, r = (side or 0.0 for side in sides)
    return dict(zip(("fq", "rd", "uq"), trade_off((f0, f), (r0, r)), strict=True))


def _pooled(figures: Figures, metric: str, names: Sequence[str]) -> float | None:
    found = [figures.get(name, {}).get(metric) for name in names]
    values = [float(figure["value"]) for figure in found if figure is not None]
    return sum(values) / len(values) if values and len(values) == len(found) else None
