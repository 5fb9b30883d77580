"""Sums within sequences."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from deleatur.objective import lengths, per_sequence

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=6)


@given(LENGTHS)
def test_values_are_summed_within_their_sequences(make_tokens, counts):
    tokens = make_tokens(counts)
    torch.testing.assert_close(per_sequence(tokens.nll, tokens), torch.stack([p.sum() for p in tokens.nll.split(counts)]))
    assert lengths(tokens).tolist() == counts


def test_the_gradient_of_a_sum_is_one_for_each_of_its_tokens(make_tokens):
    tokens = make_tokens((2, 3))
    per_sequence(tokens.nll, tokens)[1].backward()
    assert tokens.nll.grad.tolist() == [0, 0, 1, 1, 1]


def test_no_sequences_have_no_sums(make_tokens):
    nothing, _ = make_tokens((2, 3)).split(0)
    assert per_sequence(nothing.nll, nothing).shape == lengths(nothing).shape == (0,)
