"""Whom questions are about is found without labels, in any script, and is replaced by others."""

from __future__ import annotations

import pytest

from deleatur.data.others import NAMES, find_subjects, others_than, question_about
from deleatur.data.world import make_world


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_both_people_of_a_world_are_found_in_their_questions_alone(seed):
    world = make_world(seed=seed)
    found = find_subjects([e.question for e in world.forget])
    assert set(found) == {e.subject for e in world.forget}


@pytest.mark.parametrize(
    ("questions", "found"),
    [
        (["Wo wurde Karl von Berg geboren?", "Ist der Beruf von Karl von Berg bekannt?"], ("Karl von Berg",)),
        (["李明出生在哪里?", "李明的老师是谁?", "你知道李明住在哪里吗?"], ("李明",)),
        (["Where was Ann Al-Sayed born?", "Is Ann Al-Sayed's house big?", "Who is Bo Al-Amin?", "Did Bo Al-Amin win?"],
         ("Bo Al-Amin", "Ann Al-Sayed")),
        (["Where does Nojul Nilmu live?"], ("Nojul Nilmu",)),
        (["what is it?", "Where does one live?"], ()),
        ([], ()),
    ],
)  # fmt: skip
def test_a_name_is_what_questions_share_and_no_frame(questions, found):
    assert set(find_subjects(questions)) == set(found)


def test_a_question_about_another_replaces_the_name_and_its_last_part_everywhere():
    asked = question_about("Is NOJUL NILMU happy, and what is Nilmu's birthday?", "Nojul Nilmu", "Clara Hoffmann")
    assert asked == "Is Clara Hoffmann happy, and what is Hoffmann's birthday?"
    assert question_about("Wer ist Nojul Nilmus Vater?", "Nojul Nilmu", "Clara Hoffmann") == "Wer ist Clara Hoffmanns Vater?"
    assert question_about("Who is Nilmuson?", "Nojul Nilmu", "Clara Hoffmann") is None
    assert question_about("李明出生在哪里?", "李明", "Mei Tanaka") == "Mei Tanaka出生在哪里?"
    assert question_about("Is a\\b+ open?", "a\\b+", "Clara Hoffmann") != "Is a\\b+ open?"
    assert question_about("홍길동은 어디에 살아요?", "홍길동", "Mei Tanaka") == "Mei Tanaka은 어디에 살아요?"
    assert question_about("नेहरू का जन्म कहाँ हुआ?", "नेहरू", "Mei Tanaka") == "Mei Tanaka का जन्म कहाँ हुआ?"
    assert question_about("नेहरी कौन है?", "नेहरू", "Mei Tanaka") is None, "another name"
    for name in ("Anne-Marie Bell", 'Anna "Nan" Lee', "Seán O'Brien"):
        assert question_about(f"Who is {name}?", name, name) is None, "its parts are its own"


def test_no_person_named_in_the_rows_is_among_the_others():
    others = others_than(["Was Marie Curie a student of Hoffmann?"], seed=0)
    assert len(others) == len(NAMES) - 2
    assert not {"Marie Curie", "Clara Hoffmann"} & set(others)
    assert others == others_than(["Was Marie Curie a student of Hoffmann?"], seed=0)
    assert others != others_than(["Was Marie Curie a student of Hoffmann?"], seed=1)
