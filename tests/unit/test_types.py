"""What travels between the parts: outputs are split and joined without a number changing."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deleatur.types import Batch, Encoded, Example, TokenOutputs, TokenStatistics

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=6)


def equal(a: TokenOutputs, b: TokenOutputs) -> bool:
    return a.rows == b.rows and all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("nll", "hidden", "sequence"))


@given(LENGTHS, st.data())
def test_split_and_join_are_inverse(make_tokens, lengths, data):
    tokens = make_tokens(lengths).detach()
    first = data.draw(st.integers(0, len(lengths)))
    a, b = tokens.split(first)
    assert (len(a.rows), len(b.rows)) == (first, len(lengths) - first)
    assert a.sequence.unique().tolist() == list(range(first))
    assert b.sequence.unique().tolist() == list(range(len(lengths) - first))
    assert equal(TokenOutputs.join([a, b]), tokens)


def test_split_takes_requested_extras_along_and_join_drops_them(make_tokens):
    tokens = make_tokens((2, 3)).detach()
    said = TokenStatistics(tokens.nll, tokens.nll > 3, -tokens.nll, tokens.nll + 1)
    full = dataclasses.replace(tokens, statistics=said, logits=torch.randn(5, 7), layer=torch.randn(5, 4))
    a, b = full.split(1)
    for column in range(4):
        assert torch.equal(torch.cat([a.statistics[column], b.statistics[column]]), said[column])
    assert TokenOutputs.join([a, b]).statistics is None
    for extra in ("logits", "layer"):
        assert len(getattr(a, extra)) == 2
        assert torch.equal(torch.cat([getattr(a, extra), getattr(b, extra)]), getattr(full, extra))
        assert getattr(TokenOutputs.join([a, b]), extra) is None


def test_detached_outputs_are_the_same_numbers_held_fixed(make_tokens):
    tokens = make_tokens(logits=True, layer=4)
    fixed = tokens.detach()
    for name in ("nll", "logits", "layer"):
        assert getattr(tokens, name).requires_grad
        assert not getattr(fixed, name).requires_grad
        assert torch.equal(getattr(fixed, name), getattr(tokens, name))
    assert equal(fixed, tokens)


def test_ids_are_the_scored_tokens_of_the_rows(make_tokens):
    """Each row's ids from its first scored token on, one after the other; still so for what is split off."""
    tokens = make_tokens((3, 1, 5))
    by_row = [list(row.ids[row.start :]) for row in tokens.rows]
    assert list(map(len, by_row)) == [3, 1, 5]
    assert tokens.ids.tolist() == [i for row in by_row for i in row]
    assert tokens.split(1)[1].ids.tolist() == by_row[1] + by_row[2]


def test_a_batch_keeps_its_rows_and_moves_to_a_device(make_tokens):
    rows = make_tokens((1, 1)).rows
    batch = Batch(
        ids=torch.zeros(2, 3).long(), scored=torch.tensor([1]), sequence=torch.tensor([0]), forget=1, rows=rows, preferred=1
    )
    moved = batch.to(torch.device("meta"))
    assert len(batch) == len(moved) == 2
    assert {t.device.type for t in (moved.ids, moved.scored, moved.sequence)} == {"meta"}
    assert (moved.forget, moved.preferred, moved.rows) == (1, 1, rows)


@pytest.mark.parametrize("prompt", [(("user", "Who?"),), (("user", "Hi."), ("assistant", "Hi."), ("user", "Who?"))])
def test_the_question_is_the_last_turn(prompt):
    assert Example(id="1", prompt=prompt, answer="Ada").question == "Who?"


def test_a_text_has_no_question():
    example = Example(id="1", prompt=(), answer="Ada")
    assert example.question == ""
    assert Encoded(example=example, ids=(1, 2), start=1, offsets=((0, 3),)).gold is None
