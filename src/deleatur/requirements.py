"""What a loss, an importance or a retain term reads besides the NLL of the rows' tokens. It does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from deleatur.errors import ConfigError

__all__ = ["HiddenState", "Requirements"]

HiddenState = Literal["own", "predicting"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirements:
    """What has to be computed for a part of a method. `a | b` is what both need together.

    Examples:
        >>> from deleatur.requirements import Requirements
        >>> both = Requirements(logits=True) | Requirements(start_nll=True)
        >>> both.logits, both.reference
        (True, True)
    """

    logits: bool = False
    """The logits that predict each token, (N, V)."""
    divergence: bool = False
    """KL divergences from the start model's predictions, (N,) each; takes one pass of the start model."""
    layer: int | None = None
    """The state of each token after this decoder layer, (N, D)."""
    preferred: bool = False
    """Answers to give instead of the forget rows' own."""
    start_nll: bool = False
    """The start model's NLL of the same tokens; like the next two it takes one pass of the start model."""
    start_logits: bool = False
    """The start model's logits."""
    start_layer: bool = False
    """The start model's state after the loss's layer."""
    start_pass: bool = False
    """A pass of the start model of the part's own, before training."""
    follows: Literal["probability", "states"] | None = None
    """What of the model as it is at each step an importance follows; None: it is fixed before training."""
    hidden_state: HiddenState = "own"
    """Which hidden state of a token is read: the token's own, or the one of the position that predicts it."""
    inputs: tuple[str, ...] = ()
    """What a user has to give besides rows to forget and to retain, in words."""

    @property
    def forward(self) -> dict[str, Any]:
        """The arguments with which `TokenModel` computes it, but for the teacher of a divergence."""
        return {"state": self.hidden_state, "logits": self.logits, "layer": self.layer}

    @property
    def reference(self) -> bool:
        """Does it need numbers of the start model at the training rows?"""
        return self.start_nll or self.start_logits or self.start_layer or self.divergence

    @property
    def of_the_loss_alone(self) -> tuple[str, ...]:
        """What an importance cannot read, since it is called with the tokens and nothing else."""
        read = {
            "divergence": self.divergence,
            "preferred": self.preferred,
            "start_nll": self.start_nll,
            "start_logits": self.start_logits,
            "start_layer": self.start_layer,
        }
        return tuple(name for name, needed in read.items() if needed)

    @property
    def outputs(self) -> tuple[str, ...]:
        """What of the step it reads besides the tokens' own NLL and the start model's, by name."""
        read = {
            "divergence": self.divergence,
            "layer": self.layer is not None,
            "logits": self.logits,
            "preferred": self.preferred,
            "reference layer": self.start_layer,
            "reference logits": self.start_logits,
        }
        return tuple(name for name, needed in read.items() if needed)

    @property
    def texts(self) -> tuple[str, ...]:
        """What it takes besides the step, in words."""
        costs = {
            "one pass of the start model": self.reference or self.start_pass,
            "full distributions": self.logits or self.start_logits,
            "a middle layer": self.layer is not None or self.start_layer,
        }
        return (*(text for text, needed in costs.items() if needed), *self.inputs)

    def __or__(self, other: Requirements) -> Requirements:
        """Raises ConfigError where the two read different layers or hidden states."""
        if None not in (self.layer, other.layer) and self.layer != other.layer:
            both = f"layer {self.layer} and layer {other.layer}"
            raise ConfigError(f"{both} cannot both be read; take the same one in loss and importance")
        return Requirements(
            logits=self.logits or other.logits,
            divergence=self.divergence or other.divergence,
            layer=self.layer if other.layer is None else other.layer,
            preferred=self.preferred or other.preferred,
            start_nll=self.start_nll or other.start_nll,
            start_logits=self.start_logits or other.start_logits,
            start_layer=self.start_layer or other.start_layer,
            start_pass=self.start_pass or other.start_pass,
            follows=self.follows or other.follows,
            hidden_state=self.hidden_state if other.hidden_state == "own" else other.hidden_state,
            inputs=tuple(dict.fromkeys((*self.inputs, *other.inputs))),
        )
