"""What holds retain tokens: the cost of each, and what it reads. Importing this does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from deleatur.requirements import Requirements

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from deleatur.types import Reference, TokenOutputs


class RetainTerm(NamedTuple):
    """The cost of each retain token, and which outputs it reads."""

    cost: Callable[[TokenOutputs, Reference], Float[Tensor, " N"]]
    requires: Requirements


def nll(tokens: TokenOutputs, reference: Reference) -> Float[Tensor, " N"]:
    """−log p of each token."""
    return tokens.nll


def kl(tokens: TokenOutputs, reference: Reference) -> Float[Tensor, " N"]:
    """KL(p_ref ‖ p) of each token's prediction."""
    from deleatur.losses.reductions import require_output

    return require_output(tokens.divergence).kept


def js(tokens: TokenOutputs, reference: Reference) -> Float[Tensor, " N"]:
    """Jensen-Shannon divergence of each token's prediction from the start model's."""
    from deleatur.losses.reductions import js, require_output

    return js(reference.logits(tokens), require_output(tokens.logits))


def layer(tokens: TokenOutputs, reference: Reference) -> Float[Tensor, " N"]:
    """Mean squared distance of each token's state in the loss's layer from the start model's."""
    from deleatur.losses.reductions import require_output, squared_distance

    return squared_distance(require_output(tokens.layer), reference.layer(tokens))


RETAIN_TERMS: dict[str, RetainTerm] = {
    "nll": RetainTerm(nll, Requirements()),
    "kl": RetainTerm(kl, Requirements(divergence=True)),
    "js": RetainTerm(js, Requirements(logits=True, start_logits=True)),
    "layer": RetainTerm(layer, Requirements(start_layer=True)),
}
"""Retain terms by the value of `train.retain`."""
