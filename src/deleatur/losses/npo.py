"""Negative preference optimisation: push the likelihood of answers below the start model's, with a saturating loss."""

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
class NPO:
    """−(2/β)·Σ log σ(β·(Σ w·l − Σ l_ref)) over forget sequences, l the NLL of a token (Zhang et al., 2404.05868).

    w is the importance rescaled within each sequence to sum to its length, so a uniform importance is plain NPO; the
    reference stays unweighted. At the reference each sequence gives (2/β)·log 2; as β → 0 the gradient is gradient ascent's.

    Raises:
        ConfigError: A setting is out of the range that its line gives.

    Examples:
        With the model still at the reference, each of the three sequences gives (2/β)·log 2.

        >>> from deleatur.losses import NPO
        >>> round(NPO(beta=0.1)(tokens, importance, reference).item(), 2)
        41.59
    """

    beta: float = 0.1
    """Inverse temperature, above 0; the smaller, the nearer to gradient ascent."""

    unit: ClassVar[str] = "sequence"
    requires = Requirements(start_nll=True)
    ranges: ClassVar[Mapping[str, Range]] = {"beta": Range(0.05, 0.2)}

    def __post_init__(self) -> None:
        require(self.beta > 0, "loss.beta", self.beta, "above 0")

    def __call__(self, tokens: TokenOutputs, importance: Float[Tensor, " N"], reference: Reference) -> Float[Tensor, ""]:
        from torch.nn.functional import logsigmoid

        from deleatur.losses.reductions import per_sequence, weighted_nll

        margin = weighted_nll(tokens, importance) - per_sequence(reference.nll(tokens), tokens)
        return -2 / self.beta * logsigmoid(self.beta * margin).sum()
