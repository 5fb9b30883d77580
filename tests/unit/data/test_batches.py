"""Which rows meet in which step, and how they lie in a batch."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deleatur.data.batches import Schedule, collate, fine_tuning_batches, in_batches, step_windows
from deleatur.types import Encoded, Example


def rows(count: int, *, prefix: str = "f") -> list[Encoded]:
    """Rows of 2 to 6 tokens, no two alike."""
    return [
        Encoded(
            example=Example(id=f"{prefix}{k}", prompt=(("user", "?"),), answer="a"),
            ids=(k + 1,) * (k % 5 + 2),
            start=1 + k % 2 if k % 5 else 1,
            offsets=((0, 1),) * (k % 5 + 1 - (k % 2 if k % 5 else 0)),
        )
        for k in range(count)
    ]


def places(rows: Sequence[Encoded]) -> list[int]:
    """Where the rows stand in their data set."""
    return [int(row.example.id[1:]) for row in rows]


def dealt(forget: int = 12, retain: int = 20, **changed) -> list[list[tuple[tuple[int, int], ...]]]:
    """Pairs of a forget and a retain row, by batch and by window."""
    asked = {"epochs": 3, "batch": 4, "accumulate": 1, "seed": 0} | changed
    return [
        [tuple(zip(places(b.rows[: b.forget]), places(b.rows[b.forget + b.preferred :]), strict=True)) for b in window]
        for window in step_windows(rows(forget), rows(retain, prefix="r"), **scheduled(asked))
    ]


def scheduled(asked: dict) -> dict:
    """The schedule's settings as one object."""
    own = {f.name for f in fields(Schedule)} & asked.keys()
    return {"schedule": Schedule(**{n: asked[n] for n in own})} | {n: v for n, v in asked.items() if n not in own}


def pairs(dealt) -> list[tuple[int, int]]:
    return [pair for window in dealt for batch in window for pair in batch]


class TestCollate:
    def test_padding_is_on_the_right_and_scored_indices_point_at_scored_tokens(self):
        forget, retain = rows(3), rows(2, prefix="r")
        batch = collate(forget, retain)
        assert batch.forget == 3
        assert len(batch) == 5
        assert batch.ids.shape == (5, 4)
        expected = [i for row in [*forget, *retain] for i in row.ids[row.start :]]
        assert batch.ids.flatten()[batch.scored].tolist() == expected
        assert batch.sequence.tolist() == [b for b, r in enumerate([*forget, *retain]) for _ in r.ids[r.start :]]
        for ids, row in zip(batch.ids.tolist(), [*forget, *retain], strict=True):
            assert tuple(ids[: len(row.ids)]) == row.ids
            assert not any(ids[len(row.ids) :])

    def test_the_position_before_a_scored_token_is_in_its_own_row(self):
        """scored − 1 never reaches into the row above: the first token of a row is not scored."""
        batch = collate(rows(9))
        assert torch.equal((batch.scored - 1) // batch.ids.shape[1], batch.sequence)

    def test_a_batch_carries_its_rows_forget_preferred_retain(self):
        forget, instead, retain = (rows(2, prefix=p) for p in "fpr")
        batch = collate(forget, retain, preferred=instead)
        assert batch.rows == (*forget, *instead, *retain)
        assert (batch.forget, batch.preferred, len(batch)) == (2, 2, 6)
        assert collate(forget).rows == tuple(forget)
        assert collate(forget).preferred == 0


class TestWindows:
    @given(
        forget=st.integers(1, 30),
        retain=st.integers(1, 30),
        epochs=st.integers(1, 3),
        batch=st.integers(1, 9),
        accumulate=st.integers(1, 4),
        seed=st.integers(0, 9),
    )
    def test_every_forget_row_comes_once_an_epoch(self, forget, retain, epochs, batch, accumulate, seed):
        made = dealt(forget, retain, epochs=epochs, batch=batch, accumulate=accumulate, seed=seed)
        assert len(made) == epochs * -(-forget // (batch * accumulate))
        per_epoch = len(made) // epochs
        for e in range(epochs):
            seen = pairs(made[e * per_epoch : (e + 1) * per_epoch])
            assert sorted(f for f, _ in seen) == list(range(forget))
        assert all(len(batch_) <= batch for window in made for batch_ in window)
        assert all(len(window) <= accumulate for window in made)

    @given(forget=st.integers(1, 30), tokens=st.integers(1, 40), accumulate=st.integers(1, 3), seed=st.integers(0, 9))
    def test_a_budget_of_tokens_fills_batches_and_leaves_the_order_alone(self, forget, tokens, accumulate, seed):
        """The pairs of a count, in their order; a batch of several keeps the budget, and the next pair would not fit."""
        common = {"epochs": 1, "seed": seed, "accumulate": accumulate}
        made = dealt(forget, **common, tokens=tokens)
        assert pairs(made) == pairs(dealt(forget, **common))
        assert all(1 <= len(window) <= accumulate for window in made)
        lengths = [len(row.ids) for row in rows(30)]
        batches = [[lengths[f] + lengths[r] for f, r in batch] for window in made for batch in window]
        assert all(sum(batch) <= tokens or len(batch) == 1 for batch in batches)
        assert all(sum(this) + after[0] > tokens for this, after in itertools.pairwise(batches))

    def test_retain_rows_are_dealt_without_return_until_all_had_their_turn(self):
        """36 forget rows meet 20 retain rows: the first 20 are all of them once, the other 16 are 16 different ones."""
        partners = [r for _, r in pairs(dealt())]
        assert sorted(partners[:20]) == list(range(20))
        assert len(set(partners[20:])) == 16

    def test_a_forget_row_meets_other_partners_in_other_epochs(self):
        met = {f: {r for g, r in pairs(dealt(epochs=10)) if g == f} for f in range(12)}
        assert min(map(len, met.values())) > 3

    def test_the_same_seed_deals_the_same_and_another_seed_does_not(self):
        assert dealt(seed=3) == dealt(seed=3)
        assert dealt(seed=3) != dealt(seed=4)

    def test_accumulation_splits_the_same_rows_into_smaller_batches(self):
        """Windows of 8×1, 4×2 and 1×8 hold the same rows, in the same order."""
        whole = [pairs([w]) for w in dealt(batch=8)]
        assert [pairs([w]) for w in dealt(batch=4, accumulate=2)] == whole
        assert [pairs([w]) for w in dealt(batch=1, accumulate=8)] == whole

    @settings(max_examples=40)
    @given(forget=st.integers(1, 25), batch=st.integers(1, 9), accumulate=st.integers(1, 3), processes=st.integers(1, 4))
    def test_the_processes_shares_together_are_the_batch_of_one_process(self, forget, batch, accumulate, processes):
        """Each process takes part in every forward (they have to meet there), at times without a row of its own."""
        asked = {"batch": batch, "accumulate": accumulate, "epochs": 2}
        alone = dealt(forget, **asked)
        shares = [dealt(forget, **asked, process=p, processes=processes) for p in range(processes)]
        for window, *parts in zip(alone, *shares, strict=True):
            for whole, *mine in zip(window, *parts, strict=True):
                assert Counter(pair for part in mine for pair in part) == Counter(whole)

    def test_rows_are_shared_out_evenly(self):
        """A batch of four over two processes is two rows each."""
        assert all(len(batch) == 2 for window in dealt(process=1, processes=2) for batch in window)

    def test_an_idle_process_joins_with_a_batch_of_which_nothing_is_scored(self):
        """One forget row, two processes: the second has no row and must meet the first in the forward all the same."""
        asked = {"epochs": 1, "batch": 4, "accumulate": 1, "seed": 0, "processes": 2}
        (busy,), (idle,) = (next(step_windows(rows(1), rows(3, prefix="r"), **scheduled(asked), process=p)) for p in (0, 1))
        assert (busy.forget, len(busy)) == (1, 2)
        assert (idle.forget, len(idle), len(idle.scored)) == (0, 0, 0)
        assert idle.ids.numel() > 0


class TestTold:
    def test_every_row_comes_once_an_epoch_and_none_is_to_forget(self):
        made = list(fine_tuning_batches(rows(10), epochs=3, batch=4, seed=0))
        assert all(len(window) == 1 and window[0].forget == 0 for window in made)
        assert [len(window[0]) for window in made] == [4, 4, 2] * 3
        met = [place for (batch,) in made for place in places(batch.rows)]
        assert all(sorted(met[e * 10 : e * 10 + 10]) == list(range(10)) for e in range(3))

    def test_the_order_is_the_seeds(self):
        orders = [[b.rows for (b,) in fine_tuning_batches(rows(10), epochs=1, batch=4, seed=s)] for s in (0, 0, 1)]
        assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_in_batches_gives_every_row_with_its_place_the_prompts_of_short_ones_first(size):
    some = rows(11)
    made = list(in_batches(some, size))
    assert sorted(k for places, _ in made for k in places) == list(range(11))
    assert [len(some[k].ids) for places, _ in made for k in places] == sorted(len(r.ids) for r in some)  # no prompt twice
    assert all(batch.rows == tuple(some[k] for k in places) and len(places) <= size for places, batch in made)


def test_in_batches_keeps_the_answers_to_a_prompt_together():
    """Prompts of tokens 1, 2 and 3, whose longest rows have 5, 7 and 6 tokens, each with a short answer as well."""
    shapes = [(1, 2), (2, 7), (3, 6), (1, 5), (2, 2), (3, 2)]
    some = [replace(rows(1)[0], ids=(p,) * n, start=1, offsets=((0, 1),) * (n - 1)) for p, n in shapes]
    assert [places for places, _ in in_batches(some, 2)] == [[0, 3], [5, 2], [4, 1]]
