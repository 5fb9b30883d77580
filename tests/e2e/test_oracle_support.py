"""The claim of the method on the planted problem of `examples/oracle_support.py`; the algebra stands in `docs/method.md`."""

from __future__ import annotations

import importlib.util
import sys
from math import comb
from pathlib import Path
from types import ModuleType

import pytest
import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "oracle_support.py"


@pytest.fixture(scope="module")
def oracle() -> ModuleType:
    spec = importlib.util.spec_from_file_location("oracle_support", EXAMPLE)
    assert spec and spec.loader
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_at_full_separation_minimum_alternation_and_scorer_are_the_oracle_support(oracle: ModuleType) -> None:
    p = oracle.plant((1,), oracle.Args(seeds=3))
    truth = torch.arange(oracle.N).expand(3, -1) < oracle.K
    assert torch.equal(oracle.exhaust(p)[0], truth)
    assert torch.equal(oracle.top(oracle.alternate(p, 1000)), truth)
    assert torch.equal(oracle.learn(p) > 0.5, truth)


def test_with_no_separation_recovery_is_at_chance(oracle: ModuleType) -> None:
    """Inside the span all n keys have one law, so a found support is a uniform one: hits are hypergeometric."""
    n, k = oracle.N, oracle.K
    chance = sum(comb(k, i) * comb(n - k, k - i) / comb(n, k) * i / (2 * k - i) for i in range(k + 1))
    p = oracle.plant((0,), oracle.Args(seeds=24))
    for selected in (oracle.exhaust(p)[0], oracle.top(oracle.alternate(p, 1000))):
        found = oracle.jaccard(selected)
        assert abs(found.mean() - chance) < 3 * found.std() / 24**0.5


def test_a_gap_is_never_below_what_is_proven_of_it(oracle: ModuleType) -> None:
    for change in ({}, {"span": 6}, {"common": 0.0}, {"alpha": 5.0}, {"alpha": 0.0}):
        p = oracle.plant((1, 0.7, 0.5, 0.3, 0), oracle.Args(seeds=3, **change))
        selected, gap = oracle.exhaust(p)
        bound = oracle.proven(p)
        assert (bound <= gap + 1e-9).all()
        assert (oracle.jaccard(selected)[bound > 0] == 1).all()


def test_the_proven_threshold_is_within_the_sweep(oracle: ModuleType) -> None:
    bound = oracle.proven(oracle.plant((1, 0.6, 0.3), oracle.Args(seeds=3))).view(3, 3)
    assert (bound[:2] > 0).all()
    assert (bound[2] < 0).all()


def test_without_retain_rows_the_most_separate_tokens_are_not_found(oracle: ModuleType) -> None:
    """Retain conflict enters only through the price: without it shared keys, which have a part in common, gain most."""
    p = oracle.plant((1,), oracle.Args(seeds=3, alpha=0.0))
    assert (oracle.jaccard(oracle.exhaust(p)[0]) == 0).all()
    assert (oracle.jaccard(oracle.learn(p) > 0.5) == 0).all()


def test_a_fast_alternation_keeps_a_wrong_support_that_is_not_the_minimum(oracle: ModuleType) -> None:
    """The price has no gradient at d = 0, so the first steps know nothing of retain; what is selected then is what moves."""
    p = oracle.plant((1,), oracle.Args(seeds=3))
    assert (oracle.jaccard(oracle.top(oracle.alternate(p, 10))) < 1).all()


def test_the_attainable_value_is_where_gradient_steps_end(oracle: ModuleType) -> None:
    p = oracle.plant((0.6,), oracle.Args(seeds=3, alpha=5.0))
    g = (torch.arange(oracle.N) < oracle.K).to(p.x).expand(3, -1)
    d = oracle.push(p, torch.zeros_like(p.x[:, 0]), g, 6000)
    u = (p.x @ d[..., None])[..., 0]
    reached = oracle.C * (g * (1 - (-u).exp())).sum(1) - (d * (p.price @ d[..., None])[..., 0]).sum(1) / 2
    value, slope = oracle.attainable(p.leverage(p.x)[:, : oracle.K, : oracle.K])
    torch.testing.assert_close(reached, value, rtol=1e-6, atol=0)
    torch.testing.assert_close((-u).exp()[:, : oracle.K], slope, rtol=1e-4, atol=0)
