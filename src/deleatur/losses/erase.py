"""Move a token's probability to the start model's other predictions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from deleatur.requirements import Requirements
from deleatur.settings import require

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from deleatur.types import Reference, TokenOutputs


@dataclass(frozen=True, kw_only=True, slots=True)
class Erase:
    """Σ g·[KL(q ‖ p) + (l − level)² / (2·level)] over forget tokens, l the token's NLL (ours).

    q is the start model's distribution with the token taken out and the rest renormalised: what the model would have said
    otherwise, so that the answer stays coherent; in training it is blended with what similar retain contexts go on with
    (`training.level.blended`). The gradient of KL(q ‖ p) vanishes with p, long before the token is as
    unlikely as in unseen rows; the square pulls it to that level at gradient difference's pace, and back where it went too
    far. With `train.keep` the unselected tokens are held where they were; a token with 0 < g < 1 ends in between, so
    importance has to be sharp.

    Raises:
        ConfigError: A setting is out of the range that its line gives.

    Examples:
        >>> from deleatur.losses import Erase
        >>> loss = Erase(level=6.0)(tokens, importance, reference)
        >>> torch.allclose(loss, tokens.divergence.erased.sum() + ((tokens.nll - 6) ** 2 / 12).sum())
        True
    """

    level: float | None = None
    """NLL in nats that an erased token should have, above 0; none: measured on holdout rows, else estimated."""

    unit: ClassVar[str] = "token"
    requires = Requirements(divergence=True)

    def __post_init__(self) -> None:
        require(self.level is None or self.level > 0, "loss.level", self.level, "above 0")

    def at_level(self, level: float) -> Erase:
        """The loss with this level where it has none of its own."""
        return self if self.level is not None else replace(self, level=level)

    def __call__(self, tokens: TokenOutputs, importance: Float[Tensor, " N"], reference: Reference) -> Float[Tensor, ""]:
        from deleatur.losses.reductions import require_output

        level = require_output(self.level)
        pull = (tokens.nll - level).square() / (2 * level)
        return (importance * (require_output(tokens.divergence).erased + pull)).sum()
