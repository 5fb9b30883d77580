"""How unfamiliar an answer is, as attacks on membership score it: the higher, the less like a training row."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deleatur.evaluation.metrics.probability import loss

if TYPE_CHECKING:
    from deleatur.types import Record

K = 0.4  # share of tokens, as MUSE and OpenUnlearning set it
MIN_DEVIATION = 1e-3  # nats; a distribution of one certain word has none


def min_k(record: Record) -> float | None:
    """Mean NLL of the 40 % least likely answer tokens, at least one, nats (Min-K%, 2310.16789). The end of turn does not
    count; None for an answer of nothing else."""
    return _unlikeliest(record.logp[:-1] if record.ends else record.logp)


def min_k_plus(record: Record) -> float | None:
    """As `min_k`, of log-probabilities in standard deviations from their mean under the model itself (Min-K%++, 2404.02936).

    None for records without that mean. Deviations below .001 nats count as .001, as in OpenUnlearning.
    """
    columns = zip(record.logp, record.mean, record.deviation, strict=False)
    standard = [(p - centre) / max(deviation, MIN_DEVIATION) for p, centre, deviation in columns]
    return _unlikeliest(standard[: len(record.logp) - record.ends])


def zlib_loss(record: Record) -> float | None:
    """Mean NLL, the end of turn included, over the bytes of the answer packed by zlib, nats a byte (2012.07805)."""
    return loss(record) / len(zlib.compress(record.answer.encode()))


def grad_norm(record: Record) -> float | None:
    """Norm of the mean NLL's gradient in the trained weights; None where it was not requested (2402.17012).

    OpenUnlearning leaves the end of turn out and takes the mean of the norms of single tensors, so its numbers differ.
    """
    return record.grad_norm


def _unlikeliest(values: Sequence[float]) -> float | None:
    least = sorted(values)[: max(1, int(K * len(values)))]
    return -sum(least) / len(least) if least else None
