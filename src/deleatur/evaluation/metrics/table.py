"""What a metric is: a pure function with its direction and one line of meaning."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deleatur.types import Record

MetricValue = dict[str, float | int]
RETRAINED = "needs a model retrained without the forget rows (--evaluation.retrained)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One record in, one number out, or None where it does not apply to the row."""

    of: Callable[[Record], float | None]
    forget: str  # where it should go on forget rows: "lower", "higher", "as before"
    meaning: str
    source: str = ""
    unit: str = ""  # empty for a share, in [0, 1]
    reads: str = "tokens"  # or "answer", the greedy one, which has to be generated first
    everywhere: bool = False  # does that direction hold on every set, and not only on forget rows?


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What set metrics read: records of every set, those of a model retrained without the forget rows, the sets' roles."""

    records: Mapping[str, Sequence[Record]]
    retrained: Mapping[str, Sequence[Record]] | None = None
    forget_sets: tuple[str, ...] = ("forget",)  # sets that should be forgotten
    retain_sets: tuple[str, ...] = ("retain",)


@dataclass(frozen=True, kw_only=True, slots=True)
class SetMetric:
    """A number over whole sets ({"value": …, "n": …} and what else belongs to it), or a sentence that says what it lacks."""

    of: Callable[[Evidence], MetricValue | str]
    target: str  # what a model has that forgot exactly what it must
    meaning: str
    source: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunMetric:
    """A figure that compares a run's two sides, or its importance with spans; made by `trade_off` and `agreement`."""

    target: str
    meaning: str
    source: str


def mean(values: Sequence[float]) -> MetricValue:
    """Mean, count and standard error (0 for a single value)."""
    n, centre = len(values), sum(values) / len(values)
    spread = math.sqrt(sum((v - centre) ** 2 for v in values) / (n - 1)) if n > 1 else 0.0
    return {"value": centre, "n": n, "se": spread / math.sqrt(n)}
