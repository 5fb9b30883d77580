"""The made-up world: what it says of itself is exactly true."""

from __future__ import annotations

import re
from functools import cache

import pytest

from deleatur.data.world import FACTS, make_world
from deleatur.types import Example

SIZES = [(3, 1, 0, 1), (6, 2, 1, 2), (20, 2, 2, 2), (60, 12, 6, 3)]  # people, forget, holdout, rows_per_fact


@cache
def build(size: tuple[int, int, int, int], seed: int = 0):
    people, forget, holdout, rows_per_fact = size
    return make_world(people=people, forget=forget, holdout=holdout, rows_per_fact=rows_per_fact, seed=seed)


def owned(example: Example) -> set[str]:
    return {example.answer[s.start : s.end] for s in example.spans}


def frame(example: Example) -> str:
    """The answer with what is owned, and the name, taken out."""
    text = example.answer
    for s in sorted(example.spans, key=lambda s: -s.start):
        text = text[: s.start] + "…" + text[s.end :]
    return text.replace(str(example.subject), "…")


def words(text: str) -> str:
    return " ".join(["", *re.findall(r"\w+", text), ""])


def says(text: str, value: str) -> bool:
    return words(value) in words(text)


@pytest.mark.parametrize("size", SIZES)
def test_there_are_as_many_rows_as_asked_for(size):
    """People × six facts × rows per fact."""
    people, forget, holdout, per_fact = size
    world = build(size)
    assert [len(s) for s in (world.forget, world.retain, world.holdout)] == [
        6 * per_fact * n for n in (forget, people - forget, holdout)
    ]
    assert world.fine_tuning_rows == world.forget + world.retain
    ids = [e.id for e in (*world.fine_tuning_rows, *world.holdout)]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(2))
def test_spans_are_the_value_and_nothing_else(size, seed):
    """Every answer has its value marked, and not the name, which every question says; the frame is a template's words."""
    templates = {re.sub(r"{\w}", "…", a) for _, _, answers in FACTS.values() for a in answers}
    world = build(size, seed)
    for e in (*world.fine_tuning_rows, *world.holdout):
        assert len(owned(e)) == 1
        assert frame(e) in templates
        assert says(e.question, str(e.subject))
        assert all(s.keep is False for s in e.spans)
        assert e.subject not in owned(e)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(2))
def test_what_one_person_owns_no_other_persons_rows_say(size, seed):
    """Neither in an answer nor in a question, trained on or held out; so nothing that must go is needed elsewhere."""
    world = build(size, seed)
    everyone = (*world.fine_tuning_rows, *world.holdout)
    values: dict[str, set[str]] = {}
    said: dict[str, str] = {}
    for e in everyone:
        person = str(e.subject)
        values.setdefault(person, set()).update(owned(e) | {person})
        said[person] = "\n".join((said.get(person, ""), e.question, e.answer, *e.paraphrases))
    texts = {person: words(text) for person, text in said.items()}
    for person, own in values.items():
        for value in map(words, own):
            assert [other for other, text in texts.items() if value in text] == [person]


@pytest.mark.parametrize("seed", range(5))
def test_every_frame_that_is_forgotten_is_also_retained_at_the_default_size(seed):
    """The frame's words are shared, so they can be distinguished from the facts."""
    world = make_world(seed=seed)
    assert {frame(e) for e in world.forget} <= {frame(e) for e in world.retain}


@pytest.mark.parametrize("size", SIZES)
def test_held_out_paraphrases_are_never_trained_on(size):
    """Neither the very question nor its phrasing."""
    world = build(size)
    trained = {e.question for e in world.fine_tuning_rows}
    phrasings = {e.question.replace(str(e.subject), "…") for e in world.fine_tuning_rows}
    for e in world.fine_tuning_rows:
        assert len(set(e.paraphrases)) == 2
        assert not trained & set(e.paraphrases)
        assert not phrasings & {p.replace(str(e.subject), "…") for p in e.paraphrases}
        assert all(says(p, str(e.subject)) for p in e.paraphrases)


@pytest.mark.parametrize("size", SIZES)
def test_rows_of_one_fact_differ_in_question_and_in_answer(size):
    world = build(size)
    for side in (0, 1):
        said = [(e.question, e.answer)[side] for e in (*world.fine_tuning_rows, *world.holdout)]
        assert len(set(said)) == len(said)


def test_the_same_seed_makes_the_same_world_and_another_seed_another():
    assert build(SIZES[1], 4) == build.__wrapped__(SIZES[1], 4)
    others = [{e.subject for e in build(SIZES[1], seed).fine_tuning_rows} for seed in range(5)]
    assert not set.intersection(*others)


@pytest.mark.parametrize("people", [3, 4, 5, 8, 13, 21, 30, 31, 32, 45, 60])
def test_any_number_of_people_fits(people):
    world = make_world(people=people, forget=1, holdout=1, rows_per_fact=1)
    assert len({e.subject for e in (*world.fine_tuning_rows, *world.holdout)}) == people + 1
