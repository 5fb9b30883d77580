"""How likely the answer is. The end of turn counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deleatur.types import Record

TINY = 1e-10  # keeps a quotient of vanishing probabilities a number, as in OpenUnlearning


def probability(record: Record) -> float | None:
    """exp(mean log-probability of the scored tokens), in (0, 1] (TOFU, 2401.06121)."""
    return math.exp(-loss(record))


def loss(record: Record) -> float:
    """Mean NLL of the scored tokens, nats."""
    return -average(record.logp)


def normalised_probability(record: Record) -> float | None:
    """p / (p + Σ p of the wrong answers), p as in `probability`, in [0, 1]; None without wrong answers (TOFU, 2401.06121).

    TOFU's own `probability` of its real authors and world facts.
    """
    if not record.wrong:
        return None
    right, wrong = math.exp(average(record.logp)), sum(math.exp(average(w)) for w in record.wrong)
    return right / (right + wrong + TINY)


def average(logp: Sequence[float]) -> float:
    """Log of the geometric mean of probabilities."""
    return sum(logp) / len(logp)
