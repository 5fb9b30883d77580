"""Words of a text in any script: what an answer has in common with its prompt."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

# scripts written without blanks between words: a character counts as a word of its own
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")


def words(text: str) -> Iterator[tuple[int, int, str]]:
    """Begin, end and case-folded form of each word: a run of letters and digits, or a character of an unspaced script."""
    for found in WORD.finditer(text):
        yield found.start(), found.end(), unicodedata.normalize("NFKC", found.group()).casefold()


def repeated(text: str, earlier: str) -> list[tuple[int, int]]:
    """Begins and ends of the words of `text` that stand in `earlier` too."""
    known = {word for _, _, word in words(earlier)}
    return [(begin, end) for begin, end, word in words(text) if word in known]
