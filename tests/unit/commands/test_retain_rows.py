"""Retain rows where none are given: what is asked, and which answers are taken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deleatur.commands.retain_rows import RetainQuestion, check_subject, chosen, full_sentences, made_note, make_questions
from deleatur.config.recipes import RECIPES
from deleatur.data.others import EVERYDAY, NAMES
from deleatur.data.rows import rows_from
from deleatur.data.world import make_world
from deleatur.errors import ConfigError

RUN = RECIPES["atwu"].run(model="m", forget="f")
WORLD = make_world(people=4, forget=1)
UNMARKED = tuple(replace(e, spans=(), subject=None) for e in WORLD.forget)
NAME = WORLD.forget[0].subject or ""


def test_every_forget_question_is_made_about_others_and_never_about_the_subject():
    asked = make_questions(UNMARKED, (), 0)
    about = [a for a in asked if a.other]
    assert len(about) == 48  # four times twelve
    assert {a.question.replace(a.other or "", NAME) for a in about} == {e.question for e in UNMARKED}
    assert not any(word in a.question for a in asked for word in NAME.split())
    assert [a.question for a in asked if a.other is None] == list(EVERYDAY)
    assert len({a.question for a in asked}) == len({a.id for a in asked}) == len(asked)


def test_the_seed_alone_decides_the_questions():
    assert make_questions(UNMARKED, (), 0) == make_questions(WORLD.forget, (), 0)  # the column says what is found without
    assert make_questions(UNMARKED, (), 0) != make_questions(UNMARKED, (), 1)


def test_a_question_to_forget_is_no_everyday_prompt():
    gone = rows_from([{"question": EVERYDAY[0].upper(), "answer": "Paris"}])
    assert EVERYDAY[0] not in {a.question for a in make_questions(gone, (), 0)}


def test_texts_without_questions_leave_the_everyday_prompts():
    assert all(a.other is None for a in make_questions(rows_from([{"text": "Nojul Nilmu lives in Teburg."}]), (), 0))


def test_a_given_subject_must_occur_in_a_question_and_is_the_one_replaced():
    with pytest.raises(ConfigError, match="no forget question names the subject"):
        check_subject(("Nobody",), UNMARKED)
    rows = rows_from([{"question": "is the red house of acme open?", "answer": "No."}])
    run = replace(RUN, subject=("acme",))
    check_subject(("acme",), rows)
    assert make_questions(rows, ("acme",), 0)[0].question.split("house of ")[1].removesuffix(" open?") in NAMES
    with pytest.raises(ConfigError, match="leave one of them out"):
        replace(run, retain="r")


ASKED = [RetainQuestion(id=f"other-{k}", question=f"Where was {name} born?", other=name) for k, name in enumerate(NAMES[:5])]
FRAME = "{} was born in {}, a town that is proud."


@pytest.mark.parametrize("spans", [[], [[24, 30]]])
def test_an_answer_with_the_fact_is_left_out_and_one_in_the_same_phrasing_stays(spans):
    """ "was born in … a town that is proud" is said of all five; Teburg, said once, is what the forget row is about."""
    answer = FRAME.format("Nojul Nilmu", "Teburg")
    forget = rows_from([{"question": "Where was Nojul Nilmu born?", "answer": answer, "spans": spans}])
    towns = ["Ulm", "Bonn", "TEBURG", "Kiel", "Graz"]
    rows = list(chosen(ASKED, [FRAME.format(a.other, t) for a, t in zip(ASKED, towns, strict=True)], forget))
    assert [row["id"] for row in rows] == ["other-0", "other-1", "other-3", "other-4"]
    assert rows[0] == {
        "id": "other-0", "subject": NAMES[0], "question": ASKED[0].question, "answer": FRAME.format(NAMES[0], "Ulm")
    }  # fmt: skip


def test_an_empty_answer_makes_no_row():
    forget = rows_from([{"question": "Where was Nojul Nilmu born?", "answer": "In Teburg."}])
    assert [r["id"] for r in chosen(ASKED[:2], ["", "In Ulm."], forget)] == ["other-1"]


def test_an_answer_that_was_cut_ends_with_its_last_sentence():
    assert full_sentences("One. Two is", cut=True) == "One."
    assert full_sentences("One. Two is", cut=False) == "One. Two is"
    assert full_sentences("no end", cut=True) == ""
    assert full_sentences("一。二", cut=True) == "一。"


def test_the_note_counts_rows_by_their_kind():
    retain = rows_from(
        [{"id": "other-1", "question": "q", "answer": "a"}, {"id": "everyday-1", "question": "r", "answer": "b"}]
    )
    note = made_note(ASKED, retain, None)
    assert note.startswith("No retain rows were given: 2 rows were made from the model's own answers before training (1 to ")
    assert "1 to everyday prompts; 3 left out)." in note
    assert "the model's answers were cut, empty or incoherent" in made_note(ASKED, retain[1:], None)
    everyday = [a for a in ASKED if a.other is None]
    assert "--subject" in made_note(everyday, retain[1:], None)
