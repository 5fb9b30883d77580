"""Records → metrics → the numbers of results.json."""

from __future__ import annotations

import math
from collections.abc import Sequence

from deleatur.metrics import METRICS
from deleatur.metrics.trade_off import trade_off
from deleatur.types import Record

Figure = dict[str, float | int]
Figures = dict[str, dict[str, Figure]]  # set → metric → value, n, se


def measure(records: dict[str, list[Record]]) -> Figures:
    """Every metric's mean on every set, with its standard error; a metric that applies to no row of a set is left out."""
    out: Figures = {}
    for name, rows in records.items():
        values = {metric: [v for r in rows if (v := f(r)) is not None] for metric, f in METRICS.items()}
        out[name] = {metric: mean(found) for metric, found in values.items() if found}
    return out


def mean(values: Sequence[float]) -> Figure:
    """Mean, count and standard error (0 for a single value)."""
    n, centre = len(values), sum(values) / len(values)
    spread = math.sqrt(sum((v - centre) ** 2 for v in values) / (n - 1)) if n > 1 else 0.0
    return {"value": centre, "n": n, "se": spread / math.sqrt(n)}


def quality(before: Figures, after: Figures, *, metric: str = "revealed") -> dict[str, float | None]:
    """FQ, RD and UQ of one metric; None where the sets do not have it (plain texts are asked nothing)."""
    sides = []
    for name in ("forget", "retain"):
        if metric not in before[name] or metric not in after[name]:
            return {"fq": None, "rd": None, "uq": None}
        sides.append((float(before[name][metric]["value"]), float(after[name][metric]["value"])))
    return dict(zip(("fq", "rd", "uq"), trade_off(*sides), strict=True))
