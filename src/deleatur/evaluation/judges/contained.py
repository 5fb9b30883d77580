"""Judging by the fact's own words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deleatur.evaluation.metrics.revealed import revealed
from deleatur.types import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Contained:
    """The metric `revealed` as a judge: share of the fact's pieces said word for word. Blind to other words for it."""

    name: str = "contained word for word"

    def __call__(self, records: Sequence[Record]) -> list[float | None]:
        return [revealed(r) for r in records]
