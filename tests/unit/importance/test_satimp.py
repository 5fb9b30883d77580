"""SatImp, p^β1 · (1 − p)^β2 in the probability p of a token."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deleatur.errors import ConfigError
from deleatur.importance import WGA, SatImp, Uniform


def satimp(make_tokens, nll: list[float], **powers: float) -> torch.Tensor:
    return SatImp(**powers)(make_tokens((len(nll),), nll=torch.tensor(nll)))


def test_values_by_hand(make_tokens):
    """β1 = 2, β2 = 1: p = 1/2 gives 1/4 · 1/2 = 1/8, p = 1/4 gives 1/16 · 3/4 = 3/64, p = 1 gives 1 · 0."""
    found = satimp(make_tokens, [math.log(2), math.log(4), 0.0], beta1=2.0, beta2=1.0)
    torch.testing.assert_close(found, torch.tensor([1 / 8, 3 / 64, 0.0]))


@pytest.mark.parametrize("beta", [0.0, 0.5, 5.0])
def test_without_the_second_power_it_is_wga(make_tokens, beta):
    """(1 − p)^0 = 1, at p = 1 as well."""
    tokens = make_tokens((4,), nll=torch.tensor([0.0, 0.1, 2.0, 30.0]))
    assert torch.equal(SatImp(beta1=beta, beta2=0.0)(tokens), WGA(beta=beta)(tokens))


def test_without_either_power_it_is_uniform(make_tokens):
    tokens = make_tokens()
    assert torch.equal(SatImp(beta1=0.0, beta2=0.0)(tokens), Uniform()(tokens))


@pytest.mark.parametrize("nll", [1e-8, 1e-12, 1e-30])
def test_a_token_that_is_all_but_certain_keeps_its_small_importance(make_tokens, nll):
    """1 − p = 1 − exp(−l) is l at so small an l, where 1 − exp(−l) in fp32 would be 0."""
    torch.testing.assert_close(satimp(make_tokens, [nll], beta1=5.0, beta2=1.0), torch.tensor([nll]), rtol=1e-6, atol=0.0)


def test_a_probability_rounded_above_one_is_certain(make_tokens):
    """A root of a number below 0 would be no number."""
    assert satimp(make_tokens, [-1e-7], beta2=0.5).tolist() == [0.0]


def test_forgotten_tokens_have_no_importance(make_tokens):
    """At 200 nats p is 0 in fp32."""
    assert satimp(make_tokens, [200.0]).tolist() == [0.0]


@given(beta1=st.floats(0.1, 10), beta2=st.floats(0.1, 5))
def test_it_peaks_where_p_is_the_first_powers_share(make_tokens, beta1, beta2):
    """d/dp of β1·log p + β2·log(1 − p) is 0 at p = β1 / (β1 + β2)."""
    peak = beta1 / (beta1 + beta2)
    at, below, above = satimp(
        make_tokens, [-math.log(p) for p in (peak, peak * 0.8, 1 - (1 - peak) * 0.8)], beta1=beta1, beta2=beta2
    )
    assert below < at > above


def test_it_is_held_fixed(make_tokens):
    tokens = make_tokens()
    assert tokens.nll.requires_grad
    assert not SatImp()(tokens).requires_grad


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["beta1", "beta2"])
def test_a_power_below_zero_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=rf"importance\.{name} is .*, but must be 0 or more"):
        SatImp(**{name: value})
