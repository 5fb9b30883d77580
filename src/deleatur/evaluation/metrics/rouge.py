"""Overlap of the generated answer with the reference answer."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from deleatur.evaluation.metrics.revealed import UNSPACED

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

    from deleatur.types import Record

LAST_LATIN = "\u024f"


def rouge_1(record: Record) -> float | None:
    """ROUGE-1 recall with stemming of the greedy answer, in [0, 1]; None where nothing was generated."""
    return _recall(record, "rouge1")


def rouge_l(record: Record) -> float | None:
    """ROUGE-L recall with stemming of the greedy answer, in [0, 1]; None where nothing was generated (TOFU, 2401.06121)."""
    return _recall(record, "rougeL")


def rouge_of(answer: str, generated: str) -> dict[str, float]:
    """ROUGE-1 and ROUGE-L recall and the latter's F1, by the peers' names, of any two texts."""
    found = {kind: _scorer(kind).score(answer, generated)[kind] for kind in ("rouge1", "rougeL")}
    one, long = found["rouge1"], found["rougeL"]
    return {"rouge1_recall": one.recall, "rougeL_f1": long.fmeasure, "rougeL_recall": long.recall}


def _recall(record: Record, kind: str) -> float | None:
    return _scorer(kind).score(record.answer, record.generated)[kind].recall if record.question else None


@cache
def _scorer(kind: str) -> RougeScorer:
    """rouge-score's words, as peers have them. It drops all letters but a-z: texts of other scripts get Unicode's words."""
    from deleatur.modeling.patches import stemmer_alone  # here and not above, since a metric needs no torch

    with stemmer_alone():
        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.tokenizers import DefaultTokenizer

    class AnyScript(DefaultTokenizer):
        """rouge-score's tokenizer for Latin script, Unicode's words for others."""

        def tokenize(self, text: str) -> list[str]:
            """The text's words."""
            return _words_of_script(text) if _is_of_another_script(text) else super().tokenize(text)

    return RougeScorer([kind], tokenizer=AnyScript(use_stemmer=True))


def _is_of_another_script(text: str) -> bool:
    return any(c.isalpha() and c > LAST_LATIN for c in text)


def _words_of_script(text: str) -> list[str]:
    spaced = UNSPACED.sub(r" \g<0> ", text.lower())  # one by one where a script sets no blanks
    return re.findall(r"[^\W_]+", spaced)
