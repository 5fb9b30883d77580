"""Does the model still say something, or the same thing over and over?"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deleatur.evaluation.metrics.revealed import UNSPACED

if TYPE_CHECKING:
    from deleatur.types import Record


def fluency(record: Record) -> float | None:
    """Half of `repetitiveness`, bits: at most log₂(w) of a text of w words. As RWKU (2406.10890) computes it."""
    entropy = repetitiveness(record)
    return None if entropy is None else entropy / 2


def repetitiveness(record: Record) -> float | None:
    """⅔·H₂ + 4⁄3·H₃ of the greedy answer, bits: H the entropy of its n-grams; None where nothing was generated (2606.06320).

    Low = repetitive; a text of fewer than two words has 0. Words are runs of letters and digits, and single marks; NLTK's,
    which RWKU takes, differ at contractions.
    """
    if not record.question:
        return None
    words = words_of(record.generated)
    return 2 / 3 * _entropy(words, 2) + 4 / 3 * _entropy(words, 3)


def words_of(text: str) -> list[str]:
    """Runs of letters and digits, and single marks; in scripts without blanks single characters."""
    return re.findall(r"\w+|[^\w\s]", UNSPACED.sub(r" \g<0> ", text))


def _entropy(words: Sequence[str], n: int) -> float:
    counts = Counter(zip(*(words[i:] for i in range(n)), strict=False)).values()
    total = sum(counts)
    return sum(c / total * math.log2(total / c) for c in counts)
