"""What is read off the records: pure functions, one record in, one number out (or None where it does not apply)."""

from collections.abc import Callable

from deleatur.metrics.memorisation import exact_memorisation, extraction_strength
from deleatur.metrics.probability import probability
from deleatur.metrics.revealed import revealed
from deleatur.metrics.rouge import rouge_l
from deleatur.types import Record

METRICS: dict[str, Callable[[Record], float | None]] = {
    "revealed": revealed,
    "probability": probability,
    "rouge_l": rouge_l,
    "extraction_strength": extraction_strength,
    "exact_memorisation": exact_memorisation,
}
