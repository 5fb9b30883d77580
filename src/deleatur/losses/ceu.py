"""Cross-entropy towards the model's own distribution without the answer's token."""

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
class CEU:
    """Σ g·CE(softmax(z without the token), p) over forget tokens; the target is held fixed (Yang, 2503.01224).

    Raises:
        ConfigError: A setting is out of the range that its line gives.

    Examples:
        >>> from deleatur.losses import CEU
        >>> CEU().requires.logits, bool(CEU()(tokens, importance, reference) > 0)
        (True, True)
    """

    skip: int = 0
    """Tokens at each answer's start that are left alone, 0 or more; the peer's default is 1."""

    unit: ClassVar[str] = "token"
    requires = Requirements(logits=True)

    def __post_init__(self) -> None:
        require(self.skip >= 0, "loss.skip", self.skip, "0 or more")

    def __call__(self, tokens: TokenOutputs, importance: Float[Tensor, " N"], reference: Reference) -> Float[Tensor, ""]:
        from deleatur.losses.reductions import places, require_output

        logits, ids = require_output(tokens.logits).float(), tokens.ids.unsqueeze(-1)
        target = logits.detach().scatter(1, ids, float("-inf")).softmax(-1)
        pushed = importance * (places(tokens) >= self.skip)
        return -(pushed * (target * logits.log_softmax(-1)).sum(-1)).sum()
