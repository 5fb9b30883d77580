"""Words of a text in any script: what an answer has in common with its prompt."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

# scripts written without blanks between words: a character counts as a word of its own
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
# accents, vowel signs and joiners, which belong to the letter before: to `re` they are no part of a word
MARKS = (
    "\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0711-\u07fd\u0816-\u0963"
    "\u0966-\u0df3\u0f18-\u0f39\u0f71-\u0fc6\u1ab0-\u1b04\u1b34-\u1b44\u1dc0-\u1dff\u200c\u200d\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f"
)
# vowel signs of scripts without blanks
SIGNS = (
    "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u102b-\u103e\u1056-\u1059\u105e-\u1060\u1062-\u1064"
    "\u1067-\u106d\u1071-\u1074\u1082-\u108d\u108f\u109a-\u109d\u17b4-\u17d3\u17dd\u302a-\u302f\u3099\u309a"
)
WORD = re.compile(rf"[{UNSPACED}]|(?:[^\W_{UNSPACED}][{MARKS}]*)+")


def words(text: str) -> Iterator[tuple[int, int, str]]:
    """Begin, end and case-folded form of each word: a run of letters and digits, or a character of an unspaced script."""
    for found in WORD.finditer(text):
        yield found.start(), found.end(), unicodedata.normalize("NFKC", found.group()).casefold()


def repeated(text: str, earlier: str) -> list[tuple[int, int]]:
    """Begins and ends of the words of `text` that stand in `earlier` too."""
    known = {word for _, _, word in words(earlier)}
    return [(begin, end) for begin, end, word in words(text) if word in known]
