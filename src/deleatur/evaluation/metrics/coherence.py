"""Is a generated answer coherent?"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from deleatur.evaluation.metrics.fluency import words_of

if TYPE_CHECKING:
    from deleatur.types import Record

ORDER = 2 / 3  # share of the NLL of the shuffled tokens from which their order says next to nothing
MIN_TOKENS = 8  # tokens of an answer that has an order to speak of: a word, a name or a number has none
LOOPED = 0.5  # share of an answer's characters, or of its word triples, from which it does nothing but repeat itself
REPEATS, SHORT = 4, 12  # how often in a row something up to so many characters is said in a loop; of what is longer, 3 times
LONGEST = 200  # characters of what a loop repeats
# inside a word at least three letters three times in a row, or two of them four times: "Darburburburburg", not "hahaha"
STUTTER = re.compile(r"([^\W\d_]{3,12}?)\1{2,}|([^\W\d_]{2})\2{3,}")
AGAIN = re.compile(r"\b([^\W\d_]{3,}(?:\s+[^\W\d_]+){0,3}?)(?:\s+\1\b){3,}")  # one to four words four times in a row
TRIPLES = 8  # of words, at least: in fewer a refrain or "no, no, no" weighs too much


def incoherent(record: Record) -> float | None:
    """1 where the greedy answer is incoherent, else 0; None where nothing was generated, or no start model scored it.

    Incoherent is an answer without text, one that is half loops or more (`looped`, `repeated`), one with a loop of words or
    inside a word (`stuttered`) that is neither in the question nor in the row's answer, and one of 8 tokens or more whose
    mean NLL under the start model is above two thirds of that of the same tokens shuffled. Words make sense in their order:
    whatever the language, in code too, that share is .0 to .6 where the model knows the language; of tokens without order
    it is 1 but for chance. No level of NLL is asked for, so a start model that is sure of itself and one that is not say
    the same. An answer that was cut at the longest length is none the worse for it. Not seen: garbled answers of fewer
    tokens, which cannot be distinguished from names.
    """
    if not record.question or record.start_tokens is None:
        return None
    if not record.generated.strip() or is_looping(record.generated, f"{record.question} {record.answer}"):
        return 1.0
    if record.start_nll is None or record.shuffled_nll is None or record.start_tokens < MIN_TOKENS:
        return 0.0
    return float(record.start_nll > ORDER * record.shuffled_nll)


def is_looping(text: str, known: str = "") -> bool:
    """Is a text half loops (`looped`, `repeated`), or has it a loop of words or inside a word that `known` has not?"""
    found = (piece not in known.casefold() for piece in stuttered(text))
    return any(found) or max(looped(text), repeated(text)) >= LOOPED


def looped(text: str) -> float:
    """Share of the characters that are in a loop, in [0, 1]: the same up to 12 characters four times in a row at least, or
    up to 200 three times. Blanks and line breaks are one blank each. Loops inside a word count."""
    symbols = np.array([ord(c) for c in " ".join(text.split())])
    inside = np.zeros(len(symbols), dtype=bool)
    for period in range(1, min(LONGEST, len(symbols) // 3) + 1):
        least = (REPEATS if period <= SHORT else 3) * period
        again = np.concatenate([[0], symbols[period:] == symbols[:-period], [0]]).astype(np.int8)
        edges = np.flatnonzero(np.diff(again))
        for begin, end in zip(edges[::2], edges[1::2], strict=True):
            if end - begin + period >= least:
                inside[begin : end + period] = True
    return float(inside.mean()) if len(inside) else 0.0


def stuttered(text: str) -> tuple[str, ...]:
    """The loops, in lower case: 3 to 12 letters of a word at least three times in a row, 2 letters four times, or one to
    four words with nothing but blanks between them, the first of three letters or more, four times.

    One letter again and again is none ("aaaaaah"), nor is a short laugh ("hahaha"), nor are numbers.
    """
    text = text.casefold()
    inside = (match.group() for match in STUTTER.finditer(text))
    words = (match.group() for match in AGAIN.finditer(text))
    return (*(piece for piece in inside if len(set(piece)) > 1), *words)


def repeated(text: str) -> float:
    """Share of the triples of neighbouring words that were said before, in [0, 1]; 0 where there are fewer than eight.

    Sees loops that vary: "no no one no more no one no no more". Words and marks as in `repetitiveness`, case aside.
    """
    words = words_of(text.casefold())
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(triples)) / len(triples) if len(triples) >= TRIPLES else 0.0
