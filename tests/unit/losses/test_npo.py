"""Negative preference optimisation. l: NLL of a token, w: its importance rescaled to sum to its sequence's length."""

from __future__ import annotations

import math

import pytest
import torch

from deleatur.errors import ConfigError
from deleatur.importance import Uniform
from deleatur.losses import NPO, GradientDifference
from deleatur.types import Reference

LENGTHS = (3, 1, 5)


def evaluate(loss, tokens, g, reference) -> tuple[torch.Tensor, torch.Tensor]:
    """Its value and the gradient of NLL."""
    value = loss(tokens, g, Reference(nll=lambda _: reference))
    return value.detach(), torch.autograd.grad(value, tokens.nll)[0]


def draw(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed))


def sums(values: torch.Tensor) -> list[torch.Tensor]:
    return [part.sum() for part in values.split(LENGTHS)]


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
def test_at_the_reference_each_sequence_gives_two_over_beta_log_two(make_tokens, beta):
    """−(2/β)·log σ(0) = (2/β)·log 2, for each of three sequences."""
    tokens = make_tokens(LENGTHS)
    value, _ = evaluate(NPO(beta=beta), tokens, Uniform()(tokens), tokens.nll.detach())
    assert value.item() == pytest.approx(3 * 2 / beta * math.log(2), rel=1e-6)


def test_at_the_reference_the_gradient_is_gradient_ascents(make_tokens):
    """d/dl of −(2/β)·log σ(β·m) is −2·σ(−β·m), and −2·σ(0) = −1."""
    tokens = make_tokens(LENGTHS)
    _, gradient = evaluate(NPO(beta=3.0), tokens, Uniform()(tokens), tokens.nll.detach())
    torch.testing.assert_close(gradient, -torch.ones(9))


def test_it_tends_to_gradient_ascent_as_beta_tends_to_zero(make_tokens):
    """The gradient is −2·σ(−β·m): its distance from −1 falls linearly with β, whatever the margin m."""
    tokens, reference = make_tokens(LENGTHS), 6 * draw(9, 3)
    ascent = evaluate(GradientDifference(), tokens, Uniform()(tokens), reference)[1]
    far = [
        (evaluate(NPO(beta=beta), tokens, Uniform()(tokens), reference)[1] - ascent).abs().max().item()
        for beta in (1e-1, 1e-2, 1e-3)
    ]
    assert far[0] > 0.1
    assert far[2] < 1e-2
    assert far[1] / far[2] == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_value_and_gradient_are_the_formulas(make_tokens, beta):
    """−(2/β)·Σ log σ(β·(Σ w·l − Σ l_ref)); gradient −2·w·σ(−β·m)."""
    tokens, g, reference = make_tokens(LENGTHS), draw(9, 1) + 0.1, 3 * draw(9, 2)
    w = torch.cat([part * len(part) / part.sum() for part in g.split(LENGTHS)])
    nll = tokens.nll.detach()
    margins = [a - b for a, b in zip(sums(w * nll), sums(reference), strict=True)]
    value, gradient = evaluate(NPO(beta=beta), tokens, g, reference)
    expected = sum(2 / beta * math.log1p(math.exp(-beta * m)) for m in margins)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    pull = torch.cat([torch.sigmoid(-beta * m).expand(n) for m, n in zip(margins, LENGTHS, strict=True)])
    torch.testing.assert_close(gradient, -2 * w * pull)


def test_only_the_shape_of_importance_within_a_sequence_counts(make_tokens):
    """Each sequence's importance is rescaled to sum to its length, so ½ everywhere, or .1 here and 9 there, is plain NPO."""
    tokens, reference = make_tokens(LENGTHS), draw(9, 2)
    plain = evaluate(NPO(), tokens, Uniform()(tokens), reference)
    by_sequence = torch.tensor([0.1, 9.0, 0.5])[tokens.sequence]
    for g in (torch.full((9,), 0.5), by_sequence):
        for a, b in zip(evaluate(NPO(), tokens, g, reference), plain, strict=True):
            torch.testing.assert_close(a, b)


def test_a_mask_takes_the_masked_tokens_out(make_tokens):
    """With importance 1, 0, 0 in a sequence of three the one token counts for all three, here against a reference of the
    same sum, so the pull is −1 on each of the three."""
    tokens = make_tokens((3,))
    _, gradient = evaluate(NPO(), tokens, torch.tensor([1.0, 0.0, 0.0]), tokens.nll.detach()[0].expand(3))
    torch.testing.assert_close(gradient, torch.tensor([-3.0, 0.0, 0.0]))


def test_a_sequence_of_no_importance_gives_no_gradient_and_is_finite(make_tokens):
    tokens = make_tokens((2, 2))
    value, gradient = evaluate(NPO(), tokens, torch.tensor([0.0, 0.0, 1.0, 1.0]), tokens.nll.detach())
    assert torch.isfinite(value)
    assert torch.equal(gradient[:2], torch.zeros(2))


def test_the_order_of_sequences_changes_nothing(make_tokens):
    tokens, g, reference = make_tokens(LENGTHS), draw(9, 1), draw(9, 2)
    value, gradient = evaluate(NPO(), tokens, g, reference)
    turned = torch.cat([torch.arange(9).split(LENGTHS)[i] for i in (2, 0, 1)])
    other = make_tokens((5, 3, 1), nll=tokens.nll[turned])
    again, moved = evaluate(NPO(), other, g[turned], reference[turned])
    torch.testing.assert_close(again, value)
    torch.testing.assert_close(moved, gradient[turned])


def test_tokens_far_below_the_reference_get_no_gradient(make_tokens):
    """At β = 1 and 60 nats below, the pull is 2·σ(−60)."""
    tokens = make_tokens((2,), nll=torch.tensor([30.0, 30.0]))
    _, gradient = evaluate(NPO(beta=1.0), tokens, torch.ones(2), torch.zeros(2))
    assert gradient.abs().max() < 1e-24


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan")])
def test_a_beta_not_above_zero_is_refused(beta):
    with pytest.raises(ConfigError, match=r"loss\.beta is .*, but must be above 0"):
        NPO(beta=beta)
