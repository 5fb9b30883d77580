"""A user's plain objects, which `as_importance` and `as_loss` take in, once, where a run is made. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from deleatur.errors import ConfigError
from deleatur.protocols import ForgetLoss, Importance, ImportanceSettings, Learns, Prepares
from deleatur.requirements import Requirements

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from deleatur.types import Reference, Start, TokenOutputs


@dataclass(frozen=True, slots=True)
class PlainImportance:
    """A user's callable that reads nothing but the tokens' NLL, states and rows."""

    function: Callable[[TokenOutputs], Float[Tensor, " N"]]

    requires = Requirements()

    def __call__(self, tokens: TokenOutputs) -> Float[Tensor, " N"]:
        return self.function(tokens)


@dataclass(frozen=True, slots=True)
class PlainLoss:
    """A user's callable over the tokens' NLL."""

    function: Callable[[TokenOutputs, Float[Tensor, " N"], Reference], Float[Tensor, ""]]

    unit: ClassVar[str] = "token"
    requires = Requirements()

    def __call__(self, tokens: TokenOutputs, importance: Float[Tensor, " N"], reference: Reference) -> Float[Tensor, ""]:
        return self.function(tokens, importance, reference)


@dataclass(frozen=True, slots=True)
class PlainSettings:
    """A user's settings that say nothing of what they require."""

    settings: HasPrepare

    requires = Requirements()

    def prepare(self, start: Start) -> Importance:
        """The user's importance, made before training."""
        return as_callable(self.settings.prepare(start))


@runtime_checkable
class HasPrepare(Protocol):
    """Makes an importance before training."""

    def prepare(self, start: Start) -> Any:
        """The importance, made from the start model."""
        ...


def as_importance(part: Any) -> ImportanceSettings:
    """The object itself where it declares what it requires, else with the declaration that it requires nothing more.

    Raises ConfigError for an object that is not an importance, or has more than a call without the declaration.
    """
    if isinstance(part, Importance | Prepares | Learns):
        return part
    if isinstance(part, HasPrepare):
        _check_plain(part, "importance", ("build", "load", "budget", "with_base"))
        return PlainSettings(part)
    return as_callable(part)


def as_callable(part: Any) -> Importance:
    """The same for an importance that was made already."""
    if isinstance(part, Importance):
        return part
    _check_plain(part, "importance", ("update", "updates_after", "state_dict", "scorer", "requires"))
    return PlainImportance(part)


def as_loss(part: Any) -> ForgetLoss:
    """The object itself where it declares what it requires; a plain callable as a loss over tokens' NLL.

    Raises ConfigError for an object that is not a loss, or has more than a call without the declaration.
    """
    if isinstance(part, ForgetLoss):
        return part
    _check_plain(part, "loss", ("requires", "unit", "answers", "at_level", "tokenized"))
    return PlainLoss(part)


def _check_plain(part: Any, kind: str, members: Sequence[str]) -> None:
    """Refuse what would be taken for a bare function though it offers more."""
    name = type(part).__name__
    if not callable(part) and not isinstance(part, HasPrepare):
        raise ConfigError(f"{kind} is {part!r}, which cannot be called; give an object with __call__, see docs/adding.md")
    if found := [member for member in members if hasattr(part, member)]:
        needed = "requires = Requirements()" + (' and unit = "token" or "sequence"' if kind == "loss" else "")
        raise ConfigError(f"{kind} {name} has {found[0]}, but not all that belongs to it; declare {needed} in the class")


def inner(part: object) -> object:
    """A user's own object, without what `as_importance` or `as_loss` put around it."""
    if isinstance(part, PlainSettings):
        return part.settings
    return part.function if isinstance(part, PlainImportance | PlainLoss) else part
