"""Overlap of the generated answer with the reference answer."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from types import SimpleNamespace
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
    return dict(_overlap(answer, generated))


def _recall(record: Record, kind: str) -> float | None:
    return _overlap(record.answer, record.generated)[f"{kind}_recall"] if record.question else None


@lru_cache(2**14)  # several metrics read a row
def _overlap(answer: str, generated: str) -> dict[str, float]:
    found = _scorer().score(answer, generated)
    one, long = found["rouge1"], found["rougeL"]
    return {"rouge1_recall": one.recall, "rougeL_f1": long.fmeasure, "rougeL_recall": long.recall}


@cache
def _scorer() -> RougeScorer:
    """rouge-score's words, as peers have them. It drops all letters but a-z: texts of other scripts get Unicode's words."""
    from deleatur.modeling.patches import stemmer_alone  # here and not above, since a metric needs no torch

    with stemmer_alone():
        from nltk.stem.porter import PorterStemmer
        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.tokenize import tokenize
        from rouge_score.tokenizers import Tokenizer

    stemmer = SimpleNamespace(stem=lru_cache(2**16)(PorterStemmer().stem))

    class AnyScript(Tokenizer):
        """rouge-score's stemmed words for Latin script, Unicode's words for others."""

        def tokenize(self, text: str) -> list[str]:
            """The text's words."""
            return _words_of_script(text) if _is_of_another_script(text) else tokenize(text, stemmer)

    return RougeScorer(["rouge1", "rougeL"], tokenizer=AnyScript())


def _is_of_another_script(text: str) -> bool:
    return any(c.isalpha() and c > LAST_LATIN for c in text)


def _words_of_script(text: str) -> list[str]:
    spaced = UNSPACED.sub(r" \g<0> ", text.lower())  # one by one where a script sets no blanks
    return re.findall(r"[^\W_]+", spaced)
