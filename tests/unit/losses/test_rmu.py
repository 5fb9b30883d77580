"""RMU. h: state of a token in a middle layer, u: the direction, c: how far along it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from deleatur.errors import ConfigError
from deleatur.losses import RMU
from deleatur.types import Reference, TokenOutputs

D = 4


def evaluate(loss, tokens, g) -> tuple[Tensor, Tensor]:
    """Its value and the gradient of the layer's states."""
    value = loss(tokens, g, Reference())
    return value.detach(), torch.autograd.grad(value, tokens.layer)[0]


def at(tokens: TokenOutputs, states: Tensor) -> TokenOutputs:
    """The same tokens with other states."""
    return replace(tokens, layer=states.expand(len(tokens.nll), D).clone().requires_grad_())


def target(loss: RMU, tokens: TokenOutputs) -> Tensor:
    """c·u, read off the gradient at h = 0, which is −2·c·u/D."""
    gradient = evaluate(loss, at(tokens, torch.zeros(D)), torch.ones(len(tokens.nll)))[1]
    return -gradient[0] * D / 2


@pytest.fixture
def tokens(make_tokens) -> TokenOutputs:
    return make_tokens(layer=D)


def test_a_state_of_zero_costs_the_squared_coefficient_over_the_width(tokens):
    """mean((0 − c·u)²) = c²·‖u‖²/D = 20²/4 = 100 for each of nine tokens."""
    value, _ = evaluate(RMU(coefficient=20.0), at(tokens, torch.zeros(D)), torch.ones(9))
    assert value.item() == pytest.approx(900, rel=1e-6)


def test_the_direction_has_length_one_and_no_negative_entry(tokens):
    found = target(RMU(coefficient=6.5), tokens)
    assert found.norm().item() == pytest.approx(6.5, rel=1e-6)
    assert (found > 0).all()


def test_the_loss_is_minimal_at_the_target(tokens):
    loss = RMU(coefficient=6.5)
    value, gradient = evaluate(loss, at(tokens, target(loss, tokens)), torch.ones(9))
    assert value.item() < 1e-10
    assert gradient.abs().max().item() < 1e-5


def test_the_gradient_points_from_the_target(tokens):
    """2·g·(h − c·u)/D, so the target is held fixed and each token pulls at its own state only."""
    loss, g = RMU(coefficient=6.5), torch.rand(9, generator=torch.Generator().manual_seed(0))
    _, gradient = evaluate(loss, tokens, g)
    torch.testing.assert_close(gradient, 2 / D * g[:, None] * (tokens.layer.detach() - target(loss, tokens)))


def test_the_same_seed_gives_the_same_direction_whatever_was_drawn_before(tokens):
    torch.manual_seed(1)
    before = target(RMU(seed=3), tokens)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(target(RMU(seed=3), tokens), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.allclose(target(RMU(seed=4), tokens), before)


def test_the_coefficient_only_scales_the_target(tokens):
    torch.testing.assert_close(target(RMU(coefficient=40.0), tokens), 2 * target(RMU(coefficient=20.0), tokens))


@pytest.mark.parametrize("setting", [{"layer": -1}, {"coefficient": 0.0}, {"coefficient": float("inf")}])
def test_what_makes_no_sense_is_refused_in_one_line(setting):
    with pytest.raises(ConfigError, match=rf"loss\.{next(iter(setting))} is .*, but must be ") as refused:
        RMU(**setting)
    assert "\n" not in str(refused.value)
