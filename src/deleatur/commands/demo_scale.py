"""How much the demo does: a few minutes' worth, or the larger one with which the tables of docs/results.md were made."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from deleatur.commands.options import Demo
from deleatur.modeling.machine import faster_precision
from deleatur.settings import Data, Evaluation, Guard, Train

FINE_TUNING = Train(epochs=5, batch=8, lr=3e-4, gamma=0.0, precision="bf16")
UPPER = r"^(?!.*(embed|layers\.(\d|1[0-4])\.))"  # the upper half of SmolLM2-135M's 30 layers, and what comes after


@dataclass(frozen=True, kw_only=True, slots=True)
class FineTuning:
    """How a model learns rows; `seed` decides their order."""

    train: Train = FINE_TUNING
    data: Data = field(default_factory=Data)
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How long the demo takes: fine-tuning, forgetting, and how the model is evaluated before and after."""

    fine_tuning: Train
    forgetting: Train  # of it epochs, batch, precision, and which weights are trained
    rate: float = 1.0  # times the recipe's learning rate
    guard: Guard = field(default_factory=Guard)
    evaluation: Evaluation
    data: Data = field(default_factory=Data)


FULL = Scale(
    fine_tuning=FINE_TUNING,
    forgetting=Train(batch=4, precision="bf16"),
    evaluation=Evaluation(rows=48, new_tokens=40),
)
SMALL = Scale(
    fine_tuning=Train(epochs=7, batch=12, lr=1e-3, gamma=0.0, precision="bf16", only=UPPER),
    forgetting=Train(epochs=9, batch=6, precision="bf16", only=UPPER),
    rate=2.0,
    guard=Guard(stop=8),
    evaluation=Evaluation(rows=24, new_tokens=32, precision="bf16"),
    data=Data(template="plain"),
)


def trained_of(only: str | None, layers: int) -> str | None:
    """The pattern of the weights that are trained; `UPPER` is the upper half in models of another depth too."""
    if only != UPPER or layers == 30:
        return only
    return rf"^(?!.*(embed|layers\.({'|'.join(map(str, range(layers // 2)))})\.))"


def scale_of(demo: Demo) -> Scale:
    """The demo's scale; the small one in the precision in which this machine is quicker."""
    if demo.full:
        return FULL
    return SMALL if faster_precision() == "bf16" else in_fp32(SMALL)


def in_fp32(scale: Scale) -> Scale:
    """The same scale with all its training and evaluation in fp32."""
    return replace(
        scale,
        fine_tuning=replace(scale.fine_tuning, precision="fp32"),
        forgetting=replace(scale.forgetting, precision="fp32"),
        evaluation=replace(scale.evaluation, precision="fp32"),
    )
