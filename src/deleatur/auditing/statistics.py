"""What is read off scores of rows: rates, areas and places on a scale, resampled by subject.

A sample holds one number a row and setting. Its strength is the largest over the settings, for every arm alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.stats import beta, norm

from deleatur.evaluation.metrics.membership import auc

LEVEL = 0.95  # of every one-sided bound
FEW = 10  # subjects; with fewer, labels are exchanged row by row
MAX_ROWS = 10**6  # rows that are looked for before an audit says that none decide


@runtime_checkable
class Sample(Protocol):
    """Scores of an arm's rows under an attack."""

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subject of each row."""
        ...

    def strength(self, weights: Float[ndarray, "B rows"]) -> Float[ndarray, " B"]:
        """The largest over settings, where each row counts so often; B times."""
        ...


@dataclass(frozen=True, eq=False)
class Rates:
    """How far each row leaked, in [0, 1], or its place on a scale; NaN where a setting does not evaluate it."""

    values: Float[ndarray, "settings rows"]
    subjects: tuple[str, ...]

    def strength(self, weights: Float[ndarray, "B rows"]) -> Float[ndarray, " B"]:
        """The largest mean over settings, weighted by row; see `Sample`."""
        present = ~np.isnan(self.values)
        sums, counts = weights @ np.nan_to_num(self.values).T, weights @ present.T.astype(float)
        with np.errstate(invalid="ignore"):
            means = np.where(counts > 0, sums / np.maximum(counts, 1e-12), -np.inf)
        largest = means.max(1, initial=-np.inf)
        return np.where(np.isfinite(largest), largest, np.nan)  # where no row is evaluated


@dataclass(frozen=True, eq=False)
class Familiarity:
    """How unfamiliar each row is, lower where it was trained on; of rows to forget (members) and unseen ones."""

    values: Float[ndarray, "settings rows"]
    subjects: tuple[str, ...]
    members: tuple[bool, ...]

    def strength(self, weights: Float[ndarray, "B rows"]) -> Float[ndarray, " B"]:
        """The largest AUC: how often a member is more familiar than an unseen row."""
        inside = np.array(self.members)
        a, b = weights[:, inside], weights[:, ~inside]
        pairs = np.maximum(a.sum(1) * b.sum(1), 1e-12)
        areas = [((a @ below) * b).sum(1) / pairs for below in self._below()]
        return np.max(areas, axis=0)

    def areas(self) -> list[dict[str, float]]:
        """AUC of each setting with DeLong's interval."""
        inside = np.array(self.members)
        return [auc(v[inside].tolist(), v[~inside].tolist()) for v in self.values]

    def _below(self) -> list[Float[ndarray, "members others"]]:
        inside = np.array(self.members)
        pairs = ((v[inside][:, None], v[~inside][None]) for v in self.values)
        return [(x < y) + (x == y) / 2.0 for x, y in pairs]


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
        units = _units([sample.subjects[i] for i in places])
        count = len(set(units))
        if count:
            drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
            weights[:, places] = drawn[:, units]
    return weights


def _units(subjects: Sequence[str]) -> list[int]:
    """The number of each row's subject; of a single subject each row's own."""
    names = list(dict.fromkeys(subjects))
    return list(range(len(subjects))) if len(names) < 2 else [names.index(s) for s in subjects]


def strength(sample: Sample) -> float:
    """An arm's strength as it was found."""
    return float(sample.strength(np.ones((1, len(sample.subjects))))[0])


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
    n = rows_attacked(sample)
    low, high = lower_limit(found.value * n, n), upper_limit(found.value * n, n)
    return Estimate(value=found.value, low=min(found.low, max(low, 0.0)), high=max(found.high, high))


def rows_attacked(sample: Rates) -> int:
    """Rows of the setting that evaluates most."""
    return int((~np.isnan(sample.values)).sum(1).max()) if sample.values.size else 0


def compare_rates(arm: Rates, control: Rates, *, resamples: int, seed: int) -> Comparison:
    """How much more `arm` leaks than `control`.

    p is the larger of two: the share of resamples by subject that show no more, and that of exchanges of the two arms'
    rows (of their subjects, where there are FEW or more) that show as much. The second counts the choice of the best
    setting in, and takes rows as independent where subjects are few.
    """
    draws = resampled({"arm": arm, "control": control}, resamples=resamples, seed=seed)
    value = strength(arm) - strength(control)
    differences = draws["arm"] - draws["control"]
    found = estimate(value, differences)
    n, level = rows_attacked(arm), strength(control)
    high = max(found.high, upper_limit(strength(arm) * n, n) - level)
    low = min(found.low, lower_limit(strength(arm) * n, n) - level)
    exchanged = _exchanged(arm, control, resamples, seed)
    p = max(_share(~(differences > 0)), _share(~(exchanged < value - 1e-12)))
    return Comparison(difference=Estimate(value=value, low=low, high=high), p=p, error=_spread(differences))


def compare_scale(arm: Rates, middle: float, *, resamples: int, seed: int) -> Comparison:
    """Whether rows are above the middle of a scale on average; p by resampling, and by flips of sign by subject."""
    draws = resampled({"arm": arm}, resamples=resamples, seed=seed)["arm"] - middle
    value = strength(arm) - middle
    rng = np.random.default_rng([seed, 1])
    units = _exchange_units(arm.subjects)
    signs = rng.choice([-1.0, 1.0], size=(resamples, max(units) + 1))[:, units]
    flipped = signs @ np.nan_to_num(arm.values[0] - middle) / max(rows_attacked(arm), 1)
    p = max(_share(~(draws > 0)), _share(~(flipped < value - 1e-12)))
    return Comparison(difference=estimate(value, draws), p=p, error=_spread(draws))


def compare_areas(arm: Familiarity, control: Familiarity | None, *, resamples: int, seed: int) -> Comparison:
    """How much larger the AUC is than the control's, or than chance; p also by DeLong's variance, over all settings."""
    samples: dict[str, Sample] = {"arm": arm}
    if control is not None:
        samples["control"] = control
    draws = resampled(samples, resamples=resamples, seed=seed)
    level = 0.5 if control is None else strength(control)
    differences = draws["arm"] - (draws["control"] if control is not None else 0.5)
    value = strength(arm) - level
    areas = arm.areas()
    chance = min(1.0, len(areas) * min(_chance(area) for area in areas))
    reach = max(area["high"] - area["value"] for area in areas)
    found = estimate(value, differences)
    p = max(_share(~(differences > 0)), chance)
    return Comparison(
        difference=Estimate(value=value, low=found.low, high=max(found.high, min(value + reach, 1 - level))),
        p=p,
        error=_spread(differences),
    )


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


def _exchange_units(subjects: Sequence[str]) -> list[int]:
    units = _units(subjects)
    return units if len(set(units)) >= FEW else list(range(len(subjects)))


def _exchanged(arm: Rates, control: Rates, times: int, seed: int) -> Float[ndarray, " B"]:
    """The difference where labels are permuted: row by row where both have the same rows, else among all rows."""
    rng = np.random.default_rng([seed, 2])
    if arm.subjects == control.subjects:
        units = _exchange_units(arm.subjects)
        swap = rng.integers(0, 2, size=(times, max(units) + 1))[:, units].astype(float)
        first, second = np.concatenate([1 - swap, swap], 1), np.concatenate([swap, 1 - swap], 1)
    else:
        units = _exchange_units((*arm.subjects, *control.subjects))
        count, size = max(units) + 1, len(arm.subjects)
        most = len({*units[:size]})
        order = rng.random((times, count)).argsort(1).argsort(1)
        swap = (order >= most)[:, units].astype(float)  # 1: counted as the control's
        first, second = 1 - swap, swap
    pooled = Rates(np.concatenate([arm.values, control.values], 1), (*arm.subjects, *control.subjects))
    return pooled.strength(first) - pooled.strength(second)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p values as Holm corrects them for being several."""
    out, largest = {}, 0.0
    for rank, (name, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p) - rank) * value))
        out[name] = largest
    return out


def rows_needed(difference: float, error: float, n: int, *, margin: float, level: float = 0.0) -> int | None:
    """About how many rows, at the rates that were found, would show a leak or rule out one of `margin`; None: no number.

    `level` is the control's rate, from which Clopper-Pearson's bound is counted where nothing varies. A leak is a row's
    worth at least, but on a scale (margin 0).
    """
    z = float(norm.ppf(LEVEL))
    if not all(map(math.isfinite, (difference, error, level))):
        return None
    row = math.ceil(1 / difference) if margin and difference > 0 else 0
    if error <= 1e-9:
        if difference > 0 and row <= n:
            return n
        sizes = (*range(max(n, 1), 1000), *(10**e for e in range(3, 7)))
        return next((k for k in sizes if upper_limit(level * k, k) - level <= margin), None)
    floor = next((k for k in range(1, 2000) if upper_limit(0, k) <= margin), n)  # fewer rule nothing out
    gaps = [
        (gap, least) for gap, least in ((difference, max(n + 1, row)), (margin - difference, max(n + 1, floor))) if gap > 0
    ]
    return min(MAX_ROWS, *(max(least, math.ceil(n * (z * error / gap) ** 2)) for gap, least in gaps))
