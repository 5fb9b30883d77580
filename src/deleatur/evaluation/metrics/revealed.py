"""Does the greedy answer still contain the fact?"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from deleatur.data import words
from deleatur.evaluation.metrics.folding import folded, is_letter
from deleatur.evaluation.metrics.pieces import shares

if TYPE_CHECKING:
    from deleatur.types import Record, Span

UNSPACED = re.compile(f"[{words.UNSPACED}]")  # scripts without blanks


def revealed(record: Record) -> float | None:
    """Share of the fact's pieces that the greedy answer contains, in [0, 1].

    Pieces are the texts of the spans that must be forgotten, word for word, or without such spans the answer's content:
    words, also inflected, and segments of characters (`shares`). A piece that the question already gives away does not
    count, unless every piece is of that kind. Case, accents' encoding and punctuation make no difference. None for a text,
    for an answer cut where the right one has not come to the fact, and without spans where words alone can't tell whether
    the answer says it.
    """
    if not record.question or record.beyond:
        return None
    pieces = [piece_of(record.answer, s) for s in record.spans if not s.keep]
    return share_revealed(record.question, record.answer, record.generated, pieces)


def share_revealed(question: str, right: str, generated: str, marked: Iterable[str]) -> float | None:
    """`revealed` of texts: the question, its right answer, the model's own, and the pieces that must be forgotten."""
    pieces = {piece for piece in marked if piece.strip()}
    if not pieces:
        return shares(question, right, generated)
    question, answer = (f" {folded(text)} " for text in (question, generated))
    new = {piece for piece in pieces if piece not in question} or pieces
    return sum(piece in answer for piece in new) / len(new)


def judged(record: Record) -> float | None:
    """Does the greedy answer say the fact, in [0, 1], by the run's judge; None where there is no verdict."""
    return record.judged


def cut(record: Record) -> float | None:
    """Did the greedy answer reach the limit of tokens before its end; None where nothing was generated."""
    return None if record.cut is None else float(record.cut)


def piece_of(answer: str, span: Span) -> str:
    """A span's words, with a blank on each side where a word ends with it: within one, as in a stem, any ending will do."""
    text = folded(answer[span.start : span.end])
    if UNSPACED.search(text):
        return text
    left, right = (answer[at - 1 : at + 1] for at in (span.start, span.end))
    inside = [len(pair) == 2 and all(map(is_letter, pair)) for pair in (left, right)]
    return f"{'' if inside[0] else ' '}{text}{'' if inside[1] else ' '}"


def marked_piece(text: str) -> str:
    """A marked text as a piece of its own, of whole words."""
    return folded(text) if UNSPACED.search(text) else f" {folded(text)} "
