"""A method as a run names it, and which of its parts go together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deleatur.importance import IMPORTANCES
from deleatur.losses import FORGET_LOSSES
from deleatur.losses.retain import RETAIN_TERMS
from deleatur.plain_parts import inner
from deleatur.protocols import AimsAtLevel, Declares, ForgetLoss, ImportanceSettings, Learns
from deleatur.requirements import Requirements
from deleatur.settings import Lora, Train

TABLES: dict[str, dict[str, type]] = {"loss": FORGET_LOSSES, "importance": IMPORTANCES}


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodSettings:
    """A method as a run names it, independent of a model."""

    loss: ForgetLoss
    importance: ImportanceSettings
    train: Train

    @property
    def requires(self) -> Requirements:
        """All that it reads besides the NLL."""
        return requirements_of(self.loss, self.importance, self.train)


def incompatibility(loss: Any, importance: Any, train: Train, lora: Lora) -> str | None:
    """Why these parts cannot be combined; None where they can. Raises ConfigError where they read different layers."""
    requirements_of(loss, importance, train)
    pair = f"loss {name_of(loss)} with importance {name_of(importance)}"
    follows = importance.requires.follows
    if loss.requires.layer is not None and follows:
        return (
            f"{pair} makes no sense: the loss scrambles a middle layer, so the {follows} that the importance reads are noise"
        )
    if isinstance(loss, AimsAtLevel) and loss.level is None and follows:
        return f"{pair} needs loss.level, since the {follows} that the importance reads change in training; give it in nats"
    if unread := importance.requires.of_the_loss_alone:
        return f"{pair}: an importance cannot require {unread[0]}, which only a loss can read; use prepare(start) instead"
    if isinstance(importance, Learns) and (reason := importance.conflict(loss.requires)):
        return f"{pair} has {reason}"
    if RETAIN_TERMS[train.retain].requires.start_layer and loss.requires.layer is None:
        return f"train.retain is {train.retain}, but loss {name_of(loss)} has no layer; take nll, kl or js"
    if lora.bits is not None and train.precision != "bf16":
        return f"lora.bits {lora.bits} computes in bf16; give --train.precision bf16 with it"
    if train.only is not None and lora.rank is not None:
        return "train.only chooses among the model's own weights, which lora.rank leaves as they are; give one of the two"
    return None


def requirements_of(loss: Declares, importance: Declares, train: Train) -> Requirements:
    """All that a method reads besides the NLL."""
    held = Requirements(divergence=train.keep > 0)
    return loss.requires | importance.requires | RETAIN_TERMS[train.retain].requires | held


def name_of(part: Any) -> str:
    """A loss's or an importance's name in its table; a part of the user's own goes by its class."""
    named = {c: n for table in TABLES.values() for n, c in table.items()}
    inner_part = inner(part)
    return named.get(type(inner_part), type(inner_part).__name__)
