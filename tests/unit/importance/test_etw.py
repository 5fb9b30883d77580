"""ETW, n·H / ΣH within each sequence, H the entropy of the prediction."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deleatur.importance import ETW
from deleatur.types import TokenOutputs


def among(words: list[int], vocabulary: int = 64) -> torch.Tensor:
    """Logits of a token that may equally be any of the first so many words, and is none of the others: H is their log."""
    return torch.stack([torch.where(torch.arange(vocabulary) < m, 0.0, -1e4) for m in words])


def said(make_tokens, lengths, logits: torch.Tensor) -> TokenOutputs:
    return replace(make_tokens(lengths), logits=logits)


def test_values_by_hand(make_tokens):
    """Of 4, 2 and 1 words: H = 2·log 2, log 2, 0, sum 3·log 2, so 3·H/ΣH = 2, 1, 0. In a sequence of its own, 8 and 2 words:
    H = 3·log 2, log 2, so 2·H/ΣH = 3/2, 1/2."""
    found = ETW()(said(make_tokens, (3, 2), among([4, 2, 1, 8, 2])))
    torch.testing.assert_close(found, torch.tensor([2.0, 1.0, 0.0, 1.5, 0.5]))


def test_an_uneven_prediction_by_hand(make_tokens):
    """p = (3/4, 1/4): H = 2·log 2 − (3/4)·log 3 = 0.56234; beside H = log 2 = 0.69315 the shares of 2 are 0.89581 and
    1.10419."""
    logits = torch.tensor([[3.0, 1.0], [1.0, 1.0]]).log()
    torch.testing.assert_close(ETW()(said(make_tokens, (2,), logits)), torch.tensor([0.89581, 1.10419]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("vocabulary", [2, 37, 257])
def test_where_nothing_is_known_all_tokens_matter_alike(make_tokens, vocabulary):
    """Uniform predictions have equal entropies."""
    found = ETW()(said(make_tokens, (3, 1, 5), torch.zeros(9, vocabulary)))
    torch.testing.assert_close(found, torch.ones(9))


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_the_mean_within_each_sequence_is_one(make_tokens, lengths, seed):
    """Σ n·H/ΣH = n."""
    found = ETW()(make_tokens(lengths, logits=True, seed=seed)).split(lengths)
    torch.testing.assert_close(torch.stack([g.mean() for g in found]), torch.ones(len(lengths)))


def test_the_scale_of_entropies_changes_nothing(make_tokens):
    """Among m² words H is twice what it is among m."""
    found = [ETW()(said(make_tokens, (3,), among(words))) for words in ([2, 4, 8], [4, 16, 64])]
    torch.testing.assert_close(*found)


def test_a_constant_added_to_a_tokens_logits_changes_nothing(make_tokens):
    tokens = make_tokens(logits=True)
    moved = replace(tokens, logits=tokens.logits + torch.arange(9.0).unsqueeze(-1))
    torch.testing.assert_close(ETW()(moved), ETW()(tokens), rtol=1e-5, atol=1e-6)


def test_a_sequence_of_one_token_has_importance_one(make_tokens):
    torch.testing.assert_close(ETW()(make_tokens((1,), logits=True)), torch.ones(1))


def test_a_sequence_without_doubt_has_importance_zero(make_tokens):
    """H = 0 everywhere: 0/0 is taken as 0; the next sequence is as it was."""
    assert ETW()(said(make_tokens, (2, 1), among([1, 1, 5]))).tolist() == [0.0, 0.0, 1.0]


def test_the_logits_of_a_model_in_bf16_are_widened_first(make_tokens):
    """Among 4, 2 and 1 words as above: 0 and −1e4 are near enough in bf16 for the same words to remain."""
    found = ETW()(said(make_tokens, (3,), among([4, 2, 1]).bfloat16()))
    torch.testing.assert_close(found, torch.tensor([2.0, 1.0, 0.0]))


def test_it_is_held_fixed_and_asks_for_the_logits(make_tokens):
    tokens = make_tokens(logits=True)
    assert tokens.logits.requires_grad
    assert not ETW()(tokens).requires_grad
    assert ETW.requires.logits


def test_without_logits_it_says_so(make_tokens):
    with pytest.raises(LookupError, match="did not compute this output"):
        ETW()(make_tokens())
