"""Head and NLL in chunks against the two plain lines they equal, on shapes that no block size divides."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from deleatur.modeling import chunked_nll as module
from deleatur.modeling.chunked_nll import linear_nll, nll_of, token_statistics

SHAPES = [(1, 1024), (257, 64), (257, 256), (257, 257), (1024, 1024), (1025, 1024), (1025, 1000)]  # N, chunk
WIDTH, VOCABULARY = 24, 401


def draw(n: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    hidden = torch.randn(n, WIDTH, generator=generator).to(dtype)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator).to(dtype)
    return hidden, weight, torch.randint(0, VOCABULARY, (n,), generator=generator)


def run(kind: str, hidden, weight, target, chunk: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """NLL and the gradients of a sum in which every token counts differently."""
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    if kind == "chunked":
        nll = linear_nll(hidden, target, lambda h: linear(h, weight), chunk=chunk)
    else:
        logits = linear(hidden, weight)
        nll = cross_entropy(logits if kind == "truth" else logits.float(), target, reduction="none")
    (nll * torch.linspace(-1, 2, len(target), dtype=nll.dtype)).sum().backward()
    return nll.detach(), hidden.grad, weight.grad


@pytest.mark.parametrize(("n", "chunk"), SHAPES)
def test_chunks_give_the_naive_values_and_gradients(n, chunk):
    drawn = draw(n)
    for ours, naive in zip(run("chunked", *drawn, chunk), run("naive", *drawn, chunk), strict=True):
        torch.testing.assert_close(ours, naive, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "chunk"), SHAPES)
def test_chunks_are_no_further_from_the_truth_than_the_naive_lines(n, chunk, dtype):
    """Truth is fp64 on the same (rounded) numbers. A chunked sum of partial gradients may round once more per chunk, so
    the root mean square error may be a tenth larger where the naive one is not nothing at all; of one token it is chance."""
    drawn = draw(n, dtype)
    hidden, weight, target = drawn
    truth = run("truth", hidden.double(), weight.double(), target, chunk)
    for name, ours, naive, true in zip(
        ("nll", "hidden", "weight"), run("chunked", *drawn, chunk), run("naive", *drawn, chunk), truth, strict=True
    ):
        error, naive_error = ((x.double() - true).square().mean().sqrt() for x in (ours, naive))
        rounding = torch.finfo(dtype).eps * true.square().mean().sqrt() * (n > chunk or n == 1)
        assert error <= 1.1 * naive_error + rounding, (name, float(error), float(naive_error))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("entries", [1, 401 * 3, 2**19])
def test_rows_few_at_a_time_give_the_naive_values_and_gradients(entries, dtype, monkeypatch):
    """Rows by one, by three with a rest of two, all at once; a token that is certain has an NLL of 0 and no gradient."""
    monkeypatch.setattr(module, "IN_CACHE", entries)
    hidden, weight, target = draw(257)
    raw = linear(hidden, weight)
    raw[7, target[7]] = 300.0
    weights = torch.linspace(-1, 2, len(target))
    ours, naive = (raw.to(dtype).requires_grad_() for _ in range(2))
    mine, plain = nll_of(ours, target), cross_entropy(naive.float(), target, reduction="none")
    torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-6)
    for nll in (mine, plain):
        (nll * weights).sum().backward()
    torch.testing.assert_close(ours.grad, naive.grad, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-7)
    assert mine.dtype == torch.float32
    assert float(mine[7].detach()) == float(ours.grad[7].abs().sum()) == 0


@pytest.mark.parametrize("n", [1, 257, 1025])
def test_nll_is_fp32_whatever_the_head_gives(n):
    hidden, weight, target = draw(n, torch.bfloat16)
    assert linear_nll(hidden, target, lambda h: linear(h, weight), chunk=100).dtype == torch.float32


def test_the_logits_of_all_positions_are_never_held_at_once():
    """1025 positions in chunks of 100: the head sees at most 100 at a time, in the backward pass too."""
    hidden, weight, target = draw(1025)
    seen: list[int] = []

    def head(h):
        seen.append(len(h))
        return linear(h, weight)

    linear_nll(hidden.requires_grad_(), target, head, chunk=100).sum().backward()
    assert max(seen) == 100
    assert sum(seen) == 2 * 1025  # once forwards, once again backwards


def test_no_token_at_all_is_a_sum_of_nothing():
    """Where nothing is scored the sum is 0 and its gradient 0, not an error."""
    hidden, weight, _ = draw(1)
    weight = weight.requires_grad_()
    nll = linear_nll(hidden[:0], torch.empty(0, dtype=torch.long), lambda h: linear(h, weight))
    nll.sum().backward()
    assert nll.shape == (0,)
    assert float(weight.grad.abs().sum()) == 0


@pytest.mark.parametrize(("n", "chunk"), SHAPES)
def test_statistics_are_those_of_the_full_softmax(n, chunk):
    """Against fp64: NLL, arg max, mean and standard deviation of log p under p; in fp32, to 1e-4 of the size."""
    hidden, weight, target = draw(n)
    best = linear(hidden, weight).argmax(-1)
    target[::2] = best[::2]
    said = token_statistics(hidden, target, lambda h: linear(h, weight), chunk=chunk)
    logp = linear(hidden.double(), weight.double()).log_softmax(-1)
    p = logp.exp()
    mean = (p * logp).sum(-1)
    deviation = (p * (logp - mean[:, None]) ** 2).sum(-1).sqrt()
    assert torch.equal(said.hit, best == target)
    for ours, exact in ((said.nll, -logp[range(n), target]), (said.mean, mean), (said.deviation, deviation)):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-5)


def test_statistics_of_some_tokens_are_those_of_all_there_and_the_nll_alone_elsewhere():
    hidden, weight, target = draw(257)
    of = torch.arange(257) % 3 == 0
    head = partial(linear, weight=weight)
    some, every = token_statistics(hidden, target, head, of=of, chunk=50), token_statistics(hidden, target, head)
    torch.testing.assert_close(some.nll, every.nll, rtol=1e-6, atol=1e-6)
    assert torch.equal(some.hit, every.hit & of)
    for part, whole in ((some.mean, every.mean), (some.deviation, every.deviation)):
        torch.testing.assert_close(part[of], whole[of], rtol=1e-6, atol=1e-6)
        assert bool(part[~of].isnan().all())


def test_a_certain_and_an_even_distribution_have_no_deviation():
    """All mass on one token: mean and deviation 0. V equal tokens: mean −log V, deviation 0. No token: nothing."""
    sure = torch.zeros(2, 7)
    sure[:, 3] = 200.0
    said = token_statistics(sure, torch.tensor([3, 0]), lambda h: h)
    assert said.mean.tolist() == [0, 0]
    assert said.deviation.tolist() == [0, 0]
    assert said.nll.tolist() == [0, 200]
    even = token_statistics(torch.zeros(1, 7), torch.tensor([3]), lambda h: h)
    assert float(even.mean) == pytest.approx(-math.log(7))
    assert float(even.deviation) == pytest.approx(0, abs=1e-6)
    assert [len(x) for x in token_statistics(torch.zeros(0, 7), torch.tensor([], dtype=torch.long), lambda h: h)] == [0] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "chunk"), SHAPES)
def test_a_frozen_heads_states_have_the_naive_gradients(n, chunk, dtype):
    """In fp32 to rounding; in bf16 no further from fp64 than the naive lines, but for the rounding of the scaling."""
    hidden, weight, target = draw(n, dtype)

    def gradients(kind: str, h, w) -> list[torch.Tensor]:
        h = h.clone().requires_grad_()
        if kind == "frozen":
            nll = linear_nll(h, target, lambda x: linear(x, w), chunk=chunk, frozen=True)
        else:
            logits = linear(h, w)
            nll = cross_entropy(logits if kind == "truth" else logits.float(), target, reduction="none")
        (nll.square() * torch.linspace(-1, 2, len(target), dtype=nll.dtype)).sum().backward()  # no loss linear in the NLL
        return [nll.detach(), h.grad]

    true, naive = gradients("truth", hidden.double(), weight.double()), gradients("naive", hidden, weight)
    ours = gradients("frozen", hidden, weight)
    for t, plain, mine in zip(true, naive, ours, strict=True):
        plain_error, error = ((x.double() - t).square().mean().sqrt() for x in (plain, mine))
        assert error <= 1.1 * plain_error + 2 * torch.finfo(dtype).eps * t.square().mean().sqrt()


def test_a_frozen_head_makes_no_logits_twice():
    hidden, weight, target = draw(1025)
    seen: list[int] = []

    def head(h):
        seen.append(len(h))
        return linear(h, weight)

    linear_nll(hidden.requires_grad_(), target, head, chunk=100, frozen=True).sum().backward()
    assert max(seen) == 100
    assert sum(seen) == 1025
