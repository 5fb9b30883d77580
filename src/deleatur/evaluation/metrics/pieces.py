"""What of a fact can be looked for in a text of any language: words and their inflections, segments of characters.

No list of languages or words is needed, but for English stop words. Where a word is like the fact's and may be another
(*Praha*, *Praze*, *Prato*), nothing is said: a share that would be a guess is None.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby

from deleatur.evaluation.metrics.folding import Kind, Word, words_of

STEM = 4  # letters at least that two words have to share
SIZES: dict[Kind, int] = {"han": 2, "hiragana": 2, "letters": 4}  # of the segments of runs that are no words
DIALLED = 7  # digits at least of a number that is known however they are grouped
SAID = frozenset(map(str, range(101)))  # numbers that are said in a word or two
SHORT = 8  # pieces; of a longer answer a larger share is the fact in part
CERTAIN, CLOSE, POSSIBLE = 3, 2, 1
HAN_NUMBER = re.compile("[〇零一二三四五六七八九十百千万][年月日号岁时点]")
SINGLE = str.maketrans("ıłøđħŧيكىة", "ilodhtیکیه")  # letters that are written one for the other
# words that carry no fact; everything else in an answer is its content
STOP_WORDS = frozenset(
    "a an the and or but if of in on at by for with from to into as that this these those it its he she they him his her "
    "their is are was were be been being has have had do does did will would can could not no so than then there here who "
    "whom whose which what when where how i you we me my your our him one also very more most such both between during "
    "about over after before up out".split()
)


@lru_cache(2**14)  # several figures read a row
def shares(question: str, answer: str, generated: str) -> float | None:
    """Share of the content of an answer without spans that `generated` has, in [0, 1].

    What the question has does not count, unless that is all. Names and numbers alone count where `generated` has others
    in their place, since then the words around them are no fact. None where the answer has no words, and where what was said
    can be neither taken for the fact nor for another: words that are only like it, another script, or, without names and
    numbers, the smaller part of it beside other words.
    """
    known, said_words = words_of(question), words_of(generated)
    pieces = _pieces(words_of(answer), known)
    if not pieces:
        return None
    runs = [w for w in said_words if w.kind in SIZES]
    best = {piece: max((likeness(piece, w) for w in said_words), default=0) for piece in pieces}
    best |= dict.fromkeys(_dialled(words_of(answer), said_words) & best.keys(), CERTAIN)
    found = [p for p in pieces if best[p] == CERTAIN] or [p for p in pieces if best[p] == CLOSE]
    others = [w for w in _new(said_words, known) if not _is_said(w, pieces)]
    names = [p for p in pieces if p.named]
    numbers = [p for p in names if p.kind == "number"]
    replaced = _replaced(names, found, others)
    dated = numbers and not any(n in found for n in numbers) and any(HAN_NUMBER.search(w.text) for w in others)
    if not replaced and (dated or _replaced(numbers, found, others)):  # a name beside it may be a noun of German
        return None
    if not found or replaced:
        undecided = any(best[p] == POSSIBLE for p in (names if replaced else pieces))
        unclear = undecided or (not replaced and (_is_part(runs, pieces, known) or _in_another_script(pieces, others)))
        return None if unclear else 0.0
    share = len(found) / len(pieces)
    unclear = share < 1 and others and (share <= 0.5 or len(pieces) <= SHORT)  # it may be the frame of another fact
    return None if unclear and not names else share


def _dialled(answer: Sequence[Word], said: Sequence[Word]) -> set[Word]:
    """Of the answer's numbers those of a long one, as of a telephone, that was said in other groups of digits.

    It may have lacked its beginning, such as a country's code, and have a 0 in place of that.
    """
    there = [run for run, _ in _digits(said)]
    found: set[Word] = set()
    for run, parts in _digits(answer):
        for other in there:
            short, long = sorted((run, other), key=len)
            if len(short) >= DIALLED and long.endswith(short):
                found |= {part for k, part in enumerate(parts) if len(_joined(parts[k:])) <= len(other)}
    return found


def _digits(words: Iterable[Word]) -> Iterator[tuple[str, list[Word]]]:
    """The numbers that follow one another, as one without zeros in front, and each."""
    for is_number, run in groupby(words, lambda word: word.kind == "number"):
        if is_number:
            parts = list(run)
            yield _joined(parts), parts


def _joined(numbers: Iterable[Word]) -> str:
    return re.sub(r"[^0-9a-z]", "", "".join(number.text for number in numbers)).lstrip("0")


def _pieces(answer: Sequence[Word], known: Sequence[Word]) -> list[Word]:
    """What of the answer's words and segments is looked for: the new ones, names before particles."""
    words = [w for w in dict.fromkeys(answer) if w.kind not in SIZES]
    content = [w for w in words if w.text not in STOP_WORDS] or words
    new = [w for w in content if not any(_is_known(w, k) for k in known)]
    segments = list(dict.fromkeys(s for run in answer if run.kind in SIZES for s in _unknown(run, known)))
    segments = [s for s in segments if s.kind != "hiragana"] or ([] if new else segments)
    long = [s for s in segments if len(s.text) > 1]
    kept = [w for w in new if not _is_particle(w)] + (long or segments)
    kept = kept if long or any(p.kind not in SIZES for p in kept) or not new else new + segments
    pieces = [p for p in kept if p.kind not in SIZES or len(p.text) > 1] or kept
    return pieces or content + [s for run in answer if run.kind in SIZES for s in _cut(run, run.text)]


def _is_known(word: Word, known: Word) -> bool:
    """Does the question have it, also with another ending where it is no name?"""
    return likeness(word, known) == CERTAIN or (not word.named and likeness(word, known) == CLOSE)


def _new(words: Iterable[Word], known: Sequence[Word]) -> list[Word]:
    """Words and runs that the question does not have, nor stop words and particles."""
    content = [w for w in words if w.text not in STOP_WORDS and not (w.kind == "word" and _is_particle(w))]
    words = [w for w in content if w.kind not in SIZES and not any(_is_known(w, k) for k in known)]
    return words + [s for run in content if run.kind in SIZES for s in _unknown(run, known)]


def _is_said(word: Word, pieces: Iterable[Word]) -> bool:
    return any(likeness(piece, word) > 0 for piece in pieces)


def _replaced(names: Sequence[Word], found: Sequence[Word], others: Sequence[Word]) -> bool:
    """Is none of the names found, and another in the place of one, a number of a number, a capital of a capital?"""
    kinds = {n.kind == "number" for n in names}
    return not any(n in found for n in names) and any(w.named and (w.kind == "number") in kinds for w in others)


def _in_another_script(pieces: Iterable[Word], others: Sequence[Word]) -> bool:
    """Is all else that was said in scripts that the fact is not in, or a fact in Chinese characters said in kana alone, or
    words said in numbers alone, or a small number in words?"""
    pieces = list(pieces)
    if others and all(w.kind == "number" for w in others):  # "3" may be "three"
        return not any(p.kind == "number" for p in pieces)
    named = [p for p in pieces if p.named]
    if others and named and all(p.text in SAID for p in named) and not any(w.kind == "number" for w in others):
        return True  # "3rd" may be "third"
    ours, theirs = ({_script(w) for w in words if w.kind != "number"} for words in (pieces, others))
    kana = ours == {"han"} and theirs == {"hiragana"}
    east = {"han", "hiragana", "katakana"}
    return bool(ours and theirs) and (kana or (ours.isdisjoint(theirs) and not (ours <= east and theirs <= east)))


def _script(word: Word) -> str:
    if word.kind in ("han", "hiragana", "katakana"):
        return word.kind
    return unicodedata.name(word.text[0], "?").partition(" ")[0]


def _is_part(runs: Iterable[Word], pieces: Sequence[Word], known: Sequence[Word]) -> bool:
    """Does a run that was said share with the fact what is too short to be a segment, and half of it at least?"""
    rest = [s for run in runs for s in _unknown(run, known, uncut=True) if run.kind != "hiragana"]
    return any(s.kind == p.kind and _half_in(s, p) for s in rest for p in pieces)


def _half_in(run: Word, piece: Word) -> bool:
    """Are so many characters of the run in the piece, one behind the other: half of them, of Chinese ones all?"""
    size = len(run.text) if run.kind == "han" else max(SIZES[run.kind] - 1, (len(run.text) + 1) // 2)
    return any(run.text[i : i + size] in piece.text for i in range(len(run.text) - size + 1))


def _is_particle(word: Word) -> bool:
    """Is it as short as prepositions are, other than English ones, which STOP_WORDS has, and no name?"""
    if word.named or word.kind not in ("word", "letters"):
        return False
    letters = sum(unicodedata.category(c)[0] == "L" for c in word.text)
    return len(word.text) <= (1 if word.text.isascii() else 2) or (letters <= 1 and not word.text.isascii())


@lru_cache(2**16)
def likeness(piece: Word, word: Word) -> int:
    """CERTAIN, CLOSE (an ending or a prefix in short words), POSSIBLE (may be a form of it or another word), else 0."""
    if piece.kind in SIZES:
        return CERTAIN if word.kind in (piece.kind, "katakana") and piece.text in word.text else 0
    if (piece.kind, word.kind) == ("katakana", "hiragana"):
        return CERTAIN if piece.text in word.text else 0
    if "number" in (piece.kind, word.kind) or piece.text == word.text:
        return CERTAIN if piece.text == word.text else 0
    if "hangul" in (piece.kind, word.kind):
        return _like_in_korean(piece.text, word.text) if piece.kind == word.kind else 0
    if len(piece.text) == 1 or len(word.text) == 1:
        return 0
    one, other = _bare(piece.text), _bare(word.text)
    marks = [_marks(w.text) for w in (piece, word)]
    if not (marks[0] <= marks[1] or marks[1] <= marks[0]):  # as two names that differ in tone
        return POSSIBLE if same_word(one, other) or resembles(one, other) else 0
    if same_word(one, other):
        return CERTAIN
    if _inside(one, other):
        return CLOSE
    return POSSIBLE if resembles(one, other) or same_word(*map(_consonants, (one, other))) else 0


def _consonants(text: str) -> str:
    """Without the vowel signs of Indian scripts, which change before an ending."""
    return "".join(c for c in text if unicodedata.category(c)[0] != "M")


def same_word(one: str, other: str) -> bool:
    """Are two words the same but for an ending? Those with digits have to be equal.

    Either the one is the beginning of the other and at least half of it, or both begin alike in at least five letters,
    which are three quarters of the shorter and half of the longer, and the shorter one goes on for two at most.
    """
    if one == other:
        return True
    short, long = sorted((one, other), key=len)
    if len(short) < STEM or 2 * len(short) < len(long) or any(c.isdigit() for c in one + other):
        return False
    alike = _alike(short, long)
    near = len(short) - alike <= 2 and 4 * alike >= 3 * len(short) and 2 * alike >= len(long)
    return alike == len(short) or (alike > STEM and near)


def resembles(one: str, other: str) -> bool:
    """Could two words be forms of one, as those whose stem or prefix changes are, and as well two words?"""
    short, long = sorted((one, other), key=len)
    alike = _alike(short, long)
    ending = 2 * alike >= len(short) and len(short) - alike <= 2 and len(long) - alike <= STEM
    if ending and alike >= (2 if len(short) == STEM else 3):
        return True
    alike = _alike(short[::-1], long[::-1])
    if alike == len(short) > STEM:  # the last part of a compound
        return True
    return alike >= STEM and 2 * alike >= len(short) and len(long) - alike <= (3 if alike > STEM else 2)


def _inside(one: str, other: str) -> bool:
    """Is the shorter, of three letters at least, the longer without a short ending, or in scripts without case a prefix?"""
    short, long = sorted((one, other), key=len)
    if len(short) < STEM - 1 or len(long) - len(short) >= STEM:
        return False
    return long.startswith(short) or (long.endswith(short) and long.upper() == long.lower())


def _like_in_korean(one: str, other: str) -> int:
    """Two words whose particles and endings may differ: the first syllables count, or in short ones the letters of them."""
    short, long = sorted((one, other), key=len)
    alike = _alike(short, long)
    if alike == len(short) and len(long) - alike <= 3:
        return CERTAIN
    if alike >= 2 and 2 * alike >= len(short) and len(long) - alike <= STEM:
        return CERTAIN
    one, other = sorted((unicodedata.normalize("NFD", w) for w in (one, other)), key=len)  # letters of syllables
    alike = _alike(one, other)
    if len(one) - alike > 2 or len(other) - alike > STEM + 2:
        return 0
    return CERTAIN if alike > STEM else POSSIBLE if alike == STEM or (alike == 3 and _alike(short, long)) else 0


def _alike(one: str, other: str) -> int:
    """How many first letters two words share."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@lru_cache(2**14)
def _marks(text: str) -> frozenset[str]:
    return frozenset(c for c in unicodedata.normalize("NFD", text) if unicodedata.combining(c))


@lru_cache(2**14)
def _bare(text: str) -> str:
    """Letters without marks over and under them, and those that are written one for the other as one."""
    parts = unicodedata.normalize("NFD", text)
    kept = (
        c for c in parts if not 10 <= unicodedata.combining(c) < 84 and unicodedata.combining(c) not in (7, *range(133, 241))
    )
    return unicodedata.normalize("NFC", "".join(kept)).translate(SINGLE)


def _unknown(run: Word, known: Sequence[Word], *, uncut: bool = False) -> list[Word]:
    """What the question does not have of a run of characters, in segments of overlapping characters or `uncut`."""
    size, text = min(SIZES[run.kind], len(run.text)), run.text
    there = [w.text for w in known if w.kind == run.kind]
    is_known = [False] * len(text)
    for i in range(len(text) - size + 1):
        if any(text[i : i + size] in other for other in there):
            is_known[i : i + size] = [True] * size
    rest = "".join(" " if k else c for c, k in zip(text, is_known, strict=True)).split()
    return [Word(part, run.kind, False) for part in rest] if uncut else [s for part in rest for s in _cut(run, part)]


def _cut(run: Word, text: str) -> list[Word]:
    size = min(SIZES[run.kind], len(text))
    return [Word(text[i : i + size], run.kind, False) for i in range(len(text) - size + 1)]
