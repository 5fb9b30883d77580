"""A step that does not fit in the memory goes through in pieces, with the same numbers."""

from __future__ import annotations

import pytest
import torch

from deleatur.data.batches import collate
from deleatur.errors import ConfigError
from deleatur.training.memory import MicroBatches, cut, ran_out


def numbers(batch) -> tuple[list, list, list]:
    ends = batch.forget, batch.forget + batch.preferred
    return list(batch.rows[: ends[0]]), list(batch.rows[ends[0] : ends[1]]), list(batch.rows[ends[1] :])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("sides", [(4, 4, 4), (3, 0, 3), (0, 0, 5), (1, 0, 1), (2, 2, 5)])
def test_pieces_hold_the_batch_s_rows_each_once_in_their_order(sides, count, make_row):
    """Joined side by side the pieces are the batch again; none is empty; an answer given instead stays with its row."""
    forget, preferred, retain = ([make_row(3, name=f"{s}{k}") for k in range(n)] for s, n in zip("fpr", sides, strict=True))
    batch = collate(forget, retain, preferred=preferred)
    pieces = cut(batch, count)
    sides = zip(*map(numbers, pieces), strict=True)
    assert [[n for part in side for n in part] for side in sides] == [forget, preferred, retain]
    assert all(len(piece) for piece in pieces)
    assert all(piece.preferred in (0, piece.forget) for piece in pieces)
    assert len(pieces) <= count


def test_a_share_without_rows_stays_one_piece():
    assert [len(piece) for piece in cut(collate([]), 4)] == [0]


def test_a_single_pair_cannot_be_halved(make_row):
    pieces = MicroBatches()
    window = [collate([make_row(3, name="f")], [make_row(3, name="r")])]
    with pytest.raises(ConfigError, match="one pair of rows at a time"):
        pieces.halve(window)


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
    ],
)
def test_only_a_lack_of_memory_is_taken_for_one(error, is_it):
    assert ran_out(error) is is_it
