"""Importance from the entropy of the model's prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deleatur.requirements import Requirements

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from deleatur.types import TokenOutputs


@dataclass(frozen=True, kw_only=True, slots=True)
class ETW:
    """n·H / ΣH within each sequence of n scored tokens, H the entropy of the prediction, held fixed (2604.17785).

    Tokens with many plausible continuations matter, tokens that grammar dictates do not; the mean over a sequence is 1.

    Examples:
        >>> from deleatur.importance import ETW
        >>> round(ETW()(tokens)[tokens.sequence == 0].mean().item(), 4)
        1.0
    """

    requires = Requirements(logits=True, follows="probability")

    def __call__(self, tokens: TokenOutputs) -> Float[Tensor, " N"]:
        from torch import special

        from deleatur.losses.reductions import lengths, per_sequence, require_output

        entropy = special.entr(require_output(tokens.logits).detach().float().softmax(-1)).sum(-1)
        scale = lengths(tokens) / per_sequence(entropy, tokens).clamp(min=1e-12)
        return entropy * scale[tokens.sequence].detach()
