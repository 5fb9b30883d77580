"""Pairs of forget and retain rows, padded and in order."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch

from deleatur.types import Batch, Encoded


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


def windows(
    forget: Sequence[Encoded],
    retain: Sequence[Encoded],
    *,
    epochs: int,
    batch: int,
    accumulate: int,
    seed: int,
    preferred: Sequence[Sequence[Encoded]] = (),
    process: int = 0,
    processes: int = 1,
) -> Iterator[list[Batch]]:
    """The batches of each optimiser step: every forget row once an epoch, each with a random retain row.

    `preferred` holds for each forget row the answers to give instead, of which one is drawn each time.
    With several processes each takes its share of every batch, so a step holds the same rows whatever their number.
    """
    rng = random.Random(seed)
    order: list[int] = []
    partners: list[int] = []
    for _ in range(epochs):
        order += rng.sample(range(len(forget)), len(forget))
        while len(partners) < len(order):  # retain rows are dealt without return until all had their turn
            partners += rng.sample(range(len(retain)), len(retain))
    draw = random.Random(f"{seed} preferred")  # its own, so that the other rows fall as they would without
    instead = [draw.choice(preferred[i]) for i in order] if preferred else []
    step = batch * accumulate
    for epoch in range(epochs):
        for first in range(epoch * len(forget), (epoch + 1) * len(forget), step):
            rows = range(first, min(first + step, (epoch + 1) * len(forget)))
            mine = [rows[i : i + batch][process::processes] for i in range(0, len(rows), batch)]
            yield [
                collate(
                    [forget[order[i]] for i in part],
                    [retain[partners[i]] for i in part],
                    preferred=[instead[i] for i in part] if instead else (),
                )
                for part in mine  # an empty share still meets the others in the forward
            ]


def told(rows: Sequence[Encoded], *, epochs: int, batch: int, seed: int) -> Iterator[list[Batch]]:
    """Batches without forget rows, for telling a model something: every row once an epoch, in random order."""
    rng = random.Random(seed)
    for _ in range(epochs):
        order = rng.sample(range(len(rows)), len(rows))
        for first in range(0, len(order), batch):
            part = order[first : first + batch]
            yield [collate([], [rows[i] for i in part])]


def steps_in(forget: int, *, epochs: int, batch: int, accumulate: int) -> int:
    """How many windows `windows` yields."""
    return epochs * -(-forget // (batch * accumulate))


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


def evenly(rows: Sequence[Encoded], most: int) -> list[Encoded]:
    """At most `most` rows, spread evenly."""
    return list(rows) if len(rows) <= most else [rows[i * len(rows) // most] for i in range(most)]
