"""Importance from how little forgetting a token has in common with retaining others, made once before training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deleatur.importance.masks import Fixed
from deleatur.requirements import Requirements
from deleatur.settings import require

if TYPE_CHECKING:
    from deleatur.types import Start


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """1 − the cosine between a token's gradient and those of the nearest retain tokens, at the head, in closed form (ours).

    A token conflicts with retain optimality where the push that forgets it undoes the pull that retains another. This asks
    so directly, at the start model, in one pass without a backward. Akin to the contrast of Yoon et al. (ACL 2026).

    Raises:
        ConfigError: A setting is out of the range that its line gives.

    Examples:
        >>> from deleatur.importance import Contrast
        >>> importance = Contrast().prepare(start)
        >>> values = importance.values[start.forget[0]]  # (n,), of the first row's n scored tokens
        >>> bool((values >= 0).all() and (values <= 1).all())
        True
    """

    requires = Requirements(start_pass=True)

    nearest: int = 8
    """Most similar retain tokens whose mean counts, at least 1."""
    rows: int = 256
    """Most retain rows compared with, spread evenly, at least 1."""

    def __post_init__(self) -> None:
        for name, value in {"nearest": self.nearest, "rows": self.rows}.items():
            require(value >= 1, f"importance.{name}", value, "1 or more")

    def prepare(self, start: Start) -> Fixed:
        """One pass of the start model over the forget rows and the retain rows compared with."""
        similarity = start.similarity(self.nearest, self.rows)
        return Fixed(values={row: 1 - s.clamp(0, 1) for row, s in zip(start.forget, similarity, strict=True)})
