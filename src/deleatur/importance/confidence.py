"""Importance from the probability that the model gives the token now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from deleatur.requirements import Requirements
from deleatur.settings import Range, require

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from deleatur.types import TokenOutputs


@dataclass(frozen=True, kw_only=True, slots=True)
class WGA:
    """p^beta: tokens that the model is sure of matter most, forgotten ones no longer (Wang et al., 2502.19301).

    Raises:
        ConfigError: A setting is out of the range that its line gives.

    Examples:
        >>> from deleatur.importance import WGA
        >>> torch.allclose(WGA(beta=2.0)(tokens), torch.exp(-2 * tokens.nll))
        True
    """

    requires = Requirements(follows="probability")
    ranges: ClassVar[Mapping[str, Range]] = {"beta": Range(0.1, 10.0, log=True)}

    beta: float = 1.0
    """Power of the token's probability, 0 or more; 0 is uniform."""

    def __post_init__(self) -> None:
        require(self.beta >= 0, "importance.beta", self.beta, "0 or more")

    def __call__(self, tokens: TokenOutputs) -> Float[Tensor, " N"]:
        return (-self.beta * tokens.nll.detach()).exp()


@dataclass(frozen=True, kw_only=True, slots=True)
class SatImp:
    """p^beta1 · (1 − p)^beta2: neither what is forgotten nor what is still certain (2505.11953).

    Raises:
        ConfigError: A setting is out of the range that its line gives.

    Examples:
        >>> from deleatur.importance import SatImp
        >>> p = torch.exp(-tokens.nll)
        >>> torch.allclose(SatImp(beta1=5.0, beta2=1.0)(tokens), p**5 * (1 - p), atol=1e-6)
        True
    """

    requires = Requirements(follows="probability")
    ranges: ClassVar[Mapping[str, Range]] = {"beta1": Range(1.0, 10.0, log=True), "beta2": Range(0.1, 5.0, log=True)}

    beta1: float = 5.0
    """Power of the token's probability, 0 or more: lowers the importance of forgotten tokens."""
    beta2: float = 1.0
    """Power of its complement, 0 or more: lowers the importance of certain tokens."""

    def __post_init__(self) -> None:
        for name, value in {"beta1": self.beta1, "beta2": self.beta2}.items():
            require(value >= 0, f"importance.{name}", value, "0 or more")

    def __call__(self, tokens: TokenOutputs) -> Float[Tensor, " N"]:
        nll = tokens.nll.detach()
        unsure = -(-nll).expm1()  # 1 − p, exact where p is near 1
        return (-self.beta1 * nll).exp() * unsure.clamp(min=0).pow(self.beta2)
