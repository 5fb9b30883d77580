"""Importance from how far a token lies outside of what the retain rows span, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from deleatur.data.words import repeated, words
from deleatur.importance.masks import Fixed
from deleatur.settings import require

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from deleatur.types import Encoded, Start

SHARPNESS = 8.0  # of the sigmoid over log leverage: a tenth of the tokens or fewer end between .05 and .95


@dataclass(frozen=True, kw_only=True, slots=True)
class Leverage:
    """sigmoid of log x·(C + λI)⁻¹·x over a threshold, C the retain tokens' second moment at the start model (ours).

    x holds the last hidden states before and at the token, each of length 1: what the model knew and what reading the
    token made of it. The leverage is how far a key moves per unit of retain price (docs/method.md, the theorem), so a
    token above the threshold can be forgotten without touching what the retain rows share. A word counts as its most
    alien token. One pass of the start model,
    one 2D × 2D matrix, no order of rows and no label. The threshold is the `quantile` of the retain tokens' own leverage,
    each without itself. Words that the prompt already says are copied, not remembered, and get 0.
    """

    reads: ClassVar[str] = "start"

    quantile: float = 0.9
    """Share of the retain tokens, each seen from the others, that lie below the threshold, in (0, 1)."""
    ridge: float = 1e-3
    """λ over the mean of C's diagonal, above 0."""

    rows: int = 1000
    """Most retain rows compared with, spread evenly, at least 1."""

    def __post_init__(self) -> None:
        require(self.rows >= 1, "importance.rows", self.rows, "1 or more")
        require(0 < self.quantile < 1, "importance.quantile", self.quantile, "in (0, 1)")
        require(self.ridge > 0, "importance.ridge", self.ridge, "above 0")

    def prepare(self, start: Start) -> Fixed:
        """One pass of the start model over forget, retain and holdout rows."""
        import torch

        from deleatur.data.batches import evenly

        keys = torch.cat([_keys(x) for x in start.transitions(evenly(start.retain, self.rows))])
        factor = _factor(keys, self.ridge)
        own = _leverage(keys, factor)
        left_out = own / (1 - own / len(keys)).clamp(min=1e-6)
        threshold = left_out.quantile(self.quantile).clamp(min=1e-12).log()
        asked = [*start.forget, *start.holdout]
        made = {}
        for row, states in zip(asked, start.transitions(asked), strict=True):
            values = by_word(_leverage(_keys(states), factor).clamp(min=1e-12).log(), row)
            made[row] = (SHARPNESS * (values - threshold)).sigmoid() * ~copied(row)
        return Fixed(values=made)


def by_word(values: Float[Tensor, " n"], row: Encoded) -> Float[Tensor, " n"]:
    """The largest value among the tokens of each word of the answer; a token outside of all words keeps its own."""
    out = values.clone()
    for begin, end, _ in words(row.example.answer):
        touched = [i for i, (a, b) in enumerate(row.offsets) if a < end and begin < b]
        if touched:
            out[touched] = values[touched].max()
    return out


def copied(row: Encoded) -> Tensor:
    """Which scored tokens touch a word that the prompt already says, (n,) bool."""
    import torch

    said = repeated(row.example.answer, " ".join(content for _, content in row.example.prompt))
    return torch.tensor([any(a < end and begin < b for begin, end in said) for a, b in row.offsets], dtype=torch.bool)


def _keys(states: tuple[Float[Tensor, "n D"], Float[Tensor, "n D"]]) -> Float[Tensor, "n K"]:
    from torch import cat
    from torch.nn.functional import normalize

    return cat([normalize(s, dim=-1) for s in states], dim=1)


def _factor(keys: Float[Tensor, "N K"], ridge: float) -> Float[Tensor, "K K"]:
    """Cholesky factor of the keys' second moment with its ridge, fp64."""
    import torch

    moment = (keys.T @ keys / len(keys)).double()
    return torch.linalg.cholesky(moment + ridge * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype))


def _leverage(keys: Float[Tensor, "n K"], factor: Float[Tensor, "K K"]) -> Float[Tensor, " n"]:
    """x·M⁻¹·x of each key, chunk by chunk."""
    import torch

    parts: Sequence[Tensor] = keys.split(4096)
    solved = (torch.linalg.solve_triangular(factor, x.T.double(), upper=False) for x in parts)
    return torch.cat([keys.new_empty(0), *(s.square().sum(0).float() for s in solved)])
