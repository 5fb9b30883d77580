"""Steering towards the original: states moved by the difference of mean states over rows about *other* subjects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from deleatur.auditing.arms import ORIGINAL, Arm, halves
from deleatur.auditing.asking import cloze
from deleatur.auditing.attacks.table import Attack, Findings, both_forms
from deleatur.auditing.cells import Value
from deleatur.auditing.settings import AuditSettings
from deleatur.auditing.states import changed, moved, states
from deleatur.data.encode import encode_all
from deleatur.io.tensors import write_tensors
from deleatur.types import Example

RANDOM = "random"
MEANS = "means.safetensors"


def settings(s: AuditSettings) -> tuple[str, ...]:
    """STRENGTH-WINDOW, and random-STRENGTH for comparison."""
    directed = tuple(f"{strength:g}-{window}" for strength in s.strengths for window in range(s.windows))
    return directed + tuple(f"{RANDOM}-{strength:g}" for strength in s.strengths if s.random_directions)


def prepare(arm: Arm) -> None:
    """The original's mean states on all rows that any arm is evaluated on."""
    write_tensors(arm.folder / MEANS, {"forget": _means(arm, arm.rows), "holdout": _means(arm, arm.unseen)})


def run(arm: Arm, wanted: Sequence[str]) -> Iterator[tuple[str, Findings]]:
    """Each half of the subjects evaluated under the direction that the other half gives."""
    original = load_file(arm.folder / MEANS)["holdout" if arm.rows == arm.unseen else "forget"]
    means = _means(arm, arm.rows)
    if original.shape[1:] == means.shape[1:]:
        yield from ((setting, _steered(arm, setting, original, means)) for setting in wanted)
    else:  # a model of another size has no such direction
        yield from ((setting, Findings(values={"cloze": (None,) * len(arm.rows)})) for setting in wanted)


def _steered(
    arm: Arm, setting: str, original: Float[Tensor, "rows layers D"], means: Float[Tensor, "rows layers D"]
) -> Findings:
    first, second = setting.split("-")
    parts = halves(arm.subjects)
    values: list[Value] = [None] * len(arm.rows)
    answered, retain_nll = (), []
    for tested, others in (parts, parts[::-1]):
        towards = original[others].mean(0) - means[others].mean(0)
        size = means[others].mean(0).norm(dim=1)
        rows = [arm.rows[i] for i in tested]
        if first == RANDOM:
            found = _random(arm, rows, size, float(second))
        else:
            with changed(arm.model, moved(_window(arm, towards, size, float(first), int(second)))):
                questions = [q for q in arm.questions() if q.row in set(tested)]
                made = both_forms(arm, questions, encode_all(arm.encoder, rows))
            answered, retain_nll = answered + made.answered, [*retain_nll, made.retain_nll or 0.0]
            found = (made.values or {})["cloze"]
        for place, value in zip(tested, found, strict=True):
            values[place] = value
    return Findings(answered=answered, values={"cloze": tuple(values)}, retain_nll=max(retain_nll, default=None))


def _means(arm: Arm, rows: tuple[Example, ...]) -> Float[Tensor, "rows layers D"]:
    """Mean state of each row's answer, layer by layer."""
    encoded = encode_all(arm.encoder, rows)
    empty = torch.zeros(0, arm.model.layers, arm.model.width)
    with arm.generator.computing():
        return torch.stack([states(arm.model, row).mean(1) for row in encoded]) if encoded else empty


def _window(
    arm: Arm, towards: Float[Tensor, "layers D"], size: Float[Tensor, " layers"], strength: float, window: int
) -> dict[int, Float[Tensor, " D"]]:
    """A vector for each layer of the window, of together `strength` times the state's size; none without a direction."""
    count, total = arm.settings.windows, arm.model.layers
    inside = range(window * total // count, max((window + 1) * total // count, window * total // count + 1))
    inside = [k for k in inside if k < total]
    lengths = towards.norm(dim=1).clamp(min=1e-12)
    return {k: towards[k] / lengths[k] * size[k] * strength / len(inside) for k in inside if lengths[k] > 1e-6 * size[k]}


def _random(arm: Arm, rows: list[Example], size: Float[Tensor, " layers"], strength: float) -> list[float]:
    """Cloze under random directions of the same length, a mean over them; they take the windows in turn."""
    generator = torch.Generator().manual_seed(arm.settings.seed)
    encoded, sums = encode_all(arm.encoder, rows), [0.0] * len(rows)
    for k in range(arm.settings.random_directions):
        towards = torch.randn(arm.model.layers, arm.model.width, generator=generator)
        with changed(arm.model, moved(_window(arm, towards, size, strength, k % arm.settings.windows))):
            found = cloze(encoded, arm.generator.predictions(encoded))
        sums = [a + b / arm.settings.random_directions for a, b in zip(sums, found, strict=True)]
    return sums


STEER = Attack(
    asks="Plain questions and cloze while states are moved along the original's minus the audited model's mean state, read "
    "from rows about other subjects, by .2, .5 and 1 of the state's size, in three windows of layers; random directions "
    "beside it.",
    source="2606.03291",
    settings=settings,
    run=run,
    exposes=True,
    beside=lambda setting: setting.startswith(RANDOM),
    prepare=prepare,
    prepared=lambda arm: MEANS if arm == ORIGINAL else None,
)
