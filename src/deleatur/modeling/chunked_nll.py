"""The head and the negative log-likelihood, never with the logits of all positions at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from deleatur.types import TokenStatistics

IN_CACHE = 2**19  # logits whose fp32 form, 2 MB, stays near the processor
Head = Callable[[Float[Tensor, "N D"]], Float[Tensor, "N V"]]


class Readout(nn.Module):
    """The head's part of a forward, as a module: DeepSpeed brings the head together for it once, whatever its chunks."""

    def __init__(self, read: Callable[..., tuple]) -> None:
        super().__init__()
        self.read = read

    def forward(self, *given: Any) -> tuple:
        """Call `read`."""
        return self.read(*given)


def linear_nll(
    hidden: Float[Tensor, "N D"], target: Int[Tensor, " N"], head: Head, *, chunk: int = 1024, frozen: bool = False
) -> Float[Tensor, " N"]:
    """Negative log-likelihood of each target, without the logits of all positions at once.

    The plain code that it replaces:

        logits = head(hidden).float()
        nll = torch.nn.functional.cross_entropy(logits, target, reduction="none")

    With more than `chunk` positions it goes chunk by chunk and computes the logits again in the backward pass, so that
    memory grows with chunk × V and not with N × V. Through a `frozen` head nothing is computed twice: the gradient of each
    state is computed in the forward pass, and the backward pass only scales it.

    Args:
        hidden: Final states at the positions that predict the targets, (N, D), in any floating-point type.
        target: Token ids, (N,), each from 0 up to V, which is excluded.
        head: Maps states (n, D) to logits (n, V), n at most `chunk`; called again in the backward pass.
        chunk: Positions whose logits exist at once, at least 1.
        frozen: Take the head's weights as constants; they get no gradient, even where they require one.

    Returns:
        NLL in nats, (N,), fp32.

    Examples:
        >>> from deleatur.modeling.chunked_nll import linear_nll
        >>> hidden, head = torch.randn(5, 8, requires_grad=True), torch.nn.Linear(8, 11)
        >>> target = torch.tensor([3, 1, 4, 1, 5])
        >>> nll = linear_nll(hidden, target, head, chunk=2)
        >>> plain = torch.nn.functional.cross_entropy(head(hidden).float(), target, reduction="none")
        >>> torch.allclose(nll, plain, atol=1e-6)
        True
        >>> gradients = [torch.autograd.grad(x.sum(), hidden)[0] for x in (nll, plain)]
        >>> torch.allclose(*gradients, atol=1e-6)
        True
    """
    if frozen and hidden.requires_grad and torch.is_grad_enabled():
        nll: Any = _ThroughFrozenHead.apply(hidden, target, head, chunk)
        return nll
    if len(target) <= chunk:
        return _nll(hidden, target, head)
    pairs = zip(hidden.split(chunk), target.split(chunk), strict=True)
    parts: list[Any] = [checkpoint(_nll, h, t, head, use_reentrant=False) for h, t in pairs]
    return torch.cat(parts)


def _nll(hidden: Tensor, target: Tensor, head: Head) -> Tensor:
    return nll_of(head(hidden), target)


def nll_of(logits: Float[Tensor, "N V"], target: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """NLL in nats, fp32. Equals

        cross_entropy(logits.float(), target, reduction="none")

    of which the backward pass needs the logits alone, in their own type: what is in fp32 is a few rows at a time, which
    on CPU stay in the cache.
    """
    nll: Any = _Nll.apply(logits, target)
    return nll


class _Nll(torch.autograd.Function):
    """NLL from logits that are kept in their own type."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        """NLL (N,) in fp32, a few rows at a time."""
        top, mass = logits.new_empty(2, len(target), dtype=torch.float32)
        for rows in row_slices(logits):
            part = logits[rows].float()
            top[rows] = part.amax(-1)
            mass[rows] = (part - top[rows, None]).exp_().sum(-1)
        ctx.save_for_backward(logits, target, top, mass)
        return mass.log() - (logits.gather(1, target[:, None]).squeeze(1).float() - top)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the logits: softmax minus one-hot, times that of the NLL."""
        logits, target, top, mass = ctx.saved_tensors
        out = torch.empty_like(logits)
        for rows in row_slices(logits):
            p = (logits[rows].float() - top[rows, None]).exp_().mul_((grads[0][rows] / mass[rows])[:, None])
            out[rows] = p.scatter_add_(1, target[rows, None], -grads[0][rows, None])
        return out, None


def row_slices(logits: Tensor) -> Iterator[slice]:
    """Rows in turn, so few of them on CPU that what is made of their logits stays in the cache."""
    entries = IN_CACHE if logits.device.type == "cpu" else logits.numel()
    size = max(1, entries // max(1, logits.shape[1]))
    return (slice(first, first + size) for first in range(0, len(logits), size))


class _ThroughFrozenHead(torch.autograd.Function):
    """NLL through a head that is not trained: gradients of the states are made in the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, target: Tensor, head: Head, chunk: int) -> Tensor:
        """NLL (N,); each chunk's logits are freed once the gradient of its states is made."""
        made, units = [], []
        for part, t in zip(hidden.detach().split(chunk), target.split(chunk), strict=True):
            with torch.enable_grad():
                h = part.requires_grad_()
                nll = _nll(h, t, head)
                units += torch.autograd.grad(nll.sum(), h)
            made.append(nll.detach())
        ctx.save_for_backward(torch.cat(units))
        return torch.cat(made)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The kept gradients of the states (N, D), times that of the NLL."""
        (unit,) = ctx.saved_tensors
        return (grads[0][:, None] * unit).to(unit.dtype), None, None, None


@torch.no_grad()
def token_statistics(
    hidden: Float[Tensor, "N D"],
    target: Int[Tensor, " N"],
    head: Head,
    *,
    of: Bool[Tensor, " N"] | None = None,
    chunk: int = 512,
) -> TokenStatistics:
    """What evaluation reads of each distribution, chunk by chunk. Equals

    logp = head(hidden).float().log_softmax(-1); p = logp.exp()
    nll = -logp[range(N), target]; hit = logp.argmax(-1) == target
    mean = (p * logp).sum(-1); deviation = (p * (logp - mean[:, None]) ** 2).sum(-1).sqrt()

    With `of` at these tokens alone; elsewhere there is the NLL, no hit, and NaN.
    """
    if of is not None and not bool(of.all()):
        made = token_statistics(hidden[of], target[of], head, chunk=chunk)
        nll, mean, deviation = torch.full((3, len(target)), torch.nan, device=hidden.device)
        hit = torch.zeros_like(of)
        nll[~of] = linear_nll(hidden[~of], target[~of], head, chunk=chunk)
        for values, part in zip((nll, hit, mean, deviation), made, strict=True):
            values[of] = part
        return TokenStatistics(nll, hit, mean, deviation)
    pairs = ((head(h), t) for h, t in zip(hidden.split(chunk), target.split(chunk), strict=True))
    parts = [_statistics(logits[rows].float(), t[rows]) for logits, t in pairs for rows in row_slices(logits)]
    if not parts:
        none = hidden.new_empty(0, dtype=torch.float32)
        return TokenStatistics(none, none.bool(), none, none)
    return TokenStatistics(*map(torch.cat, zip(*parts, strict=True)))


def _statistics(logits: Tensor, target: Tensor) -> TokenStatistics:
    hit = logits.argmax(-1) == target
    logp = logits.log_softmax(-1)
    p = logp.exp()
    mean = torch.linalg.vecdot(p, logp)
    nll = -logp.gather(-1, target[:, None]).squeeze(-1)
    spread = torch.linalg.vecdot(p, (logp - mean[:, None]).square_())  # about the mean: E[x²] − E[x]² would cancel
    return TokenStatistics(nll, hit, mean, spread.sqrt())
