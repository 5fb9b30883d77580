"""Are the model's log-probabilities of the answers nearer to those of a model never trained on them, or of the original?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deleatur.auditing.arms import Arm
from deleatur.auditing.attacks.table import Attack, Findings, one_by_one


def run(arm: Arm, setting: str) -> Findings:
    """Log-probabilities of the rows' own answers, token by token."""
    return Findings(values={"logp": tuple(p.logp for p in arm.predictions(arm.encoded()))})


def places(
    model: Sequence[Sequence[float]], control: Sequence[Sequence[float]], original: Sequence[Sequence[float]]
) -> list[float]:
    """The place of each row between control (0) and original (1): ½ + (‖f − f_N‖² − ‖f − f_O‖²) / 2‖f_O − f_N‖².

    The denominator is the mean over the rows, so that a row in which the two hardly differ weighs little.
    """

    def apart(a: Sequence[float], b: Sequence[float]) -> float:
        """Squared distance of two rows' log-probabilities."""
        return float(np.square(np.subtract(a, b)).sum())

    scale = float(np.mean([apart(o, n) for o, n in zip(original, control, strict=True)])) or 1.0
    return [0.5 + (apart(u, n) - apart(u, o)) / (2 * scale) for u, n, o in zip(model, control, original, strict=True)]


NEARER = Attack(
    asks="Log-probabilities of the rows' answers: nearer to the control's or to the original's? By sign flips of subjects.",
    source="after 2601.19755",
    settings=lambda s: ("likelihood",),
    run=one_by_one(run),
    kind="scale",
    needs=frozenset({"retrained"}),
)
