"""Self-distillation from a start model that is a little less sure of the answer."""

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
class UNDIAL:
    """Σ g·CE(softmax(z_ref − β·onehot(token)), p) over forget tokens, z_ref the start model's logits (2402.10052).

    Raises:
        ConfigError: A setting is out of the range that its line gives.

    Examples:
        With β = 0 and the model still at the reference, the loss is the predictions' entropy.

        >>> from deleatur.losses import UNDIAL
        >>> p = tokens.logits.softmax(-1)
        >>> torch.allclose(UNDIAL(beta=0.0)(tokens, importance, reference), -(p * p.log()).sum())
        True
    """

    beta: float = 10.0
    """How much the token's own logit is lowered in the target, 0 or more."""

    unit: ClassVar[str] = "token"
    requires = Requirements(logits=True, start_logits=True)
    ranges: ClassVar[Mapping[str, Range]] = {"beta": Range(1.0, 30.0, log=True)}

    def __post_init__(self) -> None:
        require(self.beta >= 0, "loss.beta", self.beta, "0 or more")

    def __call__(self, tokens: TokenOutputs, importance: Float[Tensor, " N"], reference: Reference) -> Float[Tensor, ""]:
        from deleatur.losses.reductions import require_output

        teacher, ids = reference.logits(tokens).float(), tokens.ids.unsqueeze(-1)
        target = teacher.scatter_add(1, ids, teacher.new_full(ids.shape, -self.beta)).softmax(-1)
        return -(importance * (target * require_output(tokens.logits).float().log_softmax(-1)).sum(-1)).sum()
