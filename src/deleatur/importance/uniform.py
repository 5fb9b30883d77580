"""Every scored token matters alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deleatur.requirements import Requirements

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from deleatur.types import TokenOutputs


@dataclass(frozen=True, kw_only=True, slots=True)
class Uniform:
    """1 for every token.

    Examples:
        >>> from deleatur.importance import Uniform
        >>> Uniform()(tokens).tolist() == [1.0] * len(tokens.nll)
        True
    """

    requires = Requirements()

    def __call__(self, tokens: TokenOutputs) -> Float[Tensor, " N"]:
        return tokens.nll.detach().new_ones(len(tokens.nll))
