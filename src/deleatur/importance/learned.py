"""Settings of the learned importance; what they mean stands in `atwu.py`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from deleatur.requirements import HiddenState, Requirements
from deleatur.settings import require

if TYPE_CHECKING:
    from deleatur.protocols import Importance, TrainableImportance, TrainingContext


@dataclass(frozen=True, kw_only=True, slots=True)
class Learned:
    """A linear scorer over the model's hidden states, learned in alternation with the model (ATWU, 2606.06320).

    Raises:
        ConfigError: A setting is out of the range that its line gives.

    Examples:
        >>> from deleatur.importance import Learned
        >>> settings = Learned(budget=0.3, pretrain=5)  # as `importance` of a Run, or of deleatur.forget
        >>> settings.requires.follows
        'states'
    """

    objective: Literal["matched", "complement"] = "complement"
    """The scorer's data term: the model's own forget loss, or the loss left on unselected tokens."""
    state: HiddenState = "own"
    """Hidden state of the token being seen, or of the position that predicts it."""
    depth: int = 1
    """Layers of the scorer, at least 1; 1 is linear."""
    negatives: float = 0.0
    """Weight of the mean importance of retain tokens, which are not to be forgotten, 0 or more; not in the paper."""
    pretrain: int = 0
    """Passes over the forget rows in which only the scorer learns, before the first step, 0 or more."""
    warm: bool = False
    """Begin the scorer at the forget-retain contrast of the start model (see `contrast`); not in the paper."""
    frozen: bool = False
    """Keep the scorer fixed during unlearning: as initialised, or as `pretrain` left it."""
    start: str | None = None
    """Folder of a run whose scorer to start from."""
    joint: bool = False
    """One objective for scorer and model, in AdamW at the model's rate, in place of turns; the objective must be matched."""
    every: int = 1
    """Model steps between two turns of the scorer, at least 1."""
    budget: float = 0.2
    """Share of a sequence's tokens that the scorer should select, in (0, 1)."""
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
        for name, value in {"every": self.every, "depth": self.depth}.items():
            require(value >= 1, f"importance.{name}", value, "1 or more")
        require(self.pretrain >= 0, "importance.pretrain", self.pretrain, "0 or more")
        plain = self.objective == "matched" and self.every == 1 and not self.frozen and not self.pretrain
        needed = "off, unless objective is matched, every 1, and neither pretrain nor frozen is on"
        require(not self.joint or plain, "importance.joint", self.joint, needed)
        require(0 < self.budget < 1, "importance.budget", self.budget, "in (0, 1)")
        require(0 <= self.momentum < 1, "importance.momentum", self.momentum, "in [0, 1)")
        for name, value in {
            "entropy": self.entropy,
            "population": self.population,
            "l2": self.l2,
            "weight_decay": self.weight_decay,
            "negatives": self.negatives,
        }.items():
            require(value >= 0, f"importance.{name}", value, "0 or more")
        for name, value in {"lr": self.lr, "clip": self.clip}.items():
            require(value > 0, f"importance.{name}", value, "above 0")

    @property
    def requires(self) -> Requirements:
        """Hidden states as they are at each step; with `warm` a pass of the start model."""
        return Requirements(follows="states", hidden_state=self.state, start_pass=self.warm)

    def with_budget(self, budget: float) -> Learned:
        """The same settings with another budget."""
        return replace(self, budget=budget)

    def conflict(self, loss: Requirements) -> str | None:
        """The matched objective calls the loss again, on the tokens' NLL alone."""
        if self.objective != "matched" or not loss.outputs:
            return None
        return f"no matched objective, since the loss needs {loss.outputs[0]}; take importance.objective=complement"

    def build(self, training: TrainingContext) -> TrainableImportance:
        """The scorer at its start, with its optimizer."""
        from deleatur.importance.scorer import build

        return build(self, training)

    def load(self, folder: Path, width: int) -> Importance:
        """The scorer of a run, as it ended."""
        from deleatur.importance.scorer import ScorerImportance, load_scorer

        return ScorerImportance(load_scorer(folder, width), self.state)

    def check_start(self, width: int) -> None:
        """Raises ConfigError or ModelError where `start` names a run whose scorer is of another kind."""
        from deleatur.importance.scorer import scorer_to_start_from

        scorer_to_start_from(self, width)
