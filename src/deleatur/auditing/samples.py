"""Scores of an arm's rows under an attack: one number a row and setting.

The strength of a sample is the largest over its settings, for every arm alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from deleatur.evaluation.metrics.membership import auc


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
    floor: float = 0.0  # what a row has that did not leak; below 0 where chance is taken off

    def strength(self, weights: Float[ndarray, "B rows"]) -> Float[ndarray, " B"]:
        """The largest mean over settings, weighted by row; see `Sample`."""
        largest = np.nan_to_num(self.means(weights), nan=-np.inf).max(1, initial=-np.inf)
        return np.where(np.isfinite(largest), largest, np.nan)

    def means(self, weights: Float[ndarray, "B rows"]) -> Float[ndarray, "B settings"]:
        """The mean of each setting, weighted by row; NaN where no row is evaluated."""
        present = ~np.isnan(self.values)
        sums, counts = weights @ np.nan_to_num(self.values).T, weights @ present.T.astype(float)
        return np.where(counts > 0, sums / np.maximum(counts, 1e-12), np.nan)

    def only(self, setting: int) -> Rates:
        """The same rows in one setting."""
        return replace(self, values=self.values[setting : setting + 1])


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

    def only(self, setting: int) -> Familiarity:
        """The same rows by one of the scores."""
        return replace(self, values=self.values[setting : setting + 1])

    def areas(self) -> list[dict[str, float]]:
        """AUC of each setting with DeLong's interval."""
        inside = np.array(self.members)
        return [auc(v[inside].tolist(), v[~inside].tolist()) for v in self.values]

    def _below(self) -> list[Float[ndarray, "members others"]]:
        inside = np.array(self.members)
        pairs = ((v[inside][:, None], v[~inside][None]) for v in self.values)
        return [(x < y) + (x == y) / 2.0 for x, y in pairs]


def strength(sample: Sample) -> float:
    """An arm's strength as it was found."""
    return float(sample.strength(np.ones((1, len(sample.subjects))))[0])


def rows_attacked(sample: Rates) -> int:
    """Rows of the setting that evaluates most."""
    return int((~np.isnan(sample.values)).sum(1).max()) if sample.values.size else 0


def units_of(subjects: Sequence[str]) -> list[int]:
    """The number of each row's subject; of a single subject each row's own."""
    names = list(dict.fromkeys(subjects))
    return list(range(len(subjects))) if len(names) < 2 else [names.index(s) for s in subjects]
