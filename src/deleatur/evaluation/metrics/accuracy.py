"""Multiple choice: is the right answer the likeliest? A tie is no answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deleatur.evaluation.metrics.probability import average

if TYPE_CHECKING:
    from deleatur.types import Record


def accuracy(record: Record) -> float | None:
    """1 where the answer's log-probability is above every wrong answer's, else 0; None without wrong answers.

    As lm-eval's acc, which gives a tie to the answer that stands first. Where the row has its answer restated, that is the
    right one, since wrong answers are made of it (TOFU) and share its wording and length.
    """
    return float(sum(_right(record)) > max(map(sum, record.wrong))) if record.wrong else None


def accuracy_normalised(record: Record) -> float | None:
    """The same of log-probabilities per token. lm-eval's acc_norm is per character, so the two numbers differ."""
    return float(average(_right(record)) > max(map(average, record.wrong))) if record.wrong else None


def _right(record: Record) -> tuple[float, ...]:
    return record.logp if record.restated is None else record.restated
