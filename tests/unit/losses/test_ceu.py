"""CE-U. p: the model's distribution, q: the same without the token, held fixed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from deleatur.errors import ConfigError
from deleatur.losses import CEU
from deleatur.types import Reference, TokenOutputs

V = 37


def evaluate(loss, tokens, g) -> tuple[Tensor, Tensor]:
    """Its value and the gradient of the logits."""
    value = loss(tokens, g, Reference())
    return value.detach(), torch.autograd.grad(value, tokens.logits)[0]


def with_own(tokens: TokenOutputs, logit: float) -> TokenOutputs:
    """Each token has this logit, every other 0."""
    return replace(tokens, logits=(logit * one_hot(tokens.ids, V)).requires_grad_())


@pytest.fixture
def tokens(make_tokens) -> TokenOutputs:
    return make_tokens(logits=True)


def test_the_value_at_one_half(tokens):
    """p is ½ on the token and 1/72 on each of 36 others, q is 1/36 on those: −Σ q·log p = log 72."""
    value, _ = evaluate(CEU(), with_own(tokens, math.log(36)), torch.ones(9))
    assert value.item() == pytest.approx(9 * math.log(72), rel=1e-6)


def test_it_is_the_entropy_of_the_target_plus_what_the_token_takes_up(tokens):
    """q = p/(1 − p_token) elsewhere, so CE(q, p) = H(q) − log(1 − p_token)."""
    p = tokens.logits.detach().softmax(-1)
    own = p.gather(1, tokens.ids[:, None]).squeeze(1)
    q = p.scatter(1, tokens.ids[:, None], 0) / (1 - own)[:, None]
    value, _ = evaluate(CEU(), tokens, torch.ones(9))
    torch.testing.assert_close(value, (torch.special.entr(q).sum(1) - torch.log1p(-own)).sum())


def test_the_gradient_of_the_logits_is_p_minus_q(tokens):
    """So the target passes none; it falls only for the token, rises for every other, and sums to 0."""
    g = 0.1 + torch.rand(9, generator=torch.Generator().manual_seed(0))
    _, gradient = evaluate(CEU(), tokens, g)
    p, own = tokens.logits.detach().softmax(-1), one_hot(tokens.ids, V).bool()
    q = p.masked_fill(own, 0) / p.masked_fill(own, 0).sum(1, keepdim=True)
    torch.testing.assert_close(gradient, g[:, None] * (p - q))
    torch.testing.assert_close(gradient[own], g * p[own])  # q has no mass on the token
    assert (gradient[~own] <= 0).all()
    torch.testing.assert_close(gradient.sum(1), torch.zeros(9), rtol=0, atol=1e-6)


def test_a_token_that_is_forgotten_gets_no_gradient(tokens):
    _, gradient = evaluate(CEU(), with_own(tokens, -200.0), torch.ones(9))
    assert gradient.abs().max().item() < 1e-6


def test_a_token_that_is_sure_is_still_pushed(tokens):
    """p = 1 on it: where gradient ascent's pull on the logits, p·(1 − p), is gone, this one's is 1."""
    value, gradient = evaluate(CEU(), with_own(tokens, 200.0), torch.ones(9))
    assert torch.isfinite(value)
    torch.testing.assert_close(gradient.gather(1, tokens.ids[:, None]), torch.ones(9, 1))


def test_the_first_tokens_of_each_answer_are_skipped(tokens):
    """Answers of 3, 1 and 5: with one skipped the second has nothing left."""
    _, all_of_it = evaluate(CEU(), tokens, torch.ones(9))
    _, gradient = evaluate(CEU(skip=1), tokens, torch.ones(9))
    skipped = torch.tensor([1, 0, 0, 1, 1, 0, 0, 0, 0]).bool()
    assert torch.equal(gradient[skipped], torch.zeros(3, V))
    assert torch.equal(gradient[~skipped], all_of_it[~skipped])
    assert evaluate(CEU(skip=5), tokens, torch.ones(9))[0] == 0


def test_a_negative_skip_is_refused():
    with pytest.raises(ConfigError, match=r"loss\.skip is -1, but must be 0 or more"):
        CEU(skip=-1)
