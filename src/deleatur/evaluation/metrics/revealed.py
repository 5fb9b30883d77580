"""Does the greedy answer still contain the fact?"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deleatur.types import Record

# words that carry no fact; everything else in an answer is its content
STOP_WORDS = frozenset(
    "a an the and or but if of in on at by for with from to into as that this these those it its he she they them his her "
    "their is are was were be been being has have had do does did will would can could not no so than then there here who "
    "whom whose which what when where how i you we me my your our him one also very more most such both between during "
    "about over after before up out".split()
)

UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")  # scripts without blanks


def revealed(record: Record) -> float | None:
    """Share of the fact's pieces that the greedy answer contains word for word, in [0, 1]; None where nothing was generated.

    Pieces are the texts of the spans that must be forgotten, or without such spans the answer's content words. A piece
    that the question already gives away does not count, unless every piece is of that kind. Case, accents' encoding and
    punctuation make no difference.
    """
    if not record.question:
        return None
    pieces = {_words(record.answer[s.start : s.end]) for s in record.spans if not s.keep}
    if not any(pieces):
        words = _words(record.answer).split()
        pieces = {w for w in words if w not in STOP_WORDS} or set(words)
    question, answer = _words(record.question), _words(record.generated)
    pieces = {p for p in pieces if p}
    new = {p for p in pieces if not _contains(question, p)} or pieces
    return sum(_contains(answer, p) for p in new) / len(new) if new else None


def judged(record: Record) -> float | None:
    """Does the greedy answer say the fact, in [0, 1], by the run's judge; None where there is no verdict."""
    return record.judged


def cut(record: Record) -> float | None:
    """Did the greedy answer reach the limit of tokens before its end; None where nothing was generated."""
    return None if record.cut is None else float(record.cut)


def _words(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(c if unicodedata.category(c)[0] in "LNM" else " " for c in folded).split())


def _contains(text: str, piece: str) -> bool:
    return piece in text if UNSPACED.search(piece) else f" {piece} " in f" {text} "
