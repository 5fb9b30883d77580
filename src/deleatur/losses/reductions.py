"""Sums that losses share: pure functions of tensors."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deleatur.types import TokenOutputs


def per_sequence(values: Float[Tensor, " N"], tokens: TokenOutputs) -> Float[Tensor, " B"]:
    """Values of tokens summed within their sequences: padded for it, as index_add loses a digit over 257 tokens."""
    longest = max((len(row.ids) - row.start for row in tokens.rows), default=0)
    padded = values.new_zeros(len(tokens.rows), longest)
    return padded.index_put((tokens.sequence, places(tokens)), values).sum(1)


def lengths(tokens: TokenOutputs) -> Float[Tensor, " B"]:
    """Scored tokens in each sequence."""
    return per_sequence(torch.ones_like(tokens.nll), tokens)


def places(tokens: TokenOutputs) -> Int[Tensor, " N"]:
    """Which scored token of its sequence each is, from 0."""
    first = torch.searchsorted(tokens.sequence, tokens.sequence)  # a sequence's tokens stand together
    return torch.arange(len(first), device=first.device) - first


def weighted_nll(tokens: TokenOutputs, importance: Float[Tensor, " N"]) -> Float[Tensor, " B"]:
    """Σ w·l of each sequence, w the importance rescaled within it to sum to its length."""
    scale = lengths(tokens) / per_sequence(importance, tokens).clamp(min=1e-12)
    return per_sequence(importance * scale[tokens.sequence] * tokens.nll, tokens)


def kl(p: Float[Tensor, "N V"], q: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """KL(P‖Q) in nats of distributions given as logits."""
    p, q = p.float().log_softmax(-1), q.float().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def js(p: Float[Tensor, "N V"], q: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """Jensen-Shannon divergence in nats of distributions given as logits: at most log 2."""
    p, q = p.float().log_softmax(-1), q.float().log_softmax(-1)
    m = torch.logaddexp(p, q) - math.log(2)
    return ((p.exp() * (p - m)).sum(-1) + (q.exp() * (q - m)).sum(-1)) / 2


def squared_distance(a: Float[Tensor, "N D"], b: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """Mean squared difference of two states of a token."""
    return (a.float() - b.float()).square().mean(-1)


T = TypeVar("T")


def require_output(value: T | None) -> T:
    """An optional output. Raises LookupError where the model did not compute it."""
    if value is None:
        raise LookupError("the model did not compute this output")
    return value
