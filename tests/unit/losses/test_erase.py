"""The erase loss: where it ends, and what it leaves alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from deleatur.errors import ConfigError
from deleatur.losses import Erase
from deleatur.losses.erase import towards
from deleatur.modeling.chunked_divergence import divergence_of
from deleatur.types import Divergence, Reference

SIZE = 7


def now(tokens, raw, start):
    """The tokens' outputs with these logits."""
    nll, kept, erased = divergence_of(raw, start, tokens.ids)
    return replace(tokens, nll=nll, divergence=Divergence(kept=kept, erased=erased))


def minimised(tokens, start, level: float, g: float, *, keep=None) -> torch.Tensor:
    """Log-probabilities at the minimum of g·erase + (1 − g)·kept over free logits."""
    raw = start.clone().requires_grad_()
    descent = torch.optim.LBFGS([raw], max_iter=300, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure():
        descent.zero_grad()
        outputs = now(tokens, raw, start)
        kept = outputs.divergence.kept if keep is None else towards(outputs, torch.full_like(outputs.nll, keep))
        value = Erase(level=level)(outputs, torch.full_like(outputs.nll, g), Reference()) + ((1 - g) * kept).sum()
        value.backward()
        return value

    descent.step(closure)
    return raw.detach().log_softmax(-1)


@pytest.fixture
def tokens(make_tokens):
    return make_tokens((3, 4), logits=True)


@pytest.fixture
def start(tokens):
    """A start model that is sure of its tokens, as of memorised rows."""
    raw = torch.randn(tokens.logits.shape, generator=torch.Generator().manual_seed(3))
    return raw.scatter(1, tokens.ids[:, None], 8.0)


@pytest.mark.parametrize("level", [0.05, 0.7, 5.0])
def test_it_ends_at_the_level_with_the_other_tokens_in_the_start_models_proportions(tokens, start, level):
    logp = minimised(tokens, start, level, g=1.0)
    own = tokens.ids[:, None]
    torch.testing.assert_close(-logp.gather(1, own), torch.full((SIZE, 1), level), rtol=0.02, atol=0)
    rest, before = (x.scatter(1, own, -torch.inf).log_softmax(-1).exp() for x in (logp, start))
    torch.testing.assert_close(rest, before, rtol=1e-2, atol=1e-3)


def test_each_token_has_its_own_level_where_it_is_known(tokens, start):
    levels = torch.linspace(0.5, 6.0, SIZE)
    outputs = now(tokens, start, start)
    found = Erase(level=3.0)(outputs, torch.ones(SIZE), Reference(level=lambda t: levels))
    torch.testing.assert_close(found, towards(outputs, levels).sum())


def test_at_its_own_nll_it_costs_nothing_and_beyond_it_is_the_divergence_from_the_target(tokens, start):
    """KL(t ‖ p) with t written out over the vocabulary, and the square."""
    outputs = now(tokens, start, start)
    torch.testing.assert_close(towards(outputs, outputs.nll), torch.zeros(SIZE), rtol=0, atol=1e-5)
    own, level, p = tokens.ids[:, None], torch.full((SIZE,), 2.0), start.log_softmax(-1)
    q = start.scatter(1, own, -torch.inf).log_softmax(-1)
    t = (q + math.log1p(-math.exp(-2.0))).scatter(1, own, -2.0)
    divergence = (t.exp() * (t - p)).sum(1)
    square = (1 - math.exp(-2.0)) * (outputs.nll - 2.0).square() / 2
    torch.testing.assert_close(towards(outputs, level), divergence + square, rtol=1e-4, atol=1e-5)


def test_without_importance_there_is_no_gradient(tokens, start):
    torch.testing.assert_close(minimised(tokens, start, 5.0, g=0.0), start.log_softmax(-1), rtol=1e-3, atol=1e-3)


def test_half_importance_leaves_half_of_the_memory_where_the_rest_is_held_at_the_start(tokens, start):
    """At g = ½ the token stays more likely than its level says; held at the same level, importance makes no difference."""
    own = tokens.ids[:, None]
    assert float(-minimised(tokens, start, 5.0, g=0.5).gather(1, own).max()) < 4.0
    both = -minimised(tokens, start, 5.0, g=0.5, keep=5.0).gather(1, own)
    torch.testing.assert_close(both, torch.full((SIZE, 1), 5.0), rtol=0.02, atol=0)


def test_a_token_that_went_too_far_is_pulled_back(tokens, start):
    raw = start.scatter(1, tokens.ids[:, None], -12.0).requires_grad_()
    Erase(level=5.0)(now(tokens, raw, start), torch.ones(SIZE), Reference()).backward()
    assert bool((raw.grad.gather(1, tokens.ids[:, None]) < 0).all())  # down the gradient the token's logit rises


def test_a_level_is_needed_and_kept(tokens):
    assert Erase().at_level(6.0).level == 6.0
    assert Erase(level=4.0).at_level(6.0).level == 4.0
    with pytest.raises(LookupError):
        Erase()(tokens, torch.ones(SIZE), Reference())
    with pytest.raises(ConfigError, match="above 0"):
        Erase(level=0.0)
