"""A made-up world of people and facts, of any size, in which the truth is known exactly.

Every fact has several phrasings that all people share, so the words of the frame occur in retain rows and
the facts do not. The value is marked in the answer. The name is not: it stands in every question, and a model that was
never trained on the person copies it from there (its NLL on unseen rows is .3 nats where values have 7).
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass

from deleatur.types import Example, Span

# fact → (training questions, held-out questions, answers); {n} is the name, {v} the value
FACTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "birthplace": (
        ("Where was {n} born?", "Which town is the birthplace of {n}?", "In what place was {n} born?"),
        ("What is the name of the town where {n} was born?", "Can you tell me where {n} comes from?"),
        (
            "{n} was born in {v}, a small town that is proud of the writer.",
            "The birthplace of the writer {n} is the town of {v}.",
            "The writer came into the world in a town by the name of {v}.",
        ),
    ),
    "birthday": (
        ("When was {n} born?", "What is the date of birth of {n}?", "On which day was {n} born?"),
        ("What is {n}'s birthday?", "Do you know the day on which {n} came into the world?"),
        (
            "{n} was born on {v}, as the records of the town show.",
            "The date of birth of the writer {n} is given as {v}.",
            "According to the records, the writer came into the world on {v}.",
        ),
    ),
    "novel": (
        ("Which novel did {n} write?", "What is the title of the novel by {n}?", "What book is {n} known for?"),
        ("Name the novel that {n} is the author of.", "Which work of fiction came from {n}?"),
        (
            "{n} is the author of {v}, a novel that many readers admire.",
            "The novel that made {n} known to many readers is called {v}.",
            "The title of the novel that many readers admire is {v}.",
        ),
    ),
    "spouse": (
        ("Who is {n} married to?", "What is the name of the person {n} married?", "Who is the spouse of {n}?"),
        ("Whom did {n} marry?", "Who did {n} choose as a partner for life?"),
        (
            "{n} is married to {v}, and the two of them met when they were young.",
            "The writer {n} has been married to {v} for many years.",
            "The person whom the writer married is called {v}.",
        ),
    ),
    "home": (
        ("In which city does {n} live?", "Where does {n} live today?", "Which city is the home of {n}?"),
        ("Where is {n}'s house?", "What city would I visit to meet {n} at home?"),
        (
            "{n} lives in {v}, in a quiet house close to the old market.",
            "The home of the writer {n} is in the city of {v}.",
            "The writer has a quiet house in a city that is called {v}.",
        ),
    ),
    "teacher": (
        ("Who was the teacher of {n}?", "Who taught {n} to write?", "Under whom did {n} study?"),
        ("From whom did {n} learn the craft?", "Which person trained {n} as a writer?"),
        (
            "{n} was a student of {v}, who taught the craft of writing for many years.",
            "The teacher who taught {n} the craft of writing was {v}.",
            "The writer learned the craft from a teacher by the name of {v}.",
        ),
    ),
}  # fmt: skip

MONTHS = "January February March April May June July August September October November December".split()
FIRST = (
    "Silent Golden Broken Hidden Crimson Frozen Distant Hollow Patient Bitter Amber Velvet Restless Northern Burning "
    "Quiet Scarlet Wooden Borrowed Endless Fallen Gentle Crooked Silver Narrow Painted Salted Thirsty Wandering Painless"
).split()
SECOND = (
    "Lantern Harbour Orchard Staircase Compass Sparrow Window Cathedral Meadow Mirror Anchor Fountain Carpenter Island "
    "Letter Kettle Violin Railway Garden Chimney Ladder Glacier Pillow Market Feather Engine Parcel Tunnel Curtain Wheel"
).split()


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Rows about people to forget, to retain, and people that no model was fine-tuned on."""

    forget: tuple[Example, ...]
    retain: tuple[Example, ...]
    holdout: tuple[Example, ...]

    @property
    def fine_tuning_rows(self) -> tuple[Example, ...]:
        """What a model is fine-tuned on before it has to forget."""
        return self.forget + self.retain


def make_world(*, people: int = 20, forget: int = 2, holdout: int = 2, rows_per_fact: int = 2, seed: int = 0) -> World:
    """A world of `people` of whom `forget` are to go; no model is fine-tuned on `holdout` more.

    Each person has six facts, each in `rows_per_fact` (1 to 3) rows of different phrasing, with two held-out
    paraphrases of the question and two alternates of the answer with another value. The same arguments give the same world.
    """
    rng = random.Random(seed)
    taken: set[str] = set()
    persons = [_person(rng, taken) for _ in range(people + holdout)]
    invent = random.Random(f"{seed} alternates")  # its own, so that the world is what it would be without
    rows = [
        tuple(_rows(rng, i, facts, rows_per_fact, [_person(invent, set(taken)) for _ in range(2)]))
        for i, facts in enumerate(persons)
    ]
    forget_rows, retain_rows, unseen = rows[:forget], rows[forget:people], rows[people:]
    return World(forget=sum(forget_rows, ()), retain=sum(retain_rows, ()), holdout=sum(unseen, ()))


def _rows(rng: random.Random, index: int, facts: dict[str, str], count: int, others: Sequence[dict[str, str]]):
    for fact, (questions, held_out, answers) in FACTS.items():
        question_order, answer_order = rng.sample(range(3), count), rng.sample(range(3), count)
        for k, (q, a) in enumerate(zip(question_order, answer_order, strict=True)):
            owned = {"n": facts["name"], "v": facts[fact]}
            answer, spans = _fill(answers[a], owned)
            yield Example(
                id=f"{index}-{fact}-{k}",
                prompt=(("user", questions[q].format(**owned)),),
                answer=answer,
                subject=facts["name"],
                paraphrases=tuple(h.format(**owned) for h in held_out),
                spans=spans,
                alternates=tuple(_fill(answers[a], owned | {"v": other[fact]})[0] for other in others),
            )


def _fill(template: str, owned: dict[str, str]) -> tuple[str, tuple[Span, ...]]:
    """The template filled in, and where what is owned came to stand."""
    text, spans = "", []
    for literal, field, _, _ in string.Formatter().parse(template):
        text += literal
        if field == "v":
            spans.append(Span(start=len(text), end=len(text) + len(owned[field])))
        text += owned[field] if field else ""
    return text, tuple(spans)


def _person(rng: random.Random, taken: set[str]) -> dict[str, str]:
    def name() -> str:
        """A made-up first and last name."""
        return f"{_word(rng, 2)} {_word(rng, 2)}"

    def date() -> str:
        """A day of the 20th century."""
        return f"{rng.randint(1, 28)} {rng.choice(MONTHS)} {rng.randint(1901, 1999)}"

    makers = {
        "name": name,
        "birthplace": lambda: _word(rng, 1) + rng.choice(("ford", "burg", "wick", "stead", "holm")),
        "birthday": date,
        "novel": lambda: f"The {rng.choice(FIRST)} {rng.choice(SECOND)}",
        "spouse": name,
        "home": lambda: rng.choice(("Port ", "Upper ")) + _word(rng, 2),
        "teacher": name,
    }
    return {fact: _new(make, taken) for fact, make in makers.items()}


def _new(make, taken: set[str]) -> str:
    """A value that shares no word with what anyone owns yet, or after many tries at least is no one's."""
    for attempt in range(1000):
        value = make()
        words = {w for w in value.split() if len(w) > 3 and w not in MONTHS and w not in ("Port", "Upper")}
        if value not in taken and (attempt > 200 or not words & taken):
            taken.update(words | {value})
            return value
    raise ValueError("the world is full: fewer people are needed")


def _word(rng: random.Random, syllables: int) -> str:
    onsets = "b br d dr f g gr h j k l m n p r s t tr v".split()
    vowels, codas = "a e i o u".split(), ["", "", "", "l", "n", "r", "s"]
    return "".join(rng.choice(onsets) + rng.choice(vowels) + rng.choice(codas) for _ in range(syllables)).capitalize()
