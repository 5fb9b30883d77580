"""Questions about a subject: built-in forms, a user's file, sentences of texts, and what an endpoint wrote."""

from __future__ import annotations

import pytest

from deleatur.data.questions import FORMS, NAME, built_in, from_texts, one_a_line, read_questions
from deleatur.errors import DataError


@pytest.mark.parametrize("kind", FORMS)
def test_built_in_facts_have_three_wordings_that_all_name_the_subject(kind):
    topics = built_in(kind, "Nojul Nilmu")
    wordings = [w for t in topics for w in t.wordings]
    assert all(len(t.wordings) == 3 for t in topics)
    assert len({t.id for t in topics}) == len(topics)
    assert len({*wordings}) == len(wordings)
    assert all(w.count("Nojul Nilmu") == 1 for w in wordings)
    assert not any(NAME in w for w in wordings)


def test_an_empty_line_ends_the_wordings_of_a_fact(tmp_path):
    path = tmp_path / "fragen.txt"
    path.write_text("\nWo wurde {name} geboren?\nWoher kommt {name}?\n\n\nWie heißt Karl von Bergs Vater?\n", "utf-8")
    assert [t.wordings for t in read_questions(path, "Karl von Berg")] == [
        ("Wo wurde Karl von Berg geboren?", "Woher kommt Karl von Berg?"),
        ("Wie heißt Karl von Bergs Vater?",),
    ]


def test_strangers_are_asked_about_themselves_where_an_ending_is_attached_to_the_name(tmp_path):
    path = tmp_path / "kysymykset.txt"
    path.write_text("Missä {name}in koti on?\nNojul Nilmu: kuka?\n", "utf-8")
    (topic,) = read_questions(path, "Nojul Nilmu")
    assert topic.wordings == ("Missä Nojul Nilmuin koti on?", "Nojul Nilmu: kuka?")
    assert topic.about("Nojul Nilmu", "Mei Tanaka") == ["Missä Mei Tanakain koti on?", "Mei Tanaka: kuka?"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Who is {name}\0?", "is not text"),
        ("Who is it?\n", "line 1: names neither"),
        ("\n \n", "holds no questions"),
        (None, "cannot be read"),
    ],
)
def test_questions_that_cannot_be_used_are_refused(tmp_path, text, said):
    path = tmp_path / "q.txt"
    if text is not None:
        path.write_text(text, "utf-8")
    with pytest.raises(DataError, match=said):
        read_questions(path, "Nojul Nilmu")


def test_a_definition_becomes_a_question_and_another_sentence_is_cut_after_the_name(tmp_path):
    (tmp_path / "a.txt").write_text(
        "Nojul Nilmu is a writer from Teburg. She likes tea.\nIn Teburg, Nojul Nilmu lives in an old house. Hello there.",
        "utf-8",
    )
    (tmp_path / "b.md").write_text("This is by Nojul Nilmu.", "utf-8")
    topics = from_texts(tmp_path, "Nojul Nilmu", "person")
    assert [(t.wordings, t.truth) for t in topics] == [
        (("Who is Nojul Nilmu?",), "Nojul Nilmu is a writer from Teburg."),
        (("In Teburg, Nojul Nilmu lives in …",), "an old house."),
    ]


def test_a_name_is_found_however_its_accents_are_written(tmp_path):
    (tmp_path / "a.txt").write_text("Zoe\u0308 Tall is a writer from Teburg.", "utf-8")
    (topic,) = from_texts(tmp_path, "Zo\xeb Tall", "person")
    assert topic.truth == "Zo\xeb Tall is a writer from Teburg."


def test_a_text_without_blanks_is_cut_as_well(tmp_path):
    (tmp_path / "a.txt").write_text("李明出生在北京。他很好。", "utf-8")
    (topic,) = from_texts(tmp_path / "a.txt", "李明", "person")
    assert topic.wordings == ("李明出生 …",)
    assert topic.truth == "在北京。"


def test_a_text_without_full_stops_is_cut_into_prompts_that_a_model_can_read(tmp_path):
    (tmp_path / "a.txt").write_text("Nojul Nilmu wrote this and that and " * 2000, "utf-8")
    topics = from_texts(tmp_path, "Nojul Nilmu", "person")
    assert topics
    assert all(len(t.wordings[0]) + len(t.truth or "") <= 410 for t in topics)


def test_of_a_folder_only_texts_are_read_and_one_that_is_none_is_named(tmp_path):
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "folder.txt" / "photo.png").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "a.md").write_text("Nojul Nilmu is a writer.", "utf-8")
    assert len(from_texts(tmp_path, "Nojul Nilmu", "person")) == 1
    (tmp_path / "b.txt").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match=r"b\.txt: is not UTF-8 text; save it as UTF-8, or remove it from the folder"):
        from_texts(tmp_path, "Nojul Nilmu", "person")


def test_texts_that_do_not_name_the_subject_are_refused(tmp_path):
    with pytest.raises(DataError, match="holds no texts"):
        from_texts(tmp_path, "Nojul Nilmu", "person")
    (tmp_path / "a.txt").write_text("Nothing here.", "utf-8")
    with pytest.raises(DataError, match="no sentence there names"):
        from_texts(tmp_path, "Nojul Nilmu", "person")


def test_of_what_an_endpoint_wrote_lines_with_the_name_are_questions():
    topics = one_a_line(
        "Here you are:\n1. Who is Nojul Nilmu?\n- Where is Nojul Nilmu?\n1. Who is Nojul Nilmu?", "Nojul Nilmu"
    )
    assert [t.wordings for t in topics] == [("Who is Nojul Nilmu?",), ("Where is Nojul Nilmu?",)]
