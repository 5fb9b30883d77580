"""What is read off scores of rows: rates, areas and places on a scale, resampled by subject."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.stats import beta, norm

from deleatur.auditing.exchange import rates_p, scale_p
from deleatur.auditing.samples import Familiarity, Rates, Sample, rows_attacked, strength, units_of

LEVEL = 0.95  # of every one-sided bound
HITS = 5  # rows that have to come back before chance is excluded: 2⁻⁵ < .05
MAX_ROWS = 10**6  # rows that are looked for before an audit says that none decide


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number with its interval: each end is a one-sided bound at LEVEL."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """An arm against the one that was never trained on the rows."""

    difference: Estimate
    p: float  # that the arm is no stronger than the other
    error: float  # standard error of the difference
    setting: int | None = None  # in which they were compared; None: by each one's largest
    level: float = 0.0  # the other's rate there


def upper_limit(hits: float, n: int, level: float = LEVEL) -> float:
    """The largest rate that `hits` of `n` allow (Clopper-Pearson, one-sided; hits need not be whole, and
    what is below chance counts as none). 1 without rows."""
    return 1.0 if hits >= n else float(beta.ppf(level, max(hits, 0.0) + 1, n - max(hits, 0.0)))


def lower_limit(hits: float, n: int, level: float = LEVEL) -> float:
    """The smallest rate that `hits` of `n` allow, as `upper_limit`. 0 without hits."""
    return 1.0 - upper_limit(n - hits, n, level)


def resampled(arms: Mapping[str, Sample], *, resamples: int, seed: int) -> dict[str, Float[ndarray, " B"]]:
    """Each arm's strength on rows of subjects that are drawn with replacement; arms with the same subjects share the draws.

    Of a single subject the rows are drawn instead.
    """
    out: dict[str, Float[ndarray, " B"]] = {}
    for name, sample in arms.items():
        rng = np.random.default_rng([seed, *_key(sample.subjects)])
        out[name] = sample.strength(_weights(sample, rng, resamples))
    return out


def _key(subjects: Sequence[str]) -> tuple[int, int]:
    return len(subjects), sum(ord(c) for c in "|".join(subjects))


def _weights(sample: Sample, rng: np.random.Generator, resamples: int) -> Float[ndarray, "B rows"]:
    """How often each row is drawn; members and unseen rows are drawn apart, so that neither side is ever empty."""
    members = sample.members if isinstance(sample, Familiarity) else (True,) * len(sample.subjects)
    weights = np.zeros((resamples, len(members)))
    for side in (True, False):
        places = [i for i, m in enumerate(members) if m is side]
        units = units_of([sample.subjects[i] for i in places])
        count = len(set(units))
        if count:
            drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
            weights[:, places] = drawn[:, units]
    return weights


def estimate(value: float, draws: Float[ndarray, " B"]) -> Estimate:
    """A number with the bounds that its resamples give; those without an evaluated row do not count."""
    known = draws[np.isfinite(draws)]
    if not len(known) or math.isnan(value):
        return Estimate(value=value, low=math.nan, high=math.nan)
    low, high = np.quantile(known, [1 - LEVEL, LEVEL])
    return Estimate(value=value, low=float(min(low, value)), high=float(max(high, value)))


def rate_estimate(sample: Rates, draws: Float[ndarray, " B"]) -> Estimate:
    """An arm's rate. Its bounds are no tighter than Clopper-Pearson's: resampling rows that are all alike shows no doubt."""
    found = estimate(strength(sample), draws)
    low, high = _exact_limits(sample)
    return Estimate(value=found.value, low=min(found.low, low), high=max(found.high, high))


def _exact_limits(sample: Rates) -> tuple[float, float]:
    """Clopper-Pearson's, on the scale that begins at the sample's floor."""
    n, scale = rows_attacked(sample), 1 - sample.floor
    hits = (strength(sample) - sample.floor) / scale * n
    return sample.floor + scale * lower_limit(hits, n), sample.floor + scale * upper_limit(hits, n)


def compare_rates(arm: Rates, control: Rates, *, resamples: int, seed: int) -> Comparison:
    """How much more `arm` leaks than `control`, see `_decisive`.

    p is the larger of two: the share of resamples by subject that show no more, and that of exchanges of the two arms'
    labels that show as much, see `exchange.rates_p`.
    """
    chances, rows = rates_p(arm, control, seed), range(len(arm.values))
    each = [replace(_in_setting(k, arm, control, resamples, seed), setting=k) for k in rows]
    each = [replace(c, p=max(c.p, float(p))) for c, p in zip(each, chances, strict=True)]
    return _decisive(each, [rows_attacked(arm.only(k)) for k in rows])


def _decisive(each: Sequence[Comparison], rows: Sequence[int]) -> Comparison:
    """Of an attack's settings the one that is least likely by chance, where it is beyond chance and a row's worth, else the
    one with the highest upper bound. The upper bound is the highest of all: each could hide a leak."""
    known = [c for c in each if not math.isnan(c.difference.value)] or list(each)
    high = max(c.difference.high for c in known)
    leaks = [c for c, n in zip(each, rows, strict=True) if c.p <= 1 - LEVEL and c.difference.value * n >= 1]
    found = min(leaks, key=lambda c: (c.p, -c.difference.low)) if leaks else max(known, key=lambda c: c.difference.high)
    return replace(found, difference=replace(found.difference, high=max(high, found.difference.high)))


def _in_setting(setting: int, arm: Rates, control: Rates, resamples: int, seed: int) -> Comparison:
    one, other = arm.only(setting), control.only(setting)
    draws = resampled({"arm": one, "control": other}, resamples=resamples, seed=seed)
    value, level = strength(one) - strength(other), strength(other)
    differences = draws["arm"] - draws["control"]
    found = estimate(value, differences)
    low, high = _exact_limits(one)
    bounds = {"low": min(found.low, low - level), "high": max(found.high, high - level)}
    return Comparison(
        difference=Estimate(value=value, **bounds),
        p=_share(~(differences > 0)),
        error=_spread(differences),
        level=level,
    )


def compare_scale(arm: Rates, middle: float, *, resamples: int, seed: int) -> Comparison:
    """Whether rows are above the middle of a scale on average; p by resampling, and by flips of sign by subject."""
    draws = resampled({"arm": arm}, resamples=resamples, seed=seed)["arm"] - middle
    value = strength(arm) - middle
    p = max(_share(~(draws > 0)), scale_p(arm, middle, seed))
    return Comparison(difference=estimate(value, draws), p=p, error=_spread(draws))


def compare_areas(arm: Familiarity, control: Familiarity | None, *, resamples: int, seed: int) -> Comparison:
    """How much larger the AUC is than the control's by the same score, or than chance, see `_decisive`; p also by DeLong's
    variance, times the number of scores."""
    each = []
    for k in range(len(arm.values)):
        samples: dict[str, Sample] = {"arm": arm.only(k)}
        if control is not None:
            samples["control"] = control.only(k)
        draws, level = resampled(samples, resamples=resamples, seed=seed), 0.5
        if control is not None:
            level = strength(samples["control"])
        differences, area = draws["arm"] - (draws["control"] if control is not None else 0.5), arm.only(k).areas()[0]
        value, found = area["value"] - level, estimate(area["value"] - level, differences)
        high = max(found.high, min(value + area["high"] - area["value"], 1 - level))
        p = min(1.0, len(arm.values) * max(_share(~(differences > 0)), _chance(area)))
        bounds = Estimate(value=value, low=found.low, high=high)
        each.append(Comparison(difference=bounds, p=p, error=_spread(differences), setting=k))
    return _decisive(each, [sum(arm.members)] * len(each))


def is_over_forgotten(arm: Familiarity, control: Familiarity | None, *, resamples: int, seed: int) -> bool:
    """Are rows to forget less familiar than unseen ones, and more so than to the control, both beyond chance?"""
    turned = [s if s is None else replace(s, values=-s.values) for s in (arm, control)]
    assert turned[0] is not None
    return compare_areas(turned[0], turned[1], resamples=resamples, seed=seed).p <= 1 - LEVEL


def _chance(area: Mapping[str, float]) -> float:
    """p of an AUC of ½ or less, from the lower end of a 95 % interval."""
    spread = (area["value"] - area["low"]) / norm.ppf(0.975)
    return float(norm.sf((area["value"] - 0.5) / spread)) if spread > 0 else float(area["value"] <= 0.5)


def _share(found: ndarray) -> float:
    return (1 + int(found.sum())) / (1 + len(found))


def _spread(draws: Float[ndarray, " B"]) -> float:
    known = draws[np.isfinite(draws)]
    return float(np.std(known, ddof=1)) if len(known) > 1 else math.nan


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p values as Holm corrects them for being several."""
    out, largest = {}, 0.0
    for rank, (name, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p) - rank) * value))
        out[name] = largest
    return out


def rows_needed(found: Comparison, n: int, *, margin: float) -> int | None:
    """About how many rows, at the rates that were found, would show a leak or rule out one of `margin`; None: no number.

    Bounds are taken to shrink as the root of the rows; where nothing varies, Clopper-Pearson's is counted from the control's
    rate. A leak takes HITS rows that come back, but on a scale (margin 0).
    """
    z, d = float(norm.ppf(LEVEL)), found.difference
    if not all(map(math.isfinite, (d.value, d.low, d.high, found.error, found.level))):
        return None
    row = math.ceil(HITS / d.value) if margin and d.value > 0 else 0
    if found.error <= 1e-9:
        if d.value > 0 and row <= n:
            return n
        sizes = (*range(max(n, 1), 1000), *(10**e for e in range(3, 7)))
        return next((k for k in sizes if upper_limit(found.level * k, k) - found.level <= margin), None)
    floor = next((k for k in range(1, 2000) if upper_limit(0, k) <= margin), n)  # fewer rule nothing out
    below, above = (max(z * found.error, reach) for reach in (d.value - d.low, d.high - d.value))
    gaps = ((d.value, below, max(n + 1, row)), (margin - d.value, above, max(n + 1, floor)))
    return min(MAX_ROWS, *(max(least, math.ceil(n * (reach / gap) ** 2)) for gap, reach, least in gaps if gap > 0))
