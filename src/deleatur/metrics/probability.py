"""How likely the answer is."""

import math

from deleatur.types import Record


def probability(record: Record) -> float | None:
    """exp(mean log-probability of the scored tokens), in (0, 1]; the end of turn counts (TOFU, 2401.06121)."""
    return math.exp(sum(record.logp) / len(record.logp))
