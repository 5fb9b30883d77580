"""Texts as words that can be compared: without what makes no difference to the fact that they state.

Case, punctuation, the script of digits, marks that part thousands, the two kana and the variants of Chinese characters
make none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby
from typing import Literal

Kind = Literal["number", "word", "hangul", "katakana", "hiragana", "han", "letters"]
HAN, LETTERS = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff", "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
KINDS: tuple[tuple[Kind, re.Pattern[str]], ...] = (  # of scripts that are not cut into words by blanks, or take endings
    ("hangul", re.compile("[\uac00-\ud7af]")),
    ("katakana", re.compile("[\u30a1-\u30ff]")),
    ("hiragana", re.compile("[\u3040-\u309f]")),
    ("han", re.compile(f"[{HAN}々]")),
    ("letters", re.compile(f"[{LETTERS}]")),
)
HIRAGANA = {code: code - 0x60 for code in range(0x30A1, 0x30F7)}  # of each katakana
ALONE = frozenset("AEIOUYАВИКОСУЯ")  # letters that are words of their own where they are small: case tells a grade from them
THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:[.,'’ ]\d{3})+(?![.,]?\d)")
LAKHS = re.compile(r"(?<![\d.,])\d{1,2}(?:,\d{2})+,\d{3}(?!,?\d)")  # as numbers are parted in India
AMOUNT = re.compile(r"(?<![\d.,])(\d{1,3}(?:([.,'’ ])\d{3})(?:\2\d{3})*)(?!\2)[.,](\d{1,2})(?![.,]?\d)")  # 1.234,50
DECIMAL = re.compile(r"(?<![\d.,])(\d{1,3}[.,]\d+|\d+[.,]\d{1,2})(?![.,]?\d)")
JOINT = re.compile(r"(?<=[^\W\d_])[-‐‑](?=\d)")  # as in B-52
BOUND = re.compile(r"(?<=[^\W\d_]{3})['’][^\W\d_]{1,3}(?![\w'’])")  # endings behind an apostrophe
POINT = "\u066b"  # between the digits of a decimal number
CHINESE_DIGITS = re.compile("[〇零一二三四五六七八九]{3,}")
SENTENCE = re.compile(r"(?:^|[.!?:;…。？！\n])[\s\"'“”«»„(\[¿¡-]*$")


@dataclass(frozen=True, slots=True)
class Word:
    """A word, or in scripts without blanks a run of characters of one kind."""

    text: str  # folded
    kind: Kind
    named: bool  # is it a number, or has it a capital that is not its sentence's?


@lru_cache(2**14)
def is_letter(character: str) -> bool:
    """Does it belong to a word: a letter, a digit or a mark?"""
    return unicodedata.category(character)[0] in "LNM" or character == POINT


@lru_cache(2**14)
def folded(text: str) -> str:
    """The folded words with one blank between them; runs of characters stay together."""
    parts, last = [], 0
    for start, end, word in _words(plain := _plain(text)):
        parts.append(" " if any(not is_letter(c) for c in plain[last:start]) or word.kind in ("number", "word") else "")
        parts.append(word.text + (" " if word.kind == "number" else ""))
        last = end
    return " ".join("".join(parts).split())


@lru_cache(2**12)
def words_of(text: str) -> tuple[Word, ...]:
    """The words of a text in their order."""
    return tuple(word for _, _, word in _words(_plain(text)))


def _plain(text: str) -> str:
    """Compatible forms as one, no invisible characters, numbers in one way of writing, no ending behind an apostrophe."""
    text = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf" and c != "\u0640")
    text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
    text = CHINESE_DIGITS.sub(lambda m: "".join(str(int(unicodedata.numeric(c))) for c in m[0].replace("零", "〇")), text)
    text = AMOUNT.sub(lambda m: re.sub(r"\D", "", m[1]) + POINT + m[3], text.replace("\u066c", ","))
    text = LAKHS.sub(lambda m: m[0].replace(",", ""), text)
    text = THOUSANDS.sub(lambda m: re.sub(r"\D", "", m[0]), text)
    text = DECIMAL.sub(lambda m: re.sub(r"[.,]", POINT, m[0]), text)
    return BOUND.sub("", JOINT.sub("", text))


def _words(plain: str) -> Iterator[tuple[int, int, Word]]:
    """Each word with where it stands in the text, which is plain; B52 is one word, 5km are two."""
    at, before = 0, ""
    for kind, run in groupby(_kinds(plain)):
        text = plain[at : (end := at + sum(1 for _ in run))]
        if kind is not None:
            after = plain[end : end + 2]
            first = bool(SENTENCE.search(plain[max(0, at - 8) : at])) if at > 8 else not plain[:at].strip(" \n\"'“”«»„([¿¡-")
            if kind == "word" and after[:1].isdecimal():
                before = text
            else:
                text, start, before = before + text, at - len(before), ""
                yield start, end, _word(text, kind, first=first and not _ends(after, text))
        at = end


def _ends(after: str, text: str) -> bool:
    """Does the sentence end with this one letter, so that it is no article of a word behind it?"""
    return len(text) == 1 and not after.strip(" ")[:1].isalpha()


def _kinds(plain: str) -> Iterator[Kind | None]:
    """Of each character its kind; None between words."""
    last: Kind | None = None
    for c in plain:
        if not is_letter(c):
            last = None
        elif c.isdecimal() or c == POINT:
            last = "number"
        elif not (unicodedata.category(c)[0] == "M" and last) and not (c == "ー" and last in ("katakana", "hiragana")):
            last = _kind(c)
        yield last


@lru_cache(2**14)
def _kind(character: str) -> Kind:
    for kind, pattern in KINDS:
        if pattern.match(character):
            return kind
    return "word"


def _word(text: str, kind: Kind, *, first: bool) -> Word:
    if kind == "number":
        return Word(text.casefold(), kind, True)
    if kind == "han":
        return Word("".join(map(_han, text)), kind, False)
    if kind in ("katakana", "hiragana"):
        return Word(text.translate(HIRAGANA), kind, False)
    named = kind == "word" and ((text[0] != text[0].lower() and not first) or (len(text) > 1 and text.isupper()))
    keeps_case = named and text in ALONE
    return Word(text if keeps_case else unicodedata.normalize("NFC", text.casefold()), kind, named)


@cache
def _han(character: str) -> str:
    """A Chinese character in its simplified form, whether it was traditional or of Japan."""
    return _opencc("t2s").convert(_opencc("jp2t").convert(character))


@cache
def _opencc(name: str):
    from opencc import OpenCC

    return OpenCC(name)
