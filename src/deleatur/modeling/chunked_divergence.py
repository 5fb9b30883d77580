"""How far a model's predictions are from the start model's, with a token kept and with it taken out."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.utils.checkpoint import checkpoint

from deleatur.modeling.chunked_nll import Head, row_slices
from deleatur.types import Divergence


def linear_divergence(
    hidden: Float[Tensor, "N D"],
    reference: Float[Tensor, "N D"],
    target: Int[Tensor, " N"],
    head: Head,
    reference_head: Head,
    *,
    chunk: int = 512,
) -> tuple[Float[Tensor, " N"], Divergence]:
    """NLL of each target and two divergences from the start model, in nats, fp32. Equals

        logits, start = head(hidden).float(), reference_head(reference).float()
        rest = start.scatter(1, target[:, None], -inf).softmax(-1)
        nll = cross_entropy(logits, target, reduction="none")
        Divergence(kept=kl(start.softmax(-1), logits.softmax(-1)), erased=kl(rest, logits.softmax(-1)))

    `hidden` and `reference` are the states that predict the targets; nothing is differentiated with respect to the
    reference. With more than `chunk` positions both logits are computed chunk by chunk and again in the backward pass, so
    memory grows with chunk × V and not with N × V.
    """
    pairs = zip(hidden.split(chunk), reference.split(chunk), target.split(chunk), strict=True)
    how = (head, reference_head)
    if len(target) <= chunk:
        nll, kept, erased = _of_states(hidden, reference, target, *how)
    else:
        parts: list[Any] = [checkpoint(_of_states, h, r, t, *how, use_reentrant=False) for h, r, t in pairs]
        nll, kept, erased = (torch.cat(values) for values in zip(*parts, strict=True))
    return nll, Divergence(kept=kept, erased=erased)


def _of_states(
    hidden: Tensor, reference: Tensor, target: Tensor, head: Head, reference_head: Head
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.no_grad():
        start = reference_head(reference)
    return divergence_of(head(hidden), start, target)


def divergence_of(
    logits: Float[Tensor, "N V"], start: Float[Tensor, "N V"], target: Int[Tensor, " N"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, " N"]]:
    """NLL, kept and erased of `linear_divergence` from logits of any type; what is in fp32 is a few rows at a time."""
    made: Any = _Divergence.apply(logits, start, target)
    return made


class _Divergence(torch.autograd.Function):
    """Per row: log Z of the logits; for the start model the log mass of all but the target, relative to its own top."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, start: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        """NLL, kept and erased (N,) each, a few rows in fp32 at a time."""
        log_z, top, rest, of_target, distance = logits.new_empty(5, len(target), dtype=torch.float32)
        for rows in row_slices(logits):
            t = target[rows, None]
            z, r = logits[rows].float(), start[rows].to(torch.float32, copy=True)
            of_target[rows] = r.gather(1, t).squeeze(1)
            r.scatter_(1, t, -math.inf)
            log_z[rows], top[rows] = z.logsumexp(-1), r.amax(-1)
            mass = r.sub_(top[rows, None]).exp()
            rest[rows] = mass.sum(-1)
            r -= rest[rows].log()[:, None]
            difference = r.sub_(z - log_z[rows, None]).scatter_(1, t, 0.0)  # log q − log p; the target has no mass
            distance[rows] = torch.linalg.vecdot(mass, difference) / rest[rows]
        nll = log_z - logits.gather(1, target[:, None]).squeeze(1).float()
        odds = of_target - top - rest.log()  # of the target against all others, in the start model
        share, p = torch.sigmoid(-odds), torch.sigmoid(odds)
        kept = share * (logsigmoid(-odds) + distance) + p * (logsigmoid(odds) + nll)
        ctx.save_for_backward(logits, start, target, log_z, top, rest, share, p)
        return nll, kept, distance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the logits (N, V) from those of the three values."""
        logits, start, target, log_z, top, rest, share, p = ctx.saved_tensors
        by_nll, by_kept, by_erased = grads
        pull = (by_kept * share + by_erased) / rest  # towards the other tokens
        pull_target = by_nll + by_kept * p  # towards the target
        out = torch.empty_like(logits)
        for rows in row_slices(logits):
            t = target[rows, None]
            push = (logits[rows].float() - log_z[rows, None]).exp_().mul_((by_nll + by_kept + by_erased)[rows, None])
            other = (start[rows].float() - top[rows, None]).scatter_(1, t, -math.inf).exp_()
            push.addcmul_(other, pull[rows, None], value=-1)
            out[rows] = push.scatter_add_(1, t, -pull_target[rows, None]).to(out.dtype)
        return out, None, None
