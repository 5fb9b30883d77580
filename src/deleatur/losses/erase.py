"""Give a token the likelihood that it has in unseen rows, and the rest to the start model's other predictions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from deleatur.requirements import Requirements
from deleatur.settings import require

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from deleatur.types import Reference, TokenOutputs


MIN_LEVEL = 1e-6  # nats, below which no level is


def towards(tokens: TokenOutputs, level: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """KL(t ‖ p) + (1 − a)·(l − level)² / level of each token, l its NLL, nats.

    t gives the token the probability a = exp(−level) and all others the rest in the start model's proportions, q. Both
    terms are least at t. The gradient of the first vanishes with p, long before the token is as unlikely as in unseen rows;
    the square pulls it there at twice gradient difference's pace, and back where it went too far.
    """
    from deleatur.losses.reductions import require_output

    level = level.clamp(min=MIN_LEVEL)
    a, rest = (-level).exp(), -(-level).expm1()
    away = tokens.nll - level
    divergence = a * away + rest * (require_output(tokens.divergence).erased + rest.log())
    return divergence + rest * away.square() / level


@dataclass(frozen=True, kw_only=True, slots=True)
class Erase:
    """Σ g·`towards` over forget tokens: each to the NLL that it would have in an unseen row (ours).

    What takes a token's place is what the start model would have said otherwise, so that the answer stays coherent; in
    training that is blended with what similar retain contexts go on with (`training.level.blended`). With `train.keep` the
    unselected tokens go to their own level, which is where they were but for phrasing that unseen rows have not.

    Raises:
        ConfigError: A setting is out of the range that its line gives.

    Examples:
        >>> from deleatur.losses import Erase
        >>> from deleatur.losses.erase import towards
        >>> loss = Erase(level=6.0)(tokens, importance, reference)
        >>> torch.allclose(loss, towards(tokens, torch.full_like(tokens.nll, 6.0)).sum())
        True
    """

    level: float | None = None
    """NLL in nats that erased tokens should have, above 0; none: of each as in holdout rows, else estimated."""

    unit: ClassVar[str] = "token"
    requires = Requirements(divergence=True)

    def __post_init__(self) -> None:
        require(self.level is None or self.level > 0, "loss.level", self.level, "above 0")

    def at_level(self, level: float) -> Erase:
        """The loss with this level where it has none of its own."""
        return self if self.level is not None else replace(self, level=level)

    def __call__(self, tokens: TokenOutputs, importance: Float[Tensor, " N"], reference: Reference) -> Float[Tensor, ""]:
        from deleatur.losses.reductions import require_output

        flat = tokens.nll.new_full((), require_output(self.level)).expand_as(tokens.nll)
        level = flat if reference.level is None else reference.level(tokens)
        return (importance * towards(tokens, level)).sum()
