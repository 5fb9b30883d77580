"""Flatten the logits of forget tokens; the retain bound is train.bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from deleatur.requirements import Requirements

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from deleatur.types import Reference, TokenOutputs


@dataclass(frozen=True, kw_only=True, slots=True)
class PDU:
    """Σ g·(max z − mean z)² over forget tokens, z the logits (Entesari et al., 2506.05314).

    Its primal-dual half, a retain NLL that may not exceed a bound, is train.bound and goes with every forget loss.

    Examples:
        >>> from deleatur.losses import PDU
        >>> loss = PDU()(tokens, importance, reference)
        >>> torch.allclose(loss, (tokens.logits.amax(-1) - tokens.logits.mean(-1)).square().sum())
        True
    """

    unit: ClassVar[str] = "token"
    requires = Requirements(logits=True)

    def __call__(self, tokens: TokenOutputs, importance: Float[Tensor, " N"], reference: Reference) -> Float[Tensor, ""]:
        from deleatur.losses.reductions import require_output

        logits = require_output(tokens.logits).float()
        return (importance * (logits.amax(-1) - logits.mean(-1)).square()).sum()
