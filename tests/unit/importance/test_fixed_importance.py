"""Importances that learn nothing: uniform and WGA; and the settings of the learned one."""

from __future__ import annotations

import pytest
import torch

from deleatur.errors import ConfigError
from deleatur.importance import WGA, Learned, Uniform


@pytest.mark.parametrize("importance", [Uniform(), WGA(beta=2.0)])
def test_importance_is_held_fixed(make_tokens, importance):
    assert not importance(make_tokens()).requires_grad


def test_uniform_is_one_for_every_token(make_tokens):
    assert torch.equal(Uniform()(make_tokens()), torch.ones(9))


@pytest.mark.parametrize("beta", [0.5, 1.0, 5.0])
def test_wga_is_the_tokens_probability_to_a_power(make_tokens, beta):
    """p^β with p = exp(−NLL)."""
    tokens = make_tokens()
    torch.testing.assert_close(WGA(beta=beta)(tokens), tokens.nll.detach().exp().reciprocal() ** beta)


def test_wga_to_the_power_of_zero_is_uniform(make_tokens):
    tokens = make_tokens()
    assert torch.equal(WGA(beta=0.0)(tokens), Uniform()(tokens))


@pytest.mark.parametrize(
    ("setting", "value", "needed"),
    [
        ("every", 0, "1 or more"),
        ("budget", 0.0, r"in \(0, 1\)"),
        ("budget", 1.0, r"in \(0, 1\)"),
        ("momentum", 1.0, r"in \[0, 1\)"),
        ("momentum", -0.1, r"in \[0, 1\)"),
        ("entropy", -1.0, "0 or more"),
        ("population", -1.0, "0 or more"),
        ("l2", float("nan"), "0 or more"),
        ("weight_decay", -1.0, "0 or more"),
        ("lr", 0.0, "above 0"),
        ("clip", 0.0, "above 0"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(setting, value, needed):
    with pytest.raises(ConfigError, match=rf"importance\.{setting} is .*, but must be {needed}"):
        Learned(**{setting: value})


def test_wga_refuses_a_negative_power():
    with pytest.raises(ConfigError, match=r"importance\.beta is -1\.0, but must be 0 or more"):
        WGA(beta=-1.0)
