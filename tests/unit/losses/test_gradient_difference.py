"""Gradient difference and its saturated form. l: NLL of a token, g: its importance, β: saturation."""

from __future__ import annotations

import pytest
import torch

from deleatur.errors import ConfigError
from deleatur.importance import WGA, Uniform
from deleatur.losses import GradientDifference
from deleatur.types import Reference


def importance(tokens, seed: int = 1) -> torch.Tensor:
    return torch.rand(len(tokens.nll), generator=torch.Generator().manual_seed(seed))


def evaluate(loss, tokens, g) -> tuple[torch.Tensor, torch.Tensor]:
    """Its value and the gradient of NLL."""
    value = loss(tokens, g, Reference())  # which raises where it is asked
    return value.detach(), torch.autograd.grad(value, tokens.nll)[0]


def test_without_saturation_it_is_minus_the_weighted_sum(make_tokens):
    """−Σ g·l, with gradient −g."""
    tokens = make_tokens()
    g = importance(tokens)
    value, gradient = evaluate(GradientDifference(), tokens, g)
    torch.testing.assert_close(value, -(g * tokens.nll).sum().detach())
    torch.testing.assert_close(gradient, -g)


def test_with_importance_one_it_is_plain_gradient_ascent(make_tokens):
    tokens = make_tokens()
    value, gradient = evaluate(GradientDifference(), tokens, Uniform()(tokens))
    torch.testing.assert_close(value, -tokens.nll.sum().detach())
    assert torch.equal(gradient, -torch.ones(9))


@pytest.mark.parametrize("beta", [0.5, 1.0, 7.37])
def test_the_saturated_form_is_the_formula_and_its_fade_is_held_fixed(make_tokens, beta):
    """−Σ g·l·exp(−g·l)^β, with gradient −g·exp(−g·l)^β: the fade passes none. (If it did there would be a term g²·β·l.)"""
    tokens = make_tokens()
    g, nll = importance(tokens), tokens.nll.detach()
    value, gradient = evaluate(GradientDifference(saturation=beta), tokens, g)
    torch.testing.assert_close(value, -sum(a * b * (-a * b).exp() ** beta for a, b in zip(g, nll, strict=True)))
    torch.testing.assert_close(gradient, -g * (-g * nll).exp() ** beta)


@pytest.mark.parametrize("beta", [0.5, 5.0])
def test_saturation_with_importance_one_is_wga_without_saturation(make_tokens, beta):
    """exp(−l)^β = p^β: value and gradient are the same either way."""
    tokens = make_tokens()
    saturated = evaluate(GradientDifference(saturation=beta), tokens, Uniform()(tokens))
    weighted = evaluate(GradientDifference(), tokens, WGA(beta=beta)(tokens))
    for a, b in zip(saturated, weighted, strict=True):
        torch.testing.assert_close(a, b)


def test_a_token_that_is_forgotten_gets_no_gradient(make_tokens):
    """At l = 30 nats, g = ½ and β = 5 the pull is ½·exp(−75), which is nothing."""
    tokens = make_tokens((2,), nll=torch.tensor([0.1, 30.0]))
    _, gradient = evaluate(GradientDifference(saturation=5.0), tokens, torch.full((2,), 0.5))
    assert gradient[0] < -0.3
    assert gradient[1].abs() < 1e-30


def test_a_token_of_no_importance_gets_no_gradient(make_tokens):
    tokens = make_tokens((3,))
    _, gradient = evaluate(GradientDifference(saturation=2.0), tokens, torch.tensor([1.0, 0.0, 1.0]))
    assert gradient[1] == 0
    assert (gradient[[0, 2]] < 0).all()


def test_the_order_of_tokens_changes_nothing(make_tokens):
    tokens, order = make_tokens((9,)), torch.randperm(9, generator=torch.Generator().manual_seed(0))
    g = importance(tokens)
    value, gradient = evaluate(GradientDifference(saturation=3.0), tokens, g)
    shuffled = make_tokens((9,), nll=tokens.nll[order])
    other, moved = evaluate(GradientDifference(saturation=3.0), shuffled, g[order])
    torch.testing.assert_close(other, value)
    torch.testing.assert_close(moved, gradient[order])


def test_the_sum_over_a_batch_is_the_sum_over_its_parts(make_tokens):
    """Sums are divided by the loop, so how rows are dealt into batches cannot bias them."""
    tokens = make_tokens((2, 7, 1, 4))
    g = importance(tokens)
    first, rest = tokens.split(2)
    parts = [evaluate(GradientDifference(saturation=1.0), t, w)[0] for t, w in ((first, g[:9]), (rest, g[9:]))]
    torch.testing.assert_close(sum(parts), evaluate(GradientDifference(saturation=1.0), tokens, g)[0])


@pytest.mark.parametrize("saturation", [-0.1, float("nan"), -float("inf")])
def test_a_saturation_below_zero_is_refused(saturation):
    with pytest.raises(ConfigError, match=r"loss\.saturation is .*, but must be 0 or more"):
        GradientDifference(saturation=saturation)
