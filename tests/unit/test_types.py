"""What travels between the parts: outputs are split and joined without a number changing."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deleatur.types import Batch, Encoded, Example, TokenOutputs

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=6)


def equal(a: TokenOutputs, b: TokenOutputs) -> bool:
    return a.keys == b.keys and all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("nll", "hidden", "sequence"))


@given(LENGTHS, st.data())
def test_split_and_join_are_inverse(make_tokens, lengths, data):
    tokens = make_tokens(lengths).detach()
    first = data.draw(st.integers(0, len(lengths)))
    a, b = tokens.split(first)
    assert (len(a.keys), len(b.keys)) == (first, len(lengths) - first)
    assert a.sequence.unique().tolist() == list(range(first))
    assert b.sequence.unique().tolist() == list(range(len(lengths) - first))
    assert equal(TokenOutputs.join([a, b]), tokens)


def test_split_takes_requested_extras_along_and_join_drops_them(make_tokens):
    tokens = make_tokens((2, 3)).detach()
    full = dataclasses.replace(tokens, hit=tokens.nll > 3, logits=torch.randn(5, 7))
    a, b = full.split(1)
    assert torch.equal(torch.cat([a.hit, b.hit]), full.hit)
    assert torch.equal(torch.cat([a.logits, b.logits]), full.logits)
    joined = TokenOutputs.join([a, b])
    assert joined.hit is None
    assert joined.logits is None


def test_detached_outputs_are_the_same_numbers_held_fixed(make_tokens):
    tokens = make_tokens()
    assert tokens.nll.requires_grad
    assert not tokens.detach().nll.requires_grad
    assert equal(tokens.detach(), tokens)


def test_a_batch_knows_its_rows_and_moves_whole():
    batch = Batch(ids=torch.zeros(2, 3).long(), scored=torch.tensor([1]), sequence=torch.tensor([0]), forget=1, keys=(4, 2))
    moved = batch.to(torch.device("meta"))
    assert len(batch) == len(moved) == 2
    assert {t.device.type for t in (moved.ids, moved.scored, moved.sequence)} == {"meta"}
    assert (moved.forget, moved.keys) == (1, (4, 2))


@pytest.mark.parametrize("prompt", [(("user", "Who?"),), (("user", "Hi."), ("assistant", "Hi."), ("user", "Who?"))])
def test_the_question_is_the_last_thing_asked(prompt):
    assert Example(id="1", prompt=prompt, answer="Ada").question == "Who?"


def test_a_text_asks_nothing():
    example = Example(id="1", prompt=(), answer="Ada")
    assert example.question == ""
    assert Encoded(example=example, ids=(1, 2), start=1, offsets=((0, 3),)).gold is None
