"""Parts of a run that are small enough to be looked at alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deleatur.commands.evaluator import precision_of
from deleatur.data.spacing import evenly_spaced
from deleatur.importance import Learned, Uniform
from deleatur.modeling.token_model import TokenModel
from deleatur.types import Encoded, Example

SOME = [Encoded(example=Example(id="x", prompt=(), answer="a"), ids=(k, 0), start=1, offsets=((0, 1),)) for k in range(300)]
ROWS = {"model": "m", "forget": "f", "retain": "r"}


@given(st.integers(0, 300), st.integers(1, 300))
def test_rows_are_taken_evenly_in_their_order(count, most):
    """At most so many, all different, the first one always among them, with gaps that differ by one at most."""
    taken = [row.ids[0] for row in evenly_spaced(SOME[:count], most)]
    assert len(taken) == min(count, most)
    assert taken == sorted(set(taken))
    assert taken[:1] == list(range(count))[:1]
    gaps = {b - a for a, b in pairwise(taken)}
    assert len(gaps) < 2 or max(gaps) - min(gaps) == 1


class TestPrecision:
    def test_a_bf16_model_is_evaluated_in_fp32_and_restored_afterwards(self, make_llama):
        lm = make_llama().bfloat16()
        before = [p.clone() for p in lm.parameters()]
        with precision_of(TokenModel(lm).prepare(), "fp32"):
            assert lm.dtype == torch.float32
        assert lm.dtype == torch.bfloat16
        assert all(torch.equal(a, b) for a, b in zip(before, lm.parameters(), strict=True))

    def test_the_frequencies_of_positions_are_not_rounded(self, make_llama):
        """They are fp32 in a model of bf16 weights; a whole model sent there and back would come back with them rounded."""
        lm = make_llama().to(torch.float32)
        for p in lm.parameters():
            p.data = p.data.bfloat16()
        before = {name: b.clone() for name, b in lm.named_buffers()}
        assert any(b.dtype == torch.float32 for b in before.values())
        with precision_of(TokenModel(lm).prepare(), "fp32"):
            assert all(torch.equal(b, before[name]) for name, b in lm.named_buffers())
        assert all(b.dtype == before[name].dtype and torch.equal(b, before[name]) for name, b in lm.named_buffers())

    def test_it_is_what_it_was_after_an_error_too(self, make_llama):
        lm = make_llama().bfloat16()
        with pytest.raises(KeyboardInterrupt), precision_of(TokenModel(lm).prepare(), "fp32"):
            raise KeyboardInterrupt
        assert lm.dtype == torch.bfloat16

    def test_an_fp32_model_is_unchanged(self, llama):
        with precision_of(TokenModel(llama).prepare(), "fp32"):
            assert llama.dtype == torch.float32
        assert llama.dtype == torch.float32

    def test_an_fp32_model_is_evaluated_in_bf16_where_that_is_set(self, llama):
        """Products are rounded to 8 bits, the weights are not touched."""
        ids, weights = torch.arange(3, 9)[None], [p.clone() for p in llama.parameters()]
        exact = llama(ids).logits
        with precision_of(TokenModel(llama).prepare(), "bf16"):
            rough = llama(ids).logits
        assert rough.dtype == torch.bfloat16
        assert 0 < float((rough.float() - exact).norm() / exact.norm()) < 0.05
        assert all(torch.equal(a, b) for a, b in zip(weights, llama.parameters(), strict=True))


def test_the_state_is_the_one_that_the_importance_reads():
    assert Learned(state="predicting").requires.hidden_state == "predicting"
    assert Uniform().requires.hidden_state == "own"
