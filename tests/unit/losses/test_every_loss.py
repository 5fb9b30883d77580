"""What holds for every forget loss there is: joined by a new one as soon as it stands in the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from deleatur.importance import Uniform
from deleatur.losses import FORGET_LOSSES, Erase, JensUn
from deleatur.modeling.chunked_divergence import divergence_of
from deleatur.types import Divergence, Encoded, Reference, TokenOutputs

LENGTHS, INSTEAD = (3, 1, 5), (2, 4, 1)
OWN = {JensUn: {"ids": (5, 2)}, Erase: {"level": 4.0}}
LOSSES = {name: cls(**OWN.get(cls, {})) for name, cls in FORGET_LOSSES.items()}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def needs_of(loss) -> list[str]:
    """What it says it reads, by name; the start model's NLL is "reference"."""
    return sorted({*loss.requires.outputs, *(["reference"] if loss.requires.start_nll else [])})


EACH_NEED = [pytest.param(loss, need, id=f"{name}-{need}") for name, loss in LOSSES.items() for need in needs_of(loss)]


def importance(tokens: TokenOutputs, seed: int = 0) -> Tensor:
    return 0.1 + torch.rand(len(tokens.nll), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def tokens(make_tokens: Callable[..., TokenOutputs]) -> TokenOutputs:
    """All that a loss may read."""
    preferred = make_tokens(INSTEAD, logits=True, seed=1)
    return replace(with_divergence(make_tokens(LENGTHS, logits=True, layer=4)), preferred=preferred)


def with_divergence(tokens: TokenOutputs, seed: int = 9) -> TokenOutputs:
    """From a start model whose logits are random."""
    start = torch.randn(tokens.logits.shape, generator=torch.Generator().manual_seed(seed))
    _, kept, erased = divergence_of(tokens.logits, start, tokens.ids)
    return replace(tokens, divergence=Divergence(kept=kept, erased=erased))


@pytest.fixture
def reference(tokens: TokenOutputs, make_tokens: Callable[..., TokenOutputs]) -> Reference:
    """Random numbers, row by row."""
    parts = (tokens, LENGTHS, 2), (tokens.preferred, INSTEAD, 3)
    said: dict[Encoded, tuple[Tensor, Tensor]] = {}
    for side, lengths, seed in parts:
        drawn = make_tokens(lengths, logits=True, seed=seed).detach()
        said |= dict(zip(side.rows, zip(drawn.nll.split(lengths), drawn.logits.split(lengths), strict=True), strict=True))
    look_up = lambda which: lambda asked: torch.cat([said[row][which] for row in asked.rows])  # noqa: E731
    return Reference(nll=look_up(0), logits=look_up(1))


def leaves(tokens: TokenOutputs) -> list[Tensor]:
    return [tokens.logits, tokens.layer, tokens.preferred.logits]


def evaluate(loss, tokens: TokenOutputs, g: Tensor, reference: Reference, of: TokenOutputs) -> list[Tensor]:
    """Its value, and its gradient at what the model said `of`."""
    value = loss(tokens, g, reference)
    gradients = torch.autograd.grad(value, leaves(of), materialize_grads=True, retain_graph=True)
    return [value.detach(), *gradients]


def reordered(tokens: TokenOutputs, order: list[int]) -> tuple[TokenOutputs, Tensor]:
    """The same sequences in another order, and where each token came from."""
    lengths = [len(row.ids) - row.start for row in tokens.rows]
    take = torch.cat([(tokens.sequence == b).nonzero()[:, 0] for b in order])
    sequence = torch.repeat_interleave(torch.arange(len(order)), torch.tensor([lengths[b] for b in order]))
    some = {
        n: None if getattr(tokens, n) is None else getattr(tokens, n)[take] for n in ("nll", "hidden", "logits", "layer")
    }
    some["divergence"] = tokens.divergence and Divergence(*(values[take] for values in tokens.divergence))
    return replace(tokens, **some, sequence=sequence, rows=tuple(tokens.rows[b] for b in order)), take


@every_loss
def test_the_order_of_sequences_changes_nothing(loss, tokens, reference):
    order, g = [2, 0, 1], importance(tokens)
    turned, take = reordered(tokens, order)
    turned = replace(turned, preferred=reordered(tokens.preferred, order)[0])
    expected = evaluate(loss, tokens, g, reference, tokens)
    for a, b in zip(evaluate(loss, turned, g[take], reference, tokens), expected, strict=True):
        torch.testing.assert_close(a, b)


@every_loss
def test_the_sum_over_a_batch_is_the_sum_over_its_parts(loss, tokens, reference):
    """So that the loop may divide by counts over all batches and processes."""
    g = importance(tokens)
    first, rest = tokens.split(2)
    sides = zip((first, rest), tokens.preferred.split(2), g.split([4, 5]), strict=True)
    parts = [loss(replace(side, preferred=instead), weight, reference) for side, instead, weight in sides]
    torch.testing.assert_close(sum(parts), loss(tokens, g, reference))


@every_loss
def test_a_token_of_no_importance_gets_no_gradient(loss, tokens, reference):
    g = importance(tokens)
    g[[1, 3]] = 0  # 3 is all of its sequence
    value, logits, layer, _ = evaluate(loss, tokens, g, reference, tokens)
    assert torch.isfinite(value)
    for gradient in (logits, layer):
        assert torch.equal(gradient[[1, 3]], torch.zeros_like(gradient[[1, 3]]))
    assert (logits[[0, 2]].abs().sum() + layer[[0, 2]].abs().sum()) > 0


@every_loss
def test_a_mask_of_ones_is_uniform(loss, tokens, reference):
    uniform = evaluate(loss, tokens, Uniform()(tokens), reference, tokens)
    for a, b in zip(evaluate(loss, tokens, torch.ones(9), reference, tokens), uniform, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "loss", [loss for loss in LOSSES.values() if loss.unit == "token"], ids=lambda loss: type(loss).__name__
)
def test_a_sum_over_tokens_is_linear_in_importance(loss, tokens, reference):
    """So the learned importance before its first turn, ½ everywhere, is half of the uniform one."""
    g, h = importance(tokens, 1), importance(tokens, 2)
    both = loss(tokens, 0.5 * g + 2 * h, reference)
    torch.testing.assert_close(both, 0.5 * loss(tokens, g, reference) + 2 * loss(tokens, h, reference))


@every_loss
def test_it_reads_no_more_than_it_says_it_needs(loss, tokens, reference):
    """All else is withheld; and gradients reach nothing else."""
    g, needs = importance(tokens), needs_of(loss)
    expected = evaluate(loss, tokens, g, reference, tokens)
    bare = replace(
        tokens, **{n: getattr(tokens, n) if n in needs else None for n in ("logits", "layer", "divergence", "preferred")}
    )
    withheld = Reference(
        **({"nll": reference.nll} if "reference" in needs else {}),
        **({"logits": reference.logits} if "reference logits" in needs else {}),
    )
    for a, b in zip(evaluate(loss, bare, g, withheld, tokens), expected, strict=True):
        assert torch.equal(a, b)
    assert bool(expected[2].any()) == ("layer" in needs)
    assert bool(expected[3].any()) == ("preferred" in needs)


@pytest.mark.parametrize(("loss", "need"), EACH_NEED)
def test_it_reads_all_that_it_says_it_needs(loss, need, tokens, reference):
    if need.startswith("reference"):
        reference = replace(reference, **{need.removeprefix("reference").strip() or "nll": Reference().nll})
    else:
        tokens = replace(tokens, **{need: None})
    with pytest.raises(LookupError, match=r"not computed before training|did not compute this output"):
        loss(tokens, importance(tokens), reference)


@every_loss
def test_a_model_that_is_sure_of_everything_gives_finite_numbers(loss, tokens, reference):
    """Logits hundreds apart: probabilities of 0 and 1 in float32."""
    raw = (200 * tokens.logits.detach()).requires_grad_()
    sure = with_divergence(replace(tokens, logits=raw, nll=cross_entropy(raw, tokens.ids, reduction="none")))
    assert all(torch.isfinite(x).all() for x in evaluate(loss, sure, importance(tokens), reference, sure))


@every_loss
def test_half_precision_is_reckoned_with_in_full(loss, tokens, reference):
    """bf16 logits and states give the number of the same values in fp32."""
    halved = replace(tokens, logits=tokens.logits.bfloat16(), layer=tokens.layer.bfloat16())
    again = replace(tokens, logits=halved.logits.float(), layer=halved.layer.float())
    value = loss(halved, importance(tokens), reference)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(again, importance(tokens), reference))
