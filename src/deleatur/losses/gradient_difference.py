"""Raise the NLL of forget tokens; with saturation, ignore those already forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from deleatur.requirements import Requirements
from deleatur.settings import Range, require

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from deleatur.types import Reference, TokenOutputs


@dataclass(frozen=True, kw_only=True, slots=True)
class GradientDifference:
    """−Σ g·l·sg[exp(−g·l)^saturation] over forget tokens; the retain term makes it a difference.

    With importance 1 it is gradient difference (2203.12817) at saturation 0 and WGA (2502.19301) above; with the learned
    importance it is the model's turn of ATWU (2606.06320).

    Raises:
        ConfigError: A setting is out of the range that its line gives.

    Examples:
        >>> from deleatur.losses import GradientDifference
        >>> loss = GradientDifference()(tokens, importance, reference)
        >>> torch.allclose(loss, -tokens.nll.sum())
        True
    """

    saturation: float = 0.0
    """Power of exp(−g·l) that fades a token out as it is forgotten, 0 or more; 0 turns it off."""

    unit: ClassVar[str] = "token"
    requires = Requirements()
    ranges: ClassVar[Mapping[str, Range]] = {"saturation": Range(0.1, 10.0, log=True)}

    def __post_init__(self) -> None:
        require(self.saturation >= 0, "loss.saturation", self.saturation, "0 or more")

    def __call__(self, tokens: TokenOutputs, importance: Float[Tensor, " N"], reference: Reference) -> Float[Tensor, ""]:
        weighted = importance * tokens.nll
        fade = (-self.saturation * weighted).exp().detach()
        return -(weighted * fade).sum()
