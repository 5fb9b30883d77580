"""NPO without a reference. l: NLL of a token, m: the mean NLL of an answer."""

from __future__ import annotations

import math

import pytest
import torch

from deleatur.errors import ConfigError
from deleatur.losses import SimNPO
from deleatur.types import Reference

ONES = torch.ones(9)


def evaluate(loss, tokens, g) -> tuple[torch.Tensor, torch.Tensor]:
    """Its value and the gradient of NLL; no reference is there."""
    value = loss(tokens, g, Reference())
    return value.detach(), torch.autograd.grad(value, tokens.nll)[0]


def test_the_value_of_two_short_answers(make_tokens):
    """NLLs of 1 and 3, and of 2: both means are 2. At β = 1 each gives −2·log σ(2) = 2·log(1 + e^−2)."""
    tokens = make_tokens((2, 1), nll=torch.tensor([1.0, 3.0, 2.0]))
    value, _ = evaluate(SimNPO(beta=1.0), tokens, torch.ones(3))
    assert value.item() == pytest.approx(4 * math.log1p(math.exp(-2)), rel=1e-6)


def test_the_margin_is_taken_off_in_nats_times_beta(make_tokens):
    """β·m = 2.5·2 against δ = 5: σ(0), so (2/2.5)·log 2, and a pull of −2·σ(0)/n = −½ on each of two tokens."""
    tokens = make_tokens((2,), nll=torch.tensor([1.0, 3.0]))
    value, gradient = evaluate(SimNPO(beta=2.5, delta=5.0), tokens, torch.ones(2))
    assert value.item() == pytest.approx(0.8 * math.log(2), rel=1e-6)
    torch.testing.assert_close(gradient, torch.tensor([-0.5, -0.5]))


def test_scale_two_with_importance_a_half_is_plain(make_tokens):
    """The learned importance before its first turn."""
    tokens = make_tokens()
    for a, b in zip(evaluate(SimNPO(scale=2.0), tokens, ONES / 2), evaluate(SimNPO(), tokens, ONES), strict=True):
        assert torch.equal(a, b)


def test_importance_is_not_rescaled(make_tokens):
    """A half everywhere halves the mean: as if every NLL were half of what it is."""
    tokens = make_tokens()
    halved = make_tokens(nll=tokens.nll.detach() / 2)
    torch.testing.assert_close(evaluate(SimNPO(), tokens, ONES / 2)[0], evaluate(SimNPO(), halved, ONES)[0])


def test_an_answer_said_twice_counts_as_said_once(make_tokens):
    """Only the mean counts, so long answers weigh no more than short ones."""
    once = make_tokens((3,))
    twice = make_tokens((6,), nll=once.nll.detach().repeat(2))
    torch.testing.assert_close(evaluate(SimNPO(), twice, torch.ones(6))[0], evaluate(SimNPO(), once, torch.ones(3))[0])


def test_it_tends_to_gradient_ascent_on_the_mean_as_beta_tends_to_zero(make_tokens):
    """The gradient is −(2/n)·σ(−β·m) → −1/n, its distance from that falling linearly with β."""
    tokens = make_tokens()
    ascent = -1 / torch.tensor([3.0, 1.0, 5.0])[tokens.sequence]
    far = [(evaluate(SimNPO(beta=beta), tokens, ONES)[1] - ascent).abs().max().item() for beta in (1e-1, 1e-2, 1e-3)]
    assert far[2] < 1e-2
    assert far[1] / far[2] == pytest.approx(10, rel=0.05)


def test_a_forgotten_answer_gets_no_gradient_and_a_margin_delays_that(make_tokens):
    """At β·m = 60 the pull is 2·σ(−60); with δ = 60 it is 2·σ(0) = 1."""
    tokens = make_tokens((1,), nll=torch.tensor([60.0]))
    assert evaluate(SimNPO(beta=1.0), tokens, torch.ones(1))[1].abs() < 1e-24
    torch.testing.assert_close(evaluate(SimNPO(beta=1.0, delta=60.0), tokens, torch.ones(1))[1], torch.tensor([-1.0]))


@pytest.mark.parametrize(
    "setting", [{"beta": 0.0}, {"beta": float("nan")}, {"delta": -0.1}, {"scale": 0.0}, {"scale": -2.0}]
)
def test_what_makes_no_sense_is_refused_in_one_line(setting):
    with pytest.raises(ConfigError, match=rf"loss\.{next(iter(setting))} is .*, but must be ") as refused:
        SimNPO(**setting)
    assert "\n" not in str(refused.value)
