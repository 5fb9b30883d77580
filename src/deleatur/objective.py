"""Sums that losses share: pure functions of tensors."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from deleatur.types import TokenOutputs


def per_sequence(values: Float[Tensor, " N"], tokens: TokenOutputs) -> Float[Tensor, " B"]:
    """Values of tokens summed within their sequences."""
    zeros = torch.zeros(len(tokens.keys), dtype=values.dtype, device=values.device)
    return zeros.index_add(0, tokens.sequence, values)


def lengths(tokens: TokenOutputs) -> Float[Tensor, " B"]:
    """Scored tokens in each sequence."""
    return per_sequence(torch.ones_like(tokens.nll), tokens)
