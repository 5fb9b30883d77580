"""Steer a middle layer's states of forget tokens to a random direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from deleatur.requirements import Requirements
from deleatur.settings import require

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from deleatur.types import Reference, TokenOutputs


@dataclass(frozen=True, kw_only=True, slots=True)
class RMU:
    """Σ g·mean((h − c·u)²) over forget tokens: the state h of a middle layer is drawn to a random direction u (2403.03218).

    u has non-negative entries and length 1. The retain term that goes with it is train.retain=layer, and only a few matrices
    near the layer are trained (train.only). The mean is over all tokens, not first within and then over sequences.

    Raises:
        ConfigError: A setting is out of the range that its line gives.

    Examples:
        >>> from deleatur.losses import RMU
        >>> loss = RMU(layer=7, coefficient=2.0)
        >>> loss.requires.layer, bool(loss(tokens, importance, reference) > 0)
        (7, True)
    """

    layer: int = 7
    """Decoder layer whose output is steered, counted from 0."""
    coefficient: float = 20.0
    """Length c of the vector that states are drawn to, above 0."""
    seed: int = 0
    """Makes the direction."""

    unit: ClassVar[str] = "token"

    def __post_init__(self) -> None:
        require(self.layer >= 0, "loss.layer", self.layer, "0 or more")
        require(self.coefficient > 0, "loss.coefficient", self.coefficient, "above 0")

    @property
    def requires(self) -> Requirements:
        """The state after the steered layer."""
        return Requirements(layer=self.layer)

    def __call__(self, tokens: TokenOutputs, importance: Float[Tensor, " N"], reference: Reference) -> Float[Tensor, ""]:
        import torch

        from deleatur.losses.reductions import require_output, squared_distance

        states = require_output(tokens.layer)
        direction = torch.rand(states.shape[1], generator=torch.Generator().manual_seed(self.seed)).to(states.device)
        target = self.coefficient * direction / direction.norm()
        return (importance * squared_distance(states, target.expand_as(states))).sum()
