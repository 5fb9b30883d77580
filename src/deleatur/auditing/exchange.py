"""Exchange tests: how often arms whose labels are exchanged at random differ as much as they were found to.

They count in that the largest of several settings was taken. Subjects are exchanged, where there are FEW or more, else rows.
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


def rates_p(arm: Rates, control: Rates, seed: int) -> float:
    """The share of exchanges in which the arm leaks as much more than the control as it does.

    Where both are evaluated on the same rows these are exchanged pair by pair, exactly where few of them differ. Else
    labels are permuted among all subjects, those of the control counting as others even where their names are the same.
    """
    value = strength(arm) - strength(control)
    pooled = Rates(np.concatenate([arm.values, control.values], 1), (*arm.subjects, *control.subjects))
    if arm.subjects == control.subjects:
        units = np.array(_units(arm.subjects))
        differs = ~np.isclose(arm.values, control.values, rtol=0, atol=CLOSE, equal_nan=True).all(0)
        differing = {*units[differs].tolist()}
        swaps = (swap[:, units] for swap in _swaps(differing, int(units.max()) + 1, seed))
        parts = ((np.concatenate([1 - s, s], 1), np.concatenate([s, 1 - s], 1)) for s in swaps)
        exact = len(differing) <= ALL
    else:
        parts, exact = _permuted(arm.subjects, control.subjects, seed), False
    found = np.concatenate([pooled.strength(one) - pooled.strength(other) for one, other in parts])
    return _share(~(found < value - CLOSE), exact=exact)


def scale_p(arm: Rates, middle: float, seed: int) -> float:
    """The share of flips of sign about the middle of a scale in which the rows are as far above it."""
    away = np.nan_to_num(arm.values[0] - middle)
    units = np.array(_units(arm.subjects))
    moved = {*units[np.abs(away) > CLOSE].tolist()}
    found = np.concatenate([1 - 2 * swap[:, units] for swap in _swaps(moved, int(units.max()) + 1, seed)]) @ away
    return _share(~(found / max(rows_attacked(arm), 1) < strength(arm) - middle - CLOSE), exact=len(moved) <= ALL)


def _units(subjects: Sequence[str]) -> list[int]:
    units = units_of(subjects)
    return units if len(set(units)) >= FEW else list(range(len(subjects)))


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
    units = np.array(_units((*(f"arm {s}" for s in arm), *(f"control {s}" for s in control))))
    most, rng = len({*units[: len(arm)].tolist()}), np.random.default_rng([seed, 2])
    for _ in range(TIMES // CHUNK):
        order = rng.random((CHUNK, int(units.max()) + 1)).argsort(1).argsort(1)
        swap = (order >= most)[:, units].astype(float)
        yield 1 - swap, swap


def _share(found: ndarray, *, exact: bool) -> float:
    return float(found.mean()) if exact else (1 + int(found.sum())) / (1 + len(found))
