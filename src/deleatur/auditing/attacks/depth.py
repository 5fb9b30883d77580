"""How deep the fact was erased: the model's states put into the original, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from safetensors.torch import load_file

from deleatur.auditing.arms import Arm
from deleatur.auditing.asking import piece_tokens
from deleatur.auditing.attacks.table import Attack, Findings, one_by_one
from deleatur.auditing.cells import Value
from deleatur.auditing.states import nll_with, states
from deleatur.io.tensors import write_tensors
from deleatur.types import Encoded


def prepare(arm: Arm) -> None:
    """The arm's states where it predicts the facts' tokens."""
    rows = enumerate(arm.encoded())
    with arm.generator.computing():
        found = {str(i): states(arm.model, row)[_layers(arm)][:, _places(row)] for i, row in rows}
    write_tensors(arm.folder / kept_states(arm.name), found)


def kept_states(arm: str) -> str:
    """The file of an arm's states."""
    return f"depth-{arm}.safetensors"


def run(arm: Arm, setting: str) -> Findings:
    """By how many nats the original's mean log-probability of a fact's tokens falls, layer by layer, row by row."""
    kept = load_file(arm.folder / kept_states(arm.name))
    falls: dict[str, list[Value]] = {str(layer): [] for layer in _layers(arm)}
    rows = arm.encoded()
    if not _fits(arm, rows, kept):
        return Findings(values={layer: (None,) * len(rows) for layer in falls})
    with arm.generator.computing():
        for i, (row, predicted) in enumerate(zip(rows, arm.predictions(rows), strict=True)):
            places, unpatched = _places(row), torch.tensor([-p for p in predicted.logp])
            for k, layer in enumerate(_layers(arm)):
                there = nll_with(arm.model, row, layer, places, kept[str(i)][k])
                falls[str(layer)].append(float((there - unpatched)[places].mean()) if places else None)
    return Findings(values={layer: tuple(found) for layer, found in falls.items()})


def _fits(arm: Arm, rows: Sequence[Encoded], kept: Mapping[str, torch.Tensor]) -> bool:
    """Are the states of a model of this size, of as many tokens?"""
    sizes = (torch.Size((len(_layers(arm)), len(_places(row)), arm.model.width)) for row in rows)
    return all(kept[str(i)].shape == size for i, size in enumerate(sizes))


def _places(row: Encoded) -> list[int]:
    return sorted({k for places in piece_tokens(row) for k in places})


def _layers(arm: Arm) -> list[int]:
    total, most = arm.model.layers, arm.settings.patched_layers
    return [*range(total)] if total <= most else [i * total // most for i in range(most)]


def places(model: Mapping[str, Sequence[Value]], control: Mapping[str, Sequence[Value]], threshold: float) -> list[float]:
    """The place of each row between control (0) and original (1): one minus the unlearning depth score.

    Layers count where the control's states lower the truth by more than the threshold, each by how much; NaN where none.
    """
    layers = sorted(control, key=int)
    lowered, lowered_by_control = (
        np.array([[np.nan if v is None else v for v in side[k]] for k in layers]) for side in (model, control)
    )
    counted = np.where(lowered_by_control > threshold, lowered_by_control, 0.0)
    erased = np.clip(lowered / np.where(counted > 0, lowered_by_control, 1.0), 0, 1)
    total = counted.sum(0)
    parts = np.where(counted > 0, counted * erased, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (1 - np.where(total > 0, parts.sum(0) / total, np.nan)).tolist()


DEPTH = Attack(
    asks="The model's states at the facts' tokens put into the original: how much of what the control's states take away "
    "do they take away?",
    source="2605.24614",
    settings=lambda s: ("patched",),
    run=one_by_one(run),
    kind="scale",
    needs=frozenset({"retrained"}),
    prepare=prepare,
    prepared=kept_states,
    on_original=True,
)
