"""The scorer of a learned importance: made for a training, fitted to another importance, kept in a run folder and read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import LBFGS

from deleatur.errors import ConfigError, ModelError
from deleatur.importance.atwu import LearnedImportance, Scorer
from deleatur.importance.contrast import Contrast
from deleatur.importance.learned import Learned
from deleatur.io.tensors import write_tensors
from deleatur.protocols import TrainingContext
from deleatur.requirements import HiddenState, Requirements
from deleatur.types import HeadStates, TokenOutputs

WARM_L2 = 1e-3  # per squared unit of the scorer's weights: enough to keep them finite


@dataclass(frozen=True, slots=True)
class ScorerImportance:
    """The importance by a trained scorer."""

    scorer: Scorer
    state: HiddenState = "own"

    @property
    def requires(self) -> Requirements:
        """Hidden states as they are at each step."""
        return Requirements(follows="states", hidden_state=self.state)

    def __call__(self, tokens: TokenOutputs) -> Float[Tensor, " N"]:
        return self.scorer.to(tokens.hidden.device)(tokens.hidden).sigmoid().detach()


def build(settings: Learned, training: TrainingContext) -> LearnedImportance:
    """The scorer at its start: at 0, at the end of another run, or fitted to the contrast of the start model."""
    learned = LearnedImportance(settings, training)
    if known := scorer_to_start_from(settings, training.width):
        learned.scorer.load_state_dict(known.state_dict())
    learned.scorer.to(training.device)
    if settings.warm:
        start = training.start()
        target = Contrast().prepare(start)
        fit(learned, start.head_states(start.forget), [target.values[row] for row in start.forget])
    return learned


def fit(importance: LearnedImportance, states: Sequence[HeadStates], target: Sequence[Tensor]) -> None:
    """Fit the scorer to values of each row's tokens by logistic regression."""
    own_state = importance.settings.state == "own"
    device = next(importance.scorer.parameters()).device
    hidden = torch.cat([s.at if own_state else s.before for s in states]).to(device)
    wanted = torch.cat(list(target)).to(device)
    optimizer = LBFGS(importance.scorer.parameters(), max_iter=100, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        """The loss at the present weights, with its gradient."""
        optimizer.zero_grad()
        size = sum(p.square().sum() for p in importance.scorer.parameters())
        loss = binary_cross_entropy_with_logits(importance.scorer(hidden), wanted) + WARM_L2 * size
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)


def scorer_to_start_from(settings: Learned, width: int) -> Scorer | None:
    """The scorer of the run that the settings name. Raises ConfigError or ModelError where it is of another kind."""
    if settings.start is None:
        return None
    start = load_scorer(Path(settings.start), width)
    if start.depth != settings.depth:
        raise ConfigError(f"importance.depth is {settings.depth}, but the scorer of {settings.start} has {start.depth}")
    return start


def save_scorer(scorer: nn.Module, path: Path) -> None:
    """Written atomically. Raises ConfigError where it cannot be written."""
    write_tensors(path, scorer.state_dict())


def load_scorer(folder: Path, width: int) -> Scorer:
    """A run's scorer, as it ended. Raises ModelError where it was learned on another width."""
    path = folder / "scorer.safetensors"
    if not path.exists():
        raise ConfigError(f"{folder} has no scorer.safetensors; its run's importance was not learned")
    try:
        tensors = load_file(path)
        depth = 1 + sum(name.startswith("hidden.") and name.endswith(".weight") for name in tensors)
        known_width = tensors["linear.weight" if depth == 1 else "hidden.0.weight"].shape[1]
        scorer = Scorer(known_width, depth)
        scorer.load_state_dict(tensors)
    except (SafetensorError, KeyError, IndexError, RuntimeError) as e:
        raise ModelError(f"{path} holds no scorer ({e}); run again") from e
    if known_width != width:
        raise ModelError(
            f"the scorer of {folder} reads states of width {known_width}, the model's have {width}; use the run's own model"
        )
    return scorer
