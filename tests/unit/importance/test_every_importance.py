"""What holds for every importance that is read off the step's own tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from deleatur.importance import ETW, IMPORTANCES, WGA, SatImp, Uniform
from deleatur.types import TokenOutputs

LENGTHS, ORDER = (3, 1, 5, 2), (2, 0, 3, 1)
READ_OFF = [Uniform(), WGA(beta=2.0), SatImp(beta1=2.0, beta2=0.5), ETW()]


def taken(tokens: TokenOutputs, order: tuple[int, ...]) -> tuple[TokenOutputs, torch.Tensor]:
    """Some of the sequences in an order of their own, and where their tokens stood."""
    places = torch.cat([torch.arange(sum(LENGTHS)).split(LENGTHS)[i] for i in order])
    lengths = torch.tensor([LENGTHS[i] for i in order])
    moved = replace(
        tokens,
        nll=tokens.nll[places],
        hidden=tokens.hidden[places],
        logits=tokens.logits[places],
        sequence=torch.repeat_interleave(torch.arange(len(order)), lengths),
        rows=tuple(tokens.rows[i] for i in order),
    )
    return moved, places


def test_they_are_all_that_neither_prepare_nor_learn():
    others = {c for n, c in IMPORTANCES.items() if n != "learned" and not hasattr(c, "prepare")}
    assert others == {type(importance) for importance in READ_OFF}


@pytest.mark.parametrize("importance", READ_OFF, ids=repr)
class TestReadOff:
    def test_permuting_the_batch_permutes_the_importance(self, make_tokens, importance):
        tokens = make_tokens(LENGTHS, logits=True)
        moved, places = taken(tokens, ORDER)
        torch.testing.assert_close(importance(moved), importance(tokens)[places])

    def test_a_sequence_alone_has_the_importance_it_has_among_others(self, make_tokens, importance):
        tokens = make_tokens(LENGTHS, logits=True)
        for i in range(len(LENGTHS)):
            alone, places = taken(tokens, (i,))
            torch.testing.assert_close(importance(alone), importance(tokens)[places])

    def test_it_is_held_fixed(self, make_tokens, importance):
        tokens = make_tokens(LENGTHS, logits=True)
        assert tokens.nll.requires_grad
        assert not importance(tokens).requires_grad

    def test_it_is_never_below_zero(self, make_tokens, importance):
        assert bool((importance(make_tokens(LENGTHS, logits=True)) >= 0).all())

    def test_no_tokens_have_no_importance(self, make_tokens, importance):
        """A process whose share of a batch is empty still asks."""
        nothing, _ = make_tokens(LENGTHS, logits=True).split(0)
        assert importance(nothing).tolist() == []
