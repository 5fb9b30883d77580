"""Sums within sequences, and what holds retain rows."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import kl_div, mse_loss

from deleatur.losses.reductions import (
    js,
    kl,
    lengths,
    per_sequence,
    places,
    require_output,
    squared_distance,
    weighted_nll,
)
from deleatur.losses.retain import RETAIN_TERMS
from deleatur.modeling.chunked_divergence import divergence_of
from deleatur.types import Divergence, Reference

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=6)


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class TestSums:
    @given(LENGTHS)
    def test_values_are_summed_within_their_sequences(self, make_tokens, counts):
        tokens = make_tokens(counts)
        torch.testing.assert_close(
            per_sequence(tokens.nll, tokens), torch.stack([p.sum() for p in tokens.nll.split(counts)])
        )
        assert lengths(tokens).tolist() == counts

    def test_the_gradient_of_a_sum_is_one_for_each_of_its_tokens(self, make_tokens):
        tokens = make_tokens((2, 3))
        per_sequence(tokens.nll, tokens)[1].backward()
        assert tokens.nll.grad.tolist() == [0, 0, 1, 1, 1]

    @given(LENGTHS)
    def test_places_count_the_tokens_of_each_sequence_from_zero(self, make_tokens, counts):
        assert places(make_tokens(counts)).tolist() == [i for n in counts for i in range(n)]

    def test_places_are_counted_from_zero_in_what_is_split_off(self, make_tokens):
        assert places(make_tokens((2, 3, 1)).split(1)[1]).tolist() == [0, 1, 2, 0]

    def test_no_sequences_have_no_sums(self, make_tokens):
        nothing, _ = make_tokens((2, 3)).split(0)
        assert per_sequence(nothing.nll, nothing).shape == lengths(nothing).shape == (0,)
        assert places(nothing).shape == (0,)
        assert weighted_nll(nothing, nothing.nll).shape == (0,)


class TestWeightedNll:
    @given(LENGTHS, st.integers(0, 5))
    def test_importance_is_rescaled_to_sum_to_its_sequences_length(self, make_tokens, counts, seed):
        """Σ w·l with w = g·n / Σ g, sequence by sequence."""
        tokens = make_tokens(counts, seed=seed).detach()
        g = draw(sum(counts), seed=seed).sigmoid()
        expected = [(a * len(a) / a.sum() * b).sum() for a, b in zip(g.split(counts), tokens.nll.split(counts), strict=True)]
        torch.testing.assert_close(weighted_nll(tokens, g), torch.stack(expected))

    @pytest.mark.parametrize("level", [1e-3, 0.5, 1.0, 7.0])
    def test_an_importance_that_is_the_same_everywhere_is_none(self, level, make_tokens):
        tokens = make_tokens((3, 1, 5)).detach()
        torch.testing.assert_close(weighted_nll(tokens, torch.full((9,), level)), per_sequence(tokens.nll, tokens))

    def test_a_sequence_of_no_importance_is_zero_with_a_gradient_of_zero(self, make_tokens):
        """Nothing is divided by nothing."""
        tokens = make_tokens((2, 2))
        made = weighted_nll(tokens, torch.tensor([0.0, 0.0, 1.0, 0.0]))
        made.sum().backward()
        assert made[0] == 0
        assert tokens.nll.grad.tolist() == [0, 0, 2, 0]


class TestDivergences:
    @pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
    def test_kl_is_torchs_own(self, scale):
        """Σ p·(log p − log q), which torch asks for as kl_div(log q, log p)."""
        p, q = draw(6, 37, seed=1, scale=scale), draw(6, 37, seed=2, scale=scale)
        expected = kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="none").sum(-1)
        torch.testing.assert_close(kl(p, q), expected)
        assert kl(p, q).min() > 0

    @pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
    def test_js_is_the_mean_kl_from_the_middle_by_torchs_own(self, scale):
        p, q = draw(6, 37, seed=1, scale=scale), draw(6, 37, seed=2, scale=scale)
        middle = ((p.double().softmax(-1) + q.double().softmax(-1)) / 2).log()
        halves = [kl_div(middle, x.double().log_softmax(-1), log_target=True, reduction="none").sum(-1) / 2 for x in (p, q)]
        torch.testing.assert_close(js(p, q), sum(halves).float(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(js(p, q), js(q, p))

    @pytest.mark.parametrize("divergence", [kl, js])
    def test_divergence_from_itself_is_zero_with_zero_gradient(self, divergence):
        """Logits count up to a constant, and the gradient of either is 0 where they agree."""
        p = draw(6, 37, scale=3.0)
        q = (p + 5).requires_grad_()
        value = divergence(p, q)
        torch.testing.assert_close(value, torch.zeros(6), rtol=0, atol=1e-5)
        value.sum().backward()
        torch.testing.assert_close(q.grad, torch.zeros(6, 37), rtol=0, atol=1e-5)

    def test_js_is_log_two_at_most_and_reaches_it_where_nothing_is_shared(self):
        """Each certain of another word: ½·log 2 + ½·log 2."""
        p, q = torch.full((1, 4), -200.0), torch.full((1, 4), -200.0)
        p[0, 0] = q[0, 3] = 200.0
        q.requires_grad_()
        apart = js(p, q)
        apart.backward()
        assert apart.item() == pytest.approx(math.log(2), rel=1e-6)
        assert torch.isfinite(q.grad).all()
        far = js(draw(50, 37, seed=1, scale=50.0), draw(50, 37, seed=2, scale=50.0))
        assert far.max() <= math.log(2) + 1e-6
        assert far.max() > 0.6

    def test_kl_of_two_by_hand(self):
        """P = (¾, ¼), Q = (½, ½): ¾·log 3/2 + ¼·log ½. JS: m = (5/8, 3/8)."""
        p, q = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.5, 0.5]]).log()
        assert kl(p, q).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-5)
        first = 0.75 * math.log(0.75 / 0.625) + 0.25 * math.log(0.25 / 0.375)
        second = 0.5 * math.log(0.5 / 0.625) + 0.5 * math.log(0.5 / 0.375)
        assert js(p, q).item() == pytest.approx((first + second) / 2, rel=1e-5)

    def test_squared_distance_is_the_mean_over_the_width_in_fp32(self):
        a, b = draw(5, 8, seed=1), draw(5, 8, seed=2)
        expected = torch.stack([mse_loss(x, y) for x, y in zip(a, b, strict=True)])
        torch.testing.assert_close(squared_distance(a, b), expected)
        rounded = squared_distance(a.bfloat16(), b.bfloat16())
        assert rounded.dtype == torch.float32
        assert torch.equal(rounded, squared_distance(a.bfloat16().float(), b.bfloat16().float()))


class TestRetainTerms:
    def test_each_is_its_formula_with_the_start_model_first(self, make_tokens):
        """KL from the start model to the model, not the other way round."""
        tokens, logits, states = make_tokens(logits=True, layer=4), draw(9, 37, seed=3), draw(9, 4, seed=4)
        start = Reference(logits=lambda t: logits, layer=lambda t: states)
        _, kept, erased = divergence_of(tokens.logits, logits, tokens.ids)
        tokens = replace(tokens, divergence=Divergence(kept=kept, erased=erased))
        expected = {
            "nll": tokens.nll,
            "kl": kl(logits, tokens.logits),
            "js": js(logits, tokens.logits),
            "layer": squared_distance(tokens.layer, states),
        }
        assert expected.keys() == RETAIN_TERMS.keys()
        for name, value in expected.items():
            torch.testing.assert_close(RETAIN_TERMS[name].cost(tokens, start), value)

    @pytest.mark.parametrize("name", RETAIN_TERMS)
    def test_each_says_what_it_needs_and_takes_no_more(self, name, make_tokens):
        """With exactly what it names it gives a cost a token; without any one of these it says what is missing."""
        term, requires = RETAIN_TERMS[name]
        needs = frozenset(requires.outputs) | ({"layer"} if requires.start_layer else set())
        full = make_tokens(logits=True, layer=4)

        def cost(needs: frozenset[str]) -> torch.Tensor:
            _, kept, erased = divergence_of(full.logits, full.logits.detach(), full.ids)
            given = {"logits": full.logits, "layer": full.layer, "divergence": Divergence(kept=kept, erased=erased)}
            tokens = make_tokens()
            for extra in given:
                tokens = tokens if extra not in needs else type(tokens)(**fields(tokens) | {extra: given[extra]})
            made = {"logits": lambda t: full.logits.detach(), "layer": lambda t: full.layer.detach()}
            return term(tokens, Reference(**{k: f for k, f in made.items() if f"reference {k}" in needs}))

        assert cost(needs).shape == (9,)
        for missing in needs:
            with pytest.raises(LookupError, match=r"not computed before training|did not compute this output"):
                cost(needs - {missing})


def fields(tokens) -> dict:
    return {name: getattr(tokens, name) for name in ("nll", "hidden", "sequence", "rows")}


def test_outputs_that_were_not_requested_are_missing():
    assert require_output(0.0) == 0.0
    with pytest.raises(LookupError, match="the model did not compute this output"):
        require_output(None)
