"""Divergences from the start model in chunks against the plain lines they equal, on shapes that no block size divides."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from deleatur.losses.reductions import kl
from deleatur.modeling import chunked_divergence, chunked_nll
from deleatur.modeling.chunked_divergence import linear_divergence

SHAPES = [(1, 1024), (257, 64), (257, 256), (257, 257), (1025, 1000)]  # N, chunk
WIDTH, VOCABULARY = 24, 401
MIX = (0.5, 0.7, -0.3)  # of the three outputs, so that each has a gradient of its own


def draw(n: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """States and heads of two models that differ a little, and targets of which the first is the start model's choice."""
    generator = torch.Generator().manual_seed(n)
    hidden = torch.randn(n, WIDTH, generator=generator)
    start = hidden + 0.3 * torch.randn(n, WIDTH, generator=generator)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator)
    other = weight + 0.1 * torch.randn(VOCABULARY, WIDTH, generator=generator)
    target = torch.randint(0, VOCABULARY, (n,), generator=generator)
    start[0] *= 8  # so sure of its choice that 1 − p is lost in fp32
    target[0] = (other @ start[0]).argmax()
    return hidden.to(dtype), start.to(dtype), weight.to(dtype), other.to(dtype), target


def outputs(kind: str, hidden, start, weight, other, target, chunk: int) -> list[torch.Tensor]:
    """The three numbers of each token, and the gradients of a sum in which every token counts differently."""
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    if kind == "chunked":
        heads = (lambda h: linear(h, weight)), (lambda h: linear(h, other))
        nll, divergence = linear_divergence(hidden, start, target, *heads, chunk=chunk)
        values = nll, *divergence
    else:
        wide = torch.float64 if kind == "truth" else torch.float32
        now, before = linear(hidden, weight).to(wide), linear(start, other).to(wide)
        without = before.scatter(1, target[:, None], -torch.inf).softmax(-1)
        erased = torch.special.xlogy(without, without) - without * now.log_softmax(-1)
        plain = (before.log_softmax(-1).exp() * (before.log_softmax(-1) - now.log_softmax(-1))).sum(-1)
        values = cross_entropy(now, target, reduction="none"), plain, erased.sum(-1)
    each = torch.linspace(-1, 2, len(target))
    sum((v * each.to(v) * m).sum() for v, m in zip(values, MIX, strict=True)).backward()
    return [*(v.detach() for v in values), hidden.grad, weight.grad]


@pytest.mark.parametrize(("n", "chunk"), SHAPES)
def test_chunks_give_the_plain_values_and_gradients(n, chunk):
    drawn = draw(n, torch.float32)
    for ours, plain in zip(outputs("chunked", *drawn, chunk), outputs("plain", *drawn, chunk), strict=True):
        torch.testing.assert_close(ours, plain, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "chunk"), SHAPES[1:])  # of one token, which of the two rounds better is chance
def test_chunks_are_no_further_from_the_truth_than_the_plain_lines(n, chunk, dtype):
    """Truth is fp64 on the same (rounded) numbers; one rounding more a chunk is allowed."""
    drawn = draw(n, dtype)
    truth = outputs("truth", *(x.double() if x.is_floating_point() else x for x in drawn), chunk)
    ours, plain = (outputs(kind, *drawn, chunk) for kind in ("chunked", "plain"))
    for name, a, b, true in zip(("nll", "kept", "erased", "hidden", "weight"), ours, plain, truth, strict=True):
        error, naive = ((x.double() - true.double()).square().mean().sqrt() for x in (a, b))
        rounding = 2 * torch.finfo(dtype).eps * true.double().square().mean().sqrt()
        assert error <= 1.1 * naive + rounding, (name, float(error), float(naive))


@pytest.mark.parametrize("entries", [1, VOCABULARY * 3])
def test_few_rows_at_a_time_change_nothing(entries, monkeypatch):
    drawn = draw(257, torch.float32)
    whole = outputs("chunked", *drawn, 512)
    monkeypatch.setattr(chunked_nll, "IN_CACHE", entries)
    for a, b in zip(outputs("chunked", *drawn, 512), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_start_logits_are_not_modified():
    """In fp32 nothing is copied on the way, so nothing may be written in place."""
    hidden, start, weight, other, target = draw(5, torch.float32)
    logits, before = linear(hidden, weight), linear(start, other)
    kept = logits.clone(), before.clone()
    chunked_divergence.divergence_of(logits.requires_grad_(), before, target)[1].sum().backward()
    assert torch.equal(logits.detach(), kept[0])
    assert torch.equal(before, kept[1])


def test_a_model_that_has_not_moved_is_at_no_distance_and_erasing_costs_what_the_token_held():
    """kept is KL(p ‖ p) = 0 with no gradient; erased is KL(q ‖ p) = −log(1 − p), q being p without the token."""
    hidden, _, weight, _, target = draw(257, torch.float32)
    hidden = hidden.requires_grad_()
    same = lambda h: linear(h, weight)  # noqa: E731
    nll, divergence = linear_divergence(hidden, hidden.detach(), target, same, same, chunk=100)
    (gradient,) = torch.autograd.grad(divergence.kept.sum(), hidden, retain_graph=True)
    assert float(divergence.kept.detach().abs().max()) < 1e-5
    assert float(gradient.abs().max()) < 1e-5
    torch.testing.assert_close(divergence.erased, -torch.log1p(-(-nll).exp()), rtol=1e-4, atol=1e-4)
    logits = same(hidden.detach())
    torch.testing.assert_close(divergence.kept, kl(logits, logits), atol=1e-5, rtol=0)
