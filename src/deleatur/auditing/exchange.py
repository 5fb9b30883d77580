"""Exchange tests: how often arms whose labels are exchanged at random differ as much as they were found to.

They count in that the largest of several settings was taken. Subjects are exchanged, where both arms have FEW or more, else
rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from deleatur.auditing.samples import Rates, rows_attacked, strength, units_of

FEW = 10  # subjects; with fewer, rows are exchanged one by one
ALL = 14  # differing subjects or rows up to which every exchange of two paired arms is made: 16,384
TIMES = 20_000  # random exchanges otherwise: Holm's threshold for nine attacks is .0056
CHUNK = 2_000
CLOSE = 1e-12  # differences as far apart are the same


def rates_p(arm: Rates, control: Rates, seed: int) -> Float[ndarray, " settings"]:
    """For each setting the share of exchanges in which the arm leaks as much more than the control, there or elsewhere.

    Each setting's difference is counted in its own standard deviation over the exchanges, and compared with the largest of
    all settings (Westfall and Young), so that one in which chance is large does not hide another. Where both arms are
    evaluated on the same rows these are exchanged pair by pair, exactly where few of them differ. Else labels are permuted
    among all subjects, those of the control counting as others even where their names are the same; p is then at least that
    of an exchange of their means, since subjects of many and of few rows are not alike.
    """
    pooled = Rates(np.concatenate([arm.values, control.values], 1), (*arm.subjects, *control.subjects))
    as_found = np.arange(len(pooled.subjects)) < len(arm.subjects)
    if arm.subjects == control.subjects:
        units = np.array(_units(arm.subjects))
        differs = ~np.isclose(arm.values, control.values, rtol=0, atol=CLOSE, equal_nan=True).all(0)
        differing = {*units[differs].tolist()}
        swaps = (swap[:, units] for swap in _swaps(differing, int(units.max()) + 1, seed))
        parts = ((np.concatenate([1 - s, s], 1), np.concatenate([s, 1 - s], 1)) for s in swaps)
        exact = len(differing) <= ALL
    else:
        parts, exact = _permuted(arm.subjects, control.subjects, seed), False
    now = pooled.means(as_found[None].astype(float)) - pooled.means(1.0 - as_found[None])
    found = np.nan_to_num(np.concatenate([pooled.means(one) - pooled.means(other) for one, other in parts]))
    spread = found.std(0)
    scale = np.where(spread > CLOSE, spread, np.inf)  # where nothing can be exchanged
    largest = (found / scale).max(1, initial=-np.inf)
    p = np.array([_share(largest >= z - CLOSE, exact=exact) for z in np.nan_to_num(now / scale)[0]])
    if arm.subjects == control.subjects or _few(arm.subjects, control.subjects) or _single(arm, control):
        return p
    return np.maximum(p, rates_p(_by_subject(arm, "arm"), _by_subject(control, "control"), seed))


def _single(*samples: Rates) -> bool:
    """Has every subject one row?"""
    return all(len(set(s.subjects)) == len(s.subjects) for s in samples)


def _by_subject(sample: Rates, side: str) -> Rates:
    """One row for each subject, the mean of its own."""
    names = list(dict.fromkeys(sample.subjects))
    weights = np.array([[float(s == name) for s in sample.subjects] for name in names])
    return Rates(sample.means(weights).T, tuple(f"{side} {name}" for name in names))


def scale_p(arm: Rates, middle: float, seed: int) -> float:
    """The share of flips of sign about the middle of a scale in which the rows are as far above it."""
    away = np.nan_to_num(arm.values[0] - middle)
    units = np.array(_units(arm.subjects))
    moved = {*units[np.abs(away) > CLOSE].tolist()}
    found = np.concatenate([1 - 2 * swap[:, units] for swap in _swaps(moved, int(units.max()) + 1, seed)]) @ away
    return _share(~(found / max(rows_attacked(arm), 1) < strength(arm) - middle - CLOSE), exact=len(moved) <= ALL)


def _units(*arms: Sequence[str]) -> list[int]:
    """The subject of each row, arm by arm, as a number; the row's own where an arm has few subjects."""
    if _few(*arms):
        return list(range(sum(map(len, arms))))
    return units_of([f"{i} {s}" for i, subjects in enumerate(arms) for s in subjects])


def _few(*arms: Sequence[str]) -> bool:
    return min(len(set(subjects)) for subjects in arms) < FEW


def _swaps(differing: set[int], units: int, seed: int) -> Iterator[Float[ndarray, "B units"]]:
    """1 for a unit that is exchanged. All combinations of those that differ where these are few, the other way at random."""
    places = sorted(differing)
    if len(places) <= ALL:
        every = np.arange(2 ** len(places))
        for part in np.array_split(every, -(-len(every) // CHUNK)):
            swap = np.zeros((len(part), units))
            swap[:, places] = (part[:, None] >> np.arange(len(places))) & 1
            yield swap
        return
    rng = np.random.default_rng([seed, 2])
    for _ in range(TIMES // CHUNK):
        yield rng.integers(0, 2, size=(CHUNK, units)).astype(float)


def _permuted(
    arm: Sequence[str], control: Sequence[str], seed: int
) -> Iterator[tuple[Float[ndarray, "B rows"], Float[ndarray, "B rows"]]]:
    """Which rows count as the arm's and which as the control's."""
    units = np.array(_units(arm, control))
    most, rng = len({*units[: len(arm)].tolist()}), np.random.default_rng([seed, 2])
    for _ in range(TIMES // CHUNK):
        order = rng.random((CHUNK, int(units.max()) + 1)).argsort(1).argsort(1)
        swap = (order >= most)[:, units].astype(float)
        yield 1 - swap, swap


def _share(found: ndarray, *, exact: bool) -> float:
    return float(found.mean()) if exact else (1 + int(found.sum())) / (1 + len(found))
