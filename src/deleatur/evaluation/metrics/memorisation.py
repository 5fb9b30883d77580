"""How much of the answer the model completes by itself, all earlier tokens given. The end of turn does not count."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deleatur.types import Record


def extraction_strength(record: Record) -> float | None:
    """1 − k/n: k the first of n tokens from which every first choice is right to the end, in [0, 1] (2505.16831).

    0 where the last token is wrong; OpenUnlearning gives 1/n there, so its number is larger by up to 1/n on such rows.
    """
    hits = _answer_hits(record)
    if not hits:
        return None
    right = next((i for i, hit in enumerate(reversed(hits)) if not hit), len(hits))
    return right / len(hits)


def exact_memorisation(record: Record) -> float | None:
    """Share of tokens that are the model's first choice, in [0, 1] (2205.10770)."""
    hits = _answer_hits(record)
    return sum(hits) / len(hits) if hits else None


def _answer_hits(record: Record) -> tuple[bool, ...]:
    return record.hit[:-1] if record.ends else record.hit
