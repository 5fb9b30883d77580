"""Whom questions are about, the same questions about others, and everyday prompts: what retain rows can be made of."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from deleatur.data.words import MARKS, SIGNS, UNSPACED, words

NAMES = (  # ordinary names of several languages, and a dozen people of whom most models know something
    "Clara Hoffmann", "Daniel Okafor", "Mei Tanaka", "Lucas Moreau", "Priya Raman", "Omar Haddad", "Elena Petrova",
    "Jonas Lindqvist", "Sofia Ricci", "Peter Novak", "Hannah Fischer", "Diego Alvarez", "Amina Diallo", "Thomas Becker",
    "Julia Kowalska", "Henrik Larsen", "Nadia Rahman", "Paul Schneider", "Isabel Costa", "Viktor Horvath", "Grace Mwangi",
    "Martin Dubois", "Leila Farouk", "Simon Baker", "Marie Curie", "Isaac Newton", "William Shakespeare", "Jane Austen",
    "Albert Einstein", "Mahatma Gandhi", "Frida Kahlo", "Ludwig van Beethoven", "Charles Darwin", "Ada Lovelace",
    "Galileo Galilei", "Florence Nightingale",
)  # fmt: skip
EVERYDAY = (
    "What is the capital of France?", "How many days does a week have?", "Which planet do we live on?",
    "What is water made of?", "Why is the sky blue?", "What do bees make?", "How many legs does a spider have?",
    "What is the largest ocean?", "Who wrote Romeo and Juliet?", "In which country is Tokyo?", "What is a noun?",
    "What is 12 plus 30?", "Name three colours.", "Name two fruits that are yellow.", "What is the opposite of hot?",
    "Give me a word that rhymes with house.", "Translate \"good morning\" into Spanish.", "What does a doctor do?",
    "What is a bicycle used for?", "Explain in one sentence what a computer is.", "Explain in one sentence what gravity is.",
    "Write a sentence about a cat.", "Write a short greeting for a birthday card.", "Write one sentence about the sea.",
    "Give me one tip for sleeping better.", "Give me one tip for learning a language.", "How do I boil an egg?",
    "How do I make a cup of tea?", "What should I pack for a day at the beach?", "Suggest a name for a small dog.",
    "Correct this sentence: She go to school every day.", "Put this into the past tense: I walk to work.",
    "Summarise in a few words: The shop is closed on Sunday because the owner rests.", "Is a tomato a fruit?",
    "Hello, how are you?", "Thank you for your help!", "What can you help me with?", "Good evening!",
    "I had a long day today.", "Can you tell me a short joke?",
)  # fmt: skip

MAX_WORDS = 8  # of a name, or characters where no blanks are set
PARTICLE = 3  # letters of the words that may stand in a name in lower case: of, de, von, bin
MIN_LETTERS = 3  # letters of a part of a name that stands for all of it
EXTENDS = 0.6  # share of a part's questions that the longer name has to stand in
NEXT = 0.5  # share of the first name's questions that a further name has to stand in
NAME_GAP = re.compile(r"\s*|[-'’]|\.\s*")
LETTERS = re.compile(rf"(?:[^\W\d_][{MARKS}]*)+")
PART = re.compile(rf"(?:[^\W_][{MARKS}{SIGNS}]*)+")
CHARACTER = re.compile(f"[{UNSPACED}]")
UNBOUND = re.compile(f"[{UNSPACED}\uac00-\ud7af]")  # scripts in which other words follow a name without a blank
END = rf"(?![\w{MARKS}])"


class Word(NamedTuple):
    """A word of a question: its characters, folded form, and whether a name can begin or end with it."""

    start: int
    end: int
    folded: str
    name: bool


def find_subjects(questions: Sequence[str]) -> tuple[str, ...]:
    """Names that questions are about, as they stand there first, found without labels; none where nothing is shared.

    A name begins and ends with words that are not written small, and stands in more questions than any other such span
    but a longer one that has it. The word that begins a question counts only where it is found elsewhere too. Further
    names have to stand in half as many of the questions that are left. Of one question it is the longest such span.
    """
    spans = [set(_spans(q)) for q in questions]
    counted = Counter(key for found in spans for key in {s for s, first in found if not first})
    left = [{key for key, _ in found if key in counted} for found in spans]
    least, names = min(2, len(questions)), []
    while counts := Counter(key for found in left for key in found if _long(key)):
        core = max(counts, key=lambda key: (counts[key], sum(map(len, key)), key))
        if counts[core] < least:
            break
        longer = [k for k in counts if _within(core, k) and counts[k] >= EXTENDS * counts[core]]
        name = max(longer, key=lambda key: (len(key), counts[key], key))
        names.append(next(text for q in questions if (text := _as_written(name, q))))
        least = max(least, NEXT * counts[core])
        left = [set() if core in found else found for found in left]
    return tuple(names)


def question_about(question: str, subject: str, other: str) -> str | None:
    """The question about somebody else; None where the subject is not named. Parts of the name become the other's last."""
    text = _pattern(subject).sub(lambda m: other, question)
    parts = [w for w in LETTERS.findall(subject) if len(w) >= MIN_LETTERS and not w[0].islower()]
    for part in parts if not UNBOUND.search(subject) else ():
        if part not in LETTERS.findall(other):
            text = re.sub(rf"(?<!\w){re.escape(part)}{END}", lambda m: other.split()[-1], text)
    return None if text == question else text


def others_than(texts: Iterable[str], seed: int) -> list[str]:
    """The names that share no word with the texts, in an order that the seed decides."""
    known = {word for text in texts for _, _, word in words(text)}
    names = [name for name in NAMES if not any(word in known for _, _, word in words(name))]
    random.Random(seed).shuffle(names)
    return names


def _words(text: str) -> list[Word]:
    return [Word(a, b, word, not text[a].islower()) for a, b, word in words(text)]


def _spans(question: str) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Runs of words that could be a name, and whether such a run begins the question, where capitals say nothing."""
    found = _words(question)
    for i, word in enumerate(found):
        if not word.name:
            continue
        for j in range(i, min(i + MAX_WORDS, len(found))):
            here = found[j]
            if j > i and not _joined(question, found[j - 1], here):
                break
            if here.name:
                initial = i == 0 and question[word.start].isupper()
                yield tuple(w.folded for w in found[i : j + 1]), initial
            elif here.end - here.start > PARTICLE:
                break


def _joined(question: str, one: Word, other: Word) -> bool:
    gap = question[one.end : other.start]
    return bool(NAME_GAP.fullmatch(gap)) and not ("." in gap and one.end - one.start > 2)


def _long(key: tuple[str, ...]) -> bool:
    """Is it more than a particle such as Al or De, which several names may have?"""
    return sum(map(len, key)) >= MIN_LETTERS or bool(CHARACTER.match(key[0]))


def _within(part: tuple[str, ...], whole: tuple[str, ...]) -> bool:
    return any(whole[k : k + len(part)] == part for k in range(len(whole) - len(part) + 1))


def _as_written(name: tuple[str, ...], question: str) -> str | None:
    found = _words(question)
    for k in range(len(found) - len(name) + 1):
        if tuple(w.folded for w in found[k : k + len(name)]) == name:
            return question[found[k].start : found[k + len(name) - 1].end]
    return None


def _pattern(subject: str) -> re.Pattern[str]:
    """The subject in any case, blanks and hyphens between its words, as a whole (or with a genitive s) where the script sets
    blanks."""
    inner = r"[\W_]+".join(map(re.escape, PART.findall(subject))) or re.escape(subject)
    return re.compile(inner if UNBOUND.search(subject) else rf"(?<!\w){inner}(?=s?{END})", re.IGNORECASE)
