"""Pairs of forget and retain rows, padded and in order."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch

from deleatur.types import Batch, Encoded


def collate(forget: Sequence[Encoded], retain: Sequence[Encoded] = (), *, keys: Sequence[int] | None = None) -> Batch:
    """One batch, forget rows first. `keys` are the rows' places in their data sets (default: counted from 0)."""
    rows = [*forget, *retain]
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
        keys=tuple(range(len(rows)) if keys is None else keys),
    )


def windows(
    forget: Sequence[Encoded],
    retain: Sequence[Encoded],
    *,
    epochs: int,
    batch: int,
    accumulate: int,
    seed: int,
    process: int = 0,
    processes: int = 1,
) -> Iterator[list[Batch]]:
    """The batches of each optimiser step: every forget row once an epoch, each with a random retain row.

    With several processes each takes its share of every batch, so a step holds the same rows whatever their number.
    """
    rng = random.Random(seed)
    order: list[int] = []
    partners: list[int] = []
    for _ in range(epochs):
        order += rng.sample(range(len(forget)), len(forget))
        while len(partners) < len(order):  # retain rows are dealt without return until all had their turn
            partners += rng.sample(range(len(retain)), len(retain))
    step = batch * accumulate
    for epoch in range(epochs):
        for first in range(epoch * len(forget), (epoch + 1) * len(forget), step):
            rows = range(first, min(first + step, (epoch + 1) * len(forget)))
            mine = [rows[i : i + batch][process::processes] for i in range(0, len(rows), batch)]
            yield [
                collate(
                    [forget[order[i]] for i in part],
                    [retain[partners[i]] for i in part],
                    keys=[order[i] for i in part] + [partners[i] for i in part],
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
            yield [collate([], [rows[i] for i in part], keys=part)]


def steps_in(forget: int, *, epochs: int, batch: int, accumulate: int) -> int:
    """How many windows `windows` yields."""
    return epochs * -(-forget // (batch * accumulate))


def in_batches(rows: Sequence[Encoded], batch: int) -> Iterator[tuple[list[int], Batch]]:
    """All rows, sorted by length so that padding is least, with their places in `rows`."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    for first in range(0, len(order), batch):
        part = order[first : first + batch]
        yield part, collate([rows[i] for i in part], keys=part)
