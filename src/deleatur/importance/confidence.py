"""Importance from the probability that the model gives the token now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deleatur.settings import require

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from deleatur.types import TokenOutputs


@dataclass(frozen=True, kw_only=True, slots=True)
class WGA:
    """p^beta: what the model is sure of matters most, what is forgotten is let go (Wang et al., 2502.19301)."""

    beta: float = 1.0
    """Power of the token's probability, 0 or more; 0 is uniform."""

    def __post_init__(self) -> None:
        require(self.beta >= 0, "importance.beta", self.beta, "0 or more")

    def __call__(self, tokens: TokenOutputs) -> Float[Tensor, " N"]:
        return (-self.beta * tokens.nll.detach()).exp()
