"""What of a fact can be looked for in a text of any language: words and their inflections, segments of characters, spans.

No list of languages or words is needed, but for English stop words. In scripts without blanks, and in Korean, whose words
take endings, segments of two syllables (four letters) stand for words.
"""

from __future__ import annotations

import re
import unicodedata

SYLLABLES, LETTERS = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af", "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
SEGMENTED = re.compile(f"[{SYLLABLES}]+|[{LETTERS}]+")
SYLLABLE = re.compile(f"[{SYLLABLES}]")
STEM = 4  # letters at least that two words have to share
# words that carry no fact; everything else in an answer is its content
STOP_WORDS = frozenset(
    "a an the and or but if of in on at by for with from to into as that this these those it its he she they them his her "
    "their is are was were be been being has have had do does did will would can could not no so than then there here who "
    "whom whose which what when where how i you we me my your our him one also very more most such both between during "
    "about over after before up out".split()
)


def is_letter(character: str) -> bool:
    """Does it belong to a word: a letter, a digit or a mark?"""
    return unicodedata.category(character)[0] in "LNM"


def folded(text: str) -> str:
    """Words with one blank between them, without case, punctuation, the encoding of accents and the script of digits."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    plain = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in plain)
    return " ".join("".join(c if is_letter(c) else " " for c in plain).split())


def shares(question: str, answer: str, said: str) -> float | None:
    """Share of the content of an answer without spans that `said` has, in [0, 1]; None where it has no words.

    What the question has does not count, unless that is all. Where no piece is found as it stands, an inflected form
    counts, or one with a prefix, so that 0 means that not even a stem was said.
    """
    question, answer, said = (SEGMENTED.sub(r" \g<0> ", folded(text)) for text in (question, answer, said))
    known, heard = question.split(), said.split()
    words = [w for w in answer.split() if not SEGMENTED.fullmatch(w)]
    content = {w for w in words if w not in STOP_WORDS} or set(words)
    runs = [w for w in answer.split() if SEGMENTED.fullmatch(w)]
    new = {w for w in content if not any(same_word(w, k) for k in known)}
    new = {w for w in new if not _is_particle(w)} or new
    segments = {s for run in runs for s in _segments(run, question)}
    long = {s for s in segments if len(s) > 1 or not SYLLABLE.match(s)}
    pieces = (new | (long or (set() if new else segments))) or content | {s for run in runs for s in _cut(run)}
    if not pieces:
        return None
    found = sum(_has(said, heard, piece) for piece in pieces)
    found = found or sum(any(_inside(piece, word) for word in heard) for piece in pieces if not SEGMENTED.match(piece))
    bare = tuple(map(_without_accents, (question, answer, said)))
    if not found and bare != (question, answer, said):  # as in Äpfel and Apfel, or where capitals have none
        return shares(*bare)
    return found / len(pieces)


def _without_accents(text: str) -> str:
    """Letters of Latin, Greek and Cyrillic without the marks over and under them."""
    return unicodedata.normalize("NFC", re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFD", text)))


def _is_particle(word: str) -> bool:
    """Is it as short as prepositions are, other than English ones, which STOP_WORDS has, and no number?"""
    return not word[0].isdigit() and len(word) <= (1 if word.isascii() else 2)


def same_word(one: str, other: str) -> bool:
    """Are two words the same but for an ending? Those with digits have to be equal.

    Either the one is the beginning of the other and at least half of it, or both begin alike in at least five letters
    and the shorter one goes on for two at most.
    """
    if one == other:
        return True
    short, long = sorted((one, other), key=len)
    if len(short) < STEM or 2 * len(short) < len(long) or any(c.isdigit() for c in one + other):
        return False
    alike = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    return alike == len(short) or (alike > STEM and len(short) - alike <= 2 and 2 * alike >= len(long))


def _inside(piece: str, word: str) -> bool:
    """Is the shorter, of three letters at least, the longer without a short prefix or ending?"""
    short, long = sorted((piece, word), key=len)
    near = len(short) >= STEM - 1 and len(long) - len(short) < STEM and not any(c.isdigit() for c in long)
    return near and (long.startswith(short) or long.endswith(short))


def _has(said: str, heard: list[str], piece: str) -> bool:
    return piece in said if SEGMENTED.match(piece) else any(same_word(piece, word) for word in heard)


def _segments(run: str, question: str) -> list[str]:
    """Segments of what the question does not have of a run of characters."""
    size = _size(run)
    known = [False] * len(run)
    for i in range(len(run) - size + 1):
        if run[i : i + size] in question:
            known[i : i + size] = [True] * size
    rest = "".join(" " if k else c for c, k in zip(run, known, strict=True)).split()
    return [segment for part in rest for segment in _cut(part)]


def _cut(run: str) -> list[str]:
    size = _size(run)
    return [run[i : i + size] for i in range(max(1, len(run) - size + 1))]


def _size(run: str) -> int:
    return 2 if SYLLABLE.match(run) else STEM
