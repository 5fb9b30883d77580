"""Pairs of forget and retain rows, padded and in order."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from deleatur.types import Batch, Encoded

T = TypeVar("T")


def collate(forget: Sequence[Encoded], retain: Sequence[Encoded] = (), *, preferred: Sequence[Encoded] = ()) -> Batch:
    """One batch: forget rows, answers to give instead of theirs (one each or none at all), retain rows."""
    rows = (*forget, *preferred, *retain)
    length = max((len(r.ids) for r in rows), default=1)
    ids = torch.zeros(max(len(rows), 1), length, dtype=torch.long)
    for b, row in enumerate(rows):
        ids[b, : len(row.ids)] = torch.tensor(row.ids)
    scored = [b * length + t for b, r in enumerate(rows) for t in range(r.start, len(r.ids))]
    sequence = [b for b, r in enumerate(rows) for _ in range(r.start, len(r.ids))]
    return Batch(
        ids=ids,
        scored=torch.tensor(scored, dtype=torch.long),
        sequence=torch.tensor(sequence, dtype=torch.long),
        forget=len(forget),
        rows=rows,
        preferred=len(preferred),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How forget rows are dealt: `batch` of them in one forward, or as many as fit in `tokens` with their partners."""

    epochs: int
    batch: int
    accumulate: int = 1  # forwards in an optimizer step
    tokens: int | None = None
    seed: int = 0


def step_windows(
    forget: Sequence[Encoded],
    retain: Sequence[Encoded],
    schedule: Schedule,
    *,
    preferred: Sequence[Sequence[Encoded]] = (),
    process: int = 0,
    processes: int = 1,
) -> Iterator[list[Batch]]:
    """The batches of each optimizer step: every forget row once an epoch, each with a random retain row.

    A batch has at least one forget row. `preferred` holds for each forget row the answers to give instead, of which one is
    drawn each time. With several processes each takes its share of every batch, so a step holds the same rows whatever
    their number.
    """
    epochs, seed = schedule.epochs, schedule.seed
    rng = random.Random(seed)
    order: list[int] = []
    partners: list[int] = []
    for _ in range(epochs):
        order += rng.sample(range(len(forget)), len(forget))
        while len(partners) < len(order):  # retain rows are drawn without replacement until all were drawn
            partners += rng.sample(range(len(retain)), len(retain))
    draw = random.Random(f"{seed} preferred")  # its own, so that the other rows fall as they would without
    instead = [draw.choice(preferred[i]) for i in order] if preferred else []

    def size(i: int) -> int:
        """Tokens of a forget row with its retain row and preferred answer."""
        return sum(len(r.ids) for r in (forget[order[i]], retain[partners[i]], *instead[i : i + 1]))

    for epoch in range(epochs):
        rows = range(epoch * len(forget), (epoch + 1) * len(forget))
        most = schedule.tokens
        parts = list(_by_count(rows, schedule.batch) if most is None else _by_size(rows, size, most))
        for step in _by_count(parts, schedule.accumulate):
            yield [
                collate(
                    [forget[order[i]] for i in part[process::processes]],
                    [retain[partners[i]] for i in part[process::processes]],
                    preferred=[instead[i] for i in part[process::processes]] if instead else (),
                )
                for part in step  # an empty share still meets the others in the forward
            ]


def _by_count(values: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    return (values[i : i + most] for i in range(0, len(values), most))


def _by_size(rows: Sequence[int], size: Callable[[int], int], most: int) -> Iterator[Sequence[int]]:
    """Neighbouring rows of together at most so much; one that is larger stands alone."""
    part: list[int] = []
    for i in rows:
        if part and sum(map(size, part)) + size(i) > most:
            yield part
            part = []
        part.append(i)
    if part:
        yield part


def fine_tuning_batches(rows: Sequence[Encoded], *, epochs: int, batch: int, seed: int) -> Iterator[list[Batch]]:
    """Batches without forget rows, for plain fine-tuning: every row once an epoch, in random order."""
    rng = random.Random(seed)
    for _ in range(epochs):
        order = rng.sample(range(len(rows)), len(rows))
        for first in range(0, len(order), batch):
            part = order[first : first + batch]
            yield [collate([], [rows[i] for i in part])]


def in_batches(rows: Sequence[Encoded], batch: int) -> Iterator[tuple[list[int], Batch]]:
    """All rows with their places in `rows`: those of one prompt together, prompts by their longest row, so that padding
    is little where prompts can't be shared."""
    longest: dict[tuple[int, ...], int] = {}
    for row in rows:
        prompt = row.ids[: row.start]
        longest[prompt] = max(len(row.ids), longest.get(prompt, 0))
    prompts = [row.ids[: row.start] for row in rows]
    order = sorted(range(len(rows)), key=lambda i: (longest[prompts[i]], prompts[i], len(rows[i].ids)))
    for first in range(0, len(order), batch):
        part = order[first : first + batch]
        yield part, collate([rows[i] for i in part])
