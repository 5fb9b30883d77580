"""The erase loss: where it ends, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from deleatur.errors import ConfigError
from deleatur.losses import Erase
from deleatur.modeling.chunked_divergence import divergence_of
from deleatur.types import Divergence, Reference

SIZE = 7


def minimised(tokens, start, level: float, g: float) -> torch.Tensor:
    """Log-probabilities at the minimum of g·erase + (1 − g)·kept over free logits."""
    raw = start.clone().requires_grad_()
    descent = torch.optim.LBFGS([raw], max_iter=300, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure():
        descent.zero_grad()
        nll, kept, erased = divergence_of(raw, start, tokens.ids)
        now = replace(tokens, nll=nll, divergence=Divergence(kept=kept, erased=erased))
        value = Erase(level=level)(now, torch.full_like(nll, g), Reference()) + ((1 - g) * kept).sum()
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


def test_it_ends_near_the_level_with_the_other_tokens_in_the_start_models_proportions(tokens, start):
    """At l = level the square has no pull, and KL(q ‖ p) = −log(1 − p) one of p: so the end is level + p·level."""
    level = 5.0
    logp = minimised(tokens, start, level, g=1.0)
    own = tokens.ids[:, None]
    torch.testing.assert_close(-logp.gather(1, own), torch.full((SIZE, 1), level), rtol=0.02, atol=0)
    rest, before = (x.scatter(1, own, -torch.inf).log_softmax(-1).exp() for x in (logp, start))
    torch.testing.assert_close(rest, before, rtol=1e-3, atol=1e-4)


def test_without_importance_there_is_no_gradient(tokens, start):
    torch.testing.assert_close(minimised(tokens, start, 5.0, g=0.0), start.log_softmax(-1), rtol=1e-3, atol=1e-3)


def test_half_importance_leaves_half_of_the_memory(tokens, start):
    """So importance has to be sharp: at g = ½ the token stays far more likely than the level says."""
    nll = -minimised(tokens, start, 5.0, g=0.5).gather(1, tokens.ids[:, None])
    assert float(nll.max()) < 2.5


def test_a_token_that_went_too_far_is_pulled_back(tokens, start):
    raw = start.scatter(1, tokens.ids[:, None], -12.0).requires_grad_()
    nll, kept, erased = divergence_of(raw, start, tokens.ids)
    now = replace(tokens, nll=nll, divergence=Divergence(kept=kept, erased=erased))
    Erase(level=5.0)(now, torch.ones_like(nll), Reference()).backward()
    assert bool((raw.grad.gather(1, tokens.ids[:, None]) < 0).all())  # down the gradient the token's logit rises


def test_a_level_is_needed_and_kept(tokens):
    assert Erase().at_level(6.0).level == 6.0
    assert Erase(level=4.0).at_level(6.0).level == 4.0
    with pytest.raises(LookupError):
        Erase()(tokens, torch.ones(SIZE), Reference())
    with pytest.raises(ConfigError, match="above 0"):
        Erase(level=0.0)
