"""The interfaces of a method's two parts, and what a part may offer in addition. Importing this does not import torch.

A class that has the members is one of these; nothing is inherited and nothing is registered. `as_importance` and `as_loss`
take a user's plain object in, once, where a run is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from deleatur.requirements import Requirements

__all__ = [
    "AimsAtLevel",
    "ForgetLoss",
    "HasScorer",
    "Importance",
    "Learns",
    "Prefers",
    "Prepares",
    "ReadsBaseModel",
    "ReadsTokens",
    "Stateful",
    "TrainableImportance",
    "TrainingContext",
]

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor, nn

    from deleatur.settings import Range, Train
    from deleatur.types import Example, Reference, Start, TokenOutputs


@runtime_checkable
class Declares(Protocol):
    """Says what it reads besides the NLL of forget tokens."""

    @property
    def requires(self) -> Requirements:
        """What it reads."""
        ...


@runtime_checkable
class Importance(Declares, Protocol):
    """How much each token matters, held fixed during the model's turn.

    It is called with the forget tokens' outputs and returns one number per token, (N,), 0 or more, without gradient.
    """

    def __call__(self, tokens: TokenOutputs) -> Float[Tensor, " N"]: ...


@runtime_checkable
class Prepares(Declares, Protocol):
    """Settings of an importance that is made before training."""

    def prepare(self, start: Start) -> Importance:
        """The importance, made from the start model."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """Keeps a state that a checkpoint has to hold."""

    def state_dict(self) -> dict[str, Any]:
        """The state, as `torch.nn.Module` returns it."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        ...


@runtime_checkable
class TrainableImportance(Importance, Protocol):
    """An importance that learns, in alternation with the model."""

    def updates_after(self, step: int) -> bool:
        """Is there an update after this step (counted from 1)?"""
        ...

    def update(self, forget: TokenOutputs, retain: TokenOutputs) -> dict[str, float]:
        """Learn from a step's tokens (detached); returns figures for the log."""
        ...


@runtime_checkable
class HasScorer(Protocol):
    """An importance that a trained network computes from hidden states."""

    @property
    def scorer(self) -> nn.Module:
        """The trained network."""
        ...


@runtime_checkable
class Searched(Protocol):
    """A dataclass of settings, some of which `deleatur bench` tunes."""

    ranges: ClassVar[Mapping[str, Range]]  # by field


def _no_start() -> Start:
    raise LookupError("the start model cannot be read any more")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingContext:
    """What a trainable importance may use when it is made."""

    loss: ForgetLoss
    reference: Reference
    train: Train
    width: int  # D, of the hidden state
    steps: int
    pretraining_steps: int = 0
    device: torch.device | str = "cpu"
    start: Callable[[], Start] = _no_start  # made when it is called
    rate: Callable[[int], float] = lambda step: 1.0  # of the model's learning rate, after so many steps
    total: Callable[[Tensor], Tensor] = lambda x: x  # sums a tensor over processes


@runtime_checkable
class Learns(Declares, Protocol):
    """Settings of a trainable importance."""

    @property
    def budget(self) -> float:
        """Share of a row's tokens that should be selected, in (0, 1)."""
        ...

    @property
    def pretrain(self) -> int:
        """Passes over the forget rows in which the importance alone learns, before the first step."""
        ...

    def with_budget(self, budget: float) -> Learns:
        """The same settings with another budget."""
        ...

    def build(self, training: TrainingContext) -> TrainableImportance:
        """The importance at its start."""
        ...

    def load(self, folder: Path, width: int) -> Importance:
        """The importance as a run ended with it. Raises ConfigError or ModelError where the folder holds no such one."""
        ...

    def conflict(self, loss: Requirements) -> str | None:
        """Why it cannot learn from a loss that reads this; None where it can."""
        ...

    def check_start(self, width: int) -> None:
        """Raises ConfigError or ModelError where what it is to start from does not fit the model."""
        ...


ImportanceSettings = Importance | Prepares | Learns
"""What a run names: an importance as it is, or the settings of one that is made."""


@runtime_checkable
class ReadsBaseModel(Protocol):
    """Settings that need the model before it was fine-tuned."""

    @property
    def base(self) -> str | None:
        """Name, folder or .gguf file of that model; None where none is given."""
        ...

    def with_base(self, base: str | None) -> Any:
        """The same settings with another base model."""
        ...

    def check_base(self) -> None:
        """Raises ConfigError without a base model."""
        ...


@runtime_checkable
class ForgetLoss(Declares, Protocol):
    """How tokens are pushed away: a sum over `unit`s ("token" or "sequence"), divided by their global count in the loop.

    It is called with the forget tokens' outputs, one importance per token, (N,), and the start model's numbers, and returns
    a scalar with gradient.

    Examples:
        >>> from deleatur.requirements import Requirements
        >>> class Ascent:
        ...     unit, requires = "token", Requirements()
        ...
        ...     def __call__(self, tokens, importance, reference):
        ...         return -(importance * tokens.nll).sum()
        >>> from deleatur.protocols import ForgetLoss
        >>> isinstance(Ascent(), ForgetLoss)
        True
    """

    unit: ClassVar[str]

    def __call__(self, tokens: TokenOutputs, importance: Float[Tensor, " N"], reference: Reference) -> Float[Tensor, ""]: ...


@runtime_checkable
class Prefers(Protocol):
    """A forget loss that teaches other answers."""

    def answers(self, example: Example) -> Sequence[str]:
        """What may be said instead, at least one. Raises DataError where the row has none."""
        ...


@runtime_checkable
class AimsAtLevel(Declares, Protocol):
    """A forget loss with an NLL at which a token counts as forgotten; None until it is measured."""

    @property
    def level(self) -> float | None:
        """The NLL in nats."""
        ...

    def at_level(self, level: float) -> ForgetLoss:
        """The loss with this level where it has none of its own."""
        ...


@runtime_checkable
class ReadsTokens(Protocol):
    """A forget loss that has to know the tokens of a text of its own."""

    def tokenized(self, encode: Callable[[str], Sequence[int]]) -> ForgetLoss:
        """The loss with its text as token ids."""
        ...
