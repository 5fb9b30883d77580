"""Jensen-Shannon divergence from a fixed refusal, token by token: bounded, so it cannot diverge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from deleatur.requirements import Requirements
from deleatur.settings import require

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from deleatur.types import Reference, TokenOutputs


@dataclass(frozen=True, kw_only=True, slots=True)
class JensUn:
    """Σ g·JS(p, onehot(refusal token)) over forget tokens, at most log 2 each (2509.02820).

    The refusal's tokens are repeated along the answer that is to be forgotten, which stays what the model reads. The
    divergence from a one-hot target has a closed form in the target's probability q alone:
    log 2 + ½·(q·log q − (1 + q)·log(1 + q)). Its retain term is train.retain=js.

    Raises:
        ConfigError: A setting is out of the range that its line gives.

    Examples:
        >>> from deleatur.losses import JensUn
        >>> loss = JensUn(ids=(5, 6))(tokens, importance, reference)  # forget gives the ids from the tokenizer
        >>> 0 < loss.item() / len(tokens.nll) <= 0.6931472
        True
    """

    target: str = "No idea"
    """The refusal to give instead."""
    ids: tuple[int, ...] = ()
    """The target's tokens; from the model's tokenizer unless given."""

    unit: ClassVar[str] = "token"
    requires = Requirements(logits=True)

    def __post_init__(self) -> None:
        require(bool(self.target.strip()), "loss.target", self.target, "a text")

    def tokenized(self, encode: Callable[[str], Sequence[int]]) -> JensUn:
        """The loss with its target as ids."""
        ids = self.ids or tuple(encode(self.target))
        require(bool(ids), "loss.target", self.target, "a text of at least one token")
        return replace(self, ids=ids)

    def __call__(self, tokens: TokenOutputs, importance: Float[Tensor, " N"], reference: Reference) -> Float[Tensor, ""]:
        import math

        from deleatur.losses.reductions import places, require_output

        logits = require_output(tokens.logits).float()
        cycle = tokens.sequence.new_tensor(self.ids)[places(tokens) % len(self.ids)]
        log_q = logits.log_softmax(-1).gather(1, cycle.unsqueeze(-1)).squeeze(-1)
        q = log_q.exp()
        return (importance * (math.log(2) + (q * log_q - (1 + q) * q.log1p()) / 2)).sum()
