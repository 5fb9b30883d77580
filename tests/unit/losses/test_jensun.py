"""JensUn. q: the probability that the model gives to the refusal's token."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import one_hot

from deleatur.errors import ConfigError
from deleatur.losses import JensUn
from deleatur.losses.reductions import js
from deleatur.types import Reference, TokenOutputs

V = 37


def with_logits(tokens: TokenOutputs, logits: Tensor) -> TokenOutputs:
    return replace(tokens, logits=logits.float().requires_grad_())


def each(loss: JensUn, tokens: TokenOutputs) -> list[float]:
    """What each token costs."""
    return [loss(tokens, g, Reference()).item() for g in torch.eye(len(tokens.nll))]


@pytest.fixture
def tokens(make_tokens) -> TokenOutputs:
    return make_tokens(logits=True)


def test_the_value_at_one_half(tokens):
    """Half on the target, 1/72 on each of 36 others; the mean of both has ¾ on it and half of p elsewhere.

    KL(p‖m) = ½·log(½/¾) + ½·log 2 = ½·log(4/3) and KL(onehot‖m) = log(4/3): half their sum is ¾·log(4/3).
    """
    sure = with_logits(tokens, math.log(36) * one_hot(torch.full((9,), 4), V))
    assert each(JensUn(ids=(4,)), sure) == pytest.approx([0.75 * math.log(4 / 3)] * 9, rel=1e-5)


def test_it_is_zero_where_the_refusal_is_sure_and_log_two_where_it_cannot_be(tokens):
    sure = with_logits(tokens, 300 * one_hot(torch.full((9,), 4), V))
    assert each(JensUn(ids=(4,)), sure) == pytest.approx([0.0] * 9, abs=1e-6)
    assert each(JensUn(ids=(5,)), sure) == pytest.approx([math.log(2)] * 9, rel=1e-6)


@given(spread=st.floats(0, 100), seed=st.integers(0, 99))
def test_a_token_costs_between_zero_and_log_two(make_tokens, spread, seed):
    drawn = make_tokens((5,), logits=True, seed=seed)
    costs = each(JensUn(ids=(4, 31)), with_logits(drawn, spread * drawn.logits.detach()))
    assert all(-1e-6 <= cost <= math.log(2) + 1e-6 for cost in costs)


def test_the_closed_form_is_the_divergence_from_a_one_hot(tokens):
    """In value and in gradient."""
    certain = 1e4 * one_hot(torch.full((9,), 4), V).float()
    full = js(tokens.logits, certain).sum()
    closed = JensUn(ids=(4,))(tokens, torch.ones(9), Reference())
    torch.testing.assert_close(closed, full)
    torch.testing.assert_close(*(torch.autograd.grad(x, tokens.logits)[0] for x in (closed, full)), rtol=1e-4, atol=1e-6)


def test_its_gradient_raises_the_refusal_and_lowers_the_rest(tokens):
    gradient = torch.autograd.grad(JensUn(ids=(4,))(tokens, torch.ones(9), Reference()), tokens.logits)[0]
    assert (gradient[:, 4] < 0).all()
    assert (gradient[:, :4] > 0).all()
    assert (gradient[:, 5:] > 0).all()


def test_the_refusal_is_repeated_along_each_answer_from_its_start(tokens):
    """Two tokens over answers of 3, 1 and 5: a b a · a · a b a b a."""
    a, b = 7, 20
    said = torch.tensor([a, b, a, a, a, b, a, b, a])
    assert each(JensUn(ids=(a, b)), with_logits(tokens, 300 * one_hot(said, V))) == pytest.approx([0.0] * 9, abs=1e-6)


def test_a_refusal_longer_than_the_answer_is_cut(tokens):
    said = torch.tensor([1, 2, 3, 1, 1, 2, 3, 4, 5])
    long = JensUn(ids=(1, 2, 3, 4, 5, 6))
    assert each(long, with_logits(tokens, 300 * one_hot(said, V))) == pytest.approx([0.0] * 9, abs=1e-6)


def test_it_takes_its_targets_tokens_from_the_model_unless_given():
    asked = []
    encode = lambda text: asked.append(text) or [3, 9]  # noqa: E731
    assert JensUn(target="Who knows").tokenized(encode) == JensUn(target="Who knows", ids=(3, 9))
    assert asked == ["Who knows"]
    assert JensUn(ids=(1,)).tokenized(encode) == JensUn(ids=(1,))
    assert asked == ["Who knows"]


@pytest.mark.parametrize("target", ["", " \n"])
def test_a_target_of_no_text_is_refused(target):
    with pytest.raises(ConfigError, match=r"loss\.target is .*, but must be a text"):
        JensUn(target=target)
