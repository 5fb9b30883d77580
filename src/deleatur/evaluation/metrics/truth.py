"""Are wrong answers as likely as the right one?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deleatur.evaluation.metrics.probability import TINY, average
from deleatur.evaluation.metrics.table import RETRAINED, Evidence, MetricValue

if TYPE_CHECKING:
    from deleatur.types import Record

LACKS_WRONG = "needs wrong answers to the forget rows"


def wrong_over_right(record: Record) -> float | None:
    """r = geometric mean of the wrong answers' probabilities over the right answer's, 0 or more; None without wrong answers.

    The right answer is the one in other words, and where the row has none the answer itself. Each probability is a geometric
    mean over tokens (OpenUnlearning; TOFU, 2401.06121, whose formula has the arithmetic mean of the wrong answers).
    """
    if not record.wrong:
        return None
    wrong = average([average(w) for w in record.wrong])
    return math.exp(wrong) / (math.exp(average(record.logp if record.restated is None else record.restated)) + TINY)


def truth_ratio(record: Record) -> float | None:
    """min(r, 1/r), in [0, 1]: 1 where the model does not prefer right to wrong answers (OpenUnlearning's forget form)."""
    r = wrong_over_right(record)
    return None if r is None else near_one(r)


def truth_ratio_kept(record: Record) -> float | None:
    """max(0, 1 − r), in [0, 1]: near 1 where the right answer is by far the likeliest (OpenUnlearning's utility form)."""
    r = wrong_over_right(record)
    return None if r is None else under_one(r)


def near_one(r: float) -> float:
    """1 at 1, 0 far from it on either side."""
    return min(r, 1 / (r + TINY))


def under_one(r: float) -> float:
    """1 at 0, 0 from 1 on."""
    return max(0.0, 1 - r)


def forget_quality(evidence: Evidence) -> MetricValue | str:
    """p-value of the two-sample Kolmogorov-Smirnov test of r on forget rows, this model against the retrained one."""
    from scipy.stats import ks_2samp

    if evidence.retrained is None:
        return RETRAINED
    ratios, retrained_ratios = (_ratios(records, evidence.forget_sets) for records in (evidence.records, evidence.retrained))
    if not ratios or not retrained_ratios:
        return LACKS_WRONG
    found: Any = ks_2samp(ratios, retrained_ratios)
    return {"value": float(found.pvalue), "n": len(ratios), "statistic": float(found.statistic)}


def _ratios(records: Mapping[str, Sequence[Record]], names: Sequence[str]) -> list[float]:
    return [ratio for name in names for r in records.get(name, ()) if (ratio := wrong_over_right(r)) is not None]
