"""Settings of the learned importance; what they mean stands in `atwu.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deleatur.settings import require


@dataclass(frozen=True, kw_only=True, slots=True)
class Learned:
    """A linear scorer over the model's hidden states, learned in alternation with the model (ATWU, 2606.06320)."""

    objective: Literal["matched", "complement"] = "complement"
    """The scorer's data term: the model's own forget loss, or the loss left on unselected tokens."""
    state: Literal["own", "predicting"] = "own"
    """Hidden state of the token being seen, or of the position that predicts it."""
    every: int = 1
    """Model steps between two turns of the scorer, at least 1."""
    budget: float = 0.2
    """Share of a sequence's tokens that the scorer is asked to select, in (0, 1)."""
    entropy: float = 1.0
    """Weight of the mean binary entropy of the importance (pushes it to 0 or 1), 0 or more."""
    population: float = 10.0
    """Weight of the squared distance of the selected share from the budget, 0 or more."""
    l2: float = 1.0
    """Weight of the squared norm of the scorer, 0 or more."""
    lr: float = 0.05
    """Learning rate of the scorer's SGD, above 0; falls linearly to 0 over its turns."""
    momentum: float = 0.9
    """Momentum of the scorer's SGD, in [0, 1)."""
    weight_decay: float = 1e-4
    """Weight decay of the scorer's SGD, 0 or more."""
    clip: float = 1.0
    """Largest norm of the scorer's gradient, above 0."""

    def __post_init__(self) -> None:
        require(self.every >= 1, "importance.every", self.every, "1 or more")
        require(0 < self.budget < 1, "importance.budget", self.budget, "in (0, 1)")
        require(0 <= self.momentum < 1, "importance.momentum", self.momentum, "in [0, 1)")
        for name in ("entropy", "population", "l2", "weight_decay"):
            require(getattr(self, name) >= 0, f"importance.{name}", getattr(self, name), "0 or more")
        for name in ("lr", "clip"):
            require(getattr(self, name) > 0, f"importance.{name}", getattr(self, name), "above 0")
