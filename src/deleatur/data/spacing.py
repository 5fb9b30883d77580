"""Some rows in place of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def evenly_spaced(rows: Sequence[T], most: int) -> list[T]:
    """At most so many of the rows, at even distances, so that no end of the file is preferred."""
    count = min(len(rows), most)
    return [rows[i * len(rows) // count] for i in range(count)]
