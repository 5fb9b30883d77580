"""NPO without a reference: answers are pushed down by their mean NLL."""

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
class SimNPO:
    """−(2/β)·Σ log σ(β·mean(w·l) − δ) over forget sequences, l the NLL of a token (Fan et al., 2410.07163).

    w is `scale` times the importance and not rescaled, so a uniform importance is plain SimNPO, and so is the learned one
    before its first turn at scale 2.

    Raises:
        ConfigError: A setting is out of the range that its line gives.

    Examples:
        Tokens that do not count leave (2/β)·log 2 for each of the three sequences.

        >>> from deleatur.losses import SimNPO
        >>> round(SimNPO(beta=2.5)(tokens, 0 * importance, reference).item(), 4)
        1.6636
    """

    beta: float = 2.5
    """Inverse temperature, above 0."""
    delta: float = 0.0
    """Margin in nats times beta, 0 or more (OpenUnlearning's is not times beta): the larger, the further answers go."""
    scale: float = 1.0
    """Factor on the importance, above 0; 2 for one that starts at a half."""

    unit: ClassVar[str] = "sequence"
    requires = Requirements()
    ranges: ClassVar[Mapping[str, Range]] = {"beta": Range(2.0, 3.0), "delta": Range(0.0, 2.0)}

    def __post_init__(self) -> None:
        require(self.beta > 0, "loss.beta", self.beta, "above 0")
        require(self.delta >= 0, "loss.delta", self.delta, "0 or more")
        require(self.scale > 0, "loss.scale", self.scale, "above 0")

    def __call__(self, tokens: TokenOutputs, importance: Float[Tensor, " N"], reference: Reference) -> Float[Tensor, ""]:
        from torch.nn.functional import logsigmoid

        from deleatur.losses.reductions import lengths, per_sequence

        mean = per_sequence(self.scale * importance * tokens.nll, tokens) / lengths(tokens)
        return -2 / self.beta * logsigmoid(self.beta * mean - self.delta).sum()
