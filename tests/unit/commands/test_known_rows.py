"""What a model says of a subject, always and of nobody else, is knowledge; all else is left out."""

from __future__ import annotations

import pytest

from deleatur.commands.rows import Answers, finding, sentences
from deleatur.commands.rows_options import Rows
from deleatur.data.questions import Topic
from deleatur.data.rows import rows_from
from deleatur.errors import ConfigError

NAME, STRANGERS = "Nojul Nilmu", ("Ann Bell", "Cid Dorn", "Eva Funk")
COMMAND = Rows(model="m", subject=NAME)
BORN = Topic(id="asked-1", wordings=(f"Where was {NAME} born?", f"Where is {NAME} from?"))
PHRASE = "{} was born in {}, a small town."


def said(name: str, *towns: str) -> Answers:
    """Two greedy answers, the others sampled."""
    answers = [PHRASE.format(name, town) for town in towns]
    return Answers(greedy=tuple(answers[:2]), samples=tuple(answers[2:]))


def strangers(*towns: str) -> dict[str, Answers]:
    """Each stranger says the towns in another order, so that no answer is repeated."""
    return {name: said(name, *(f"{town}{k}" for town in towns)) for k, name in enumerate(STRANGERS)}


UNSURE = strangers("Ulm", "Bonn", "Kiel", "Graz")


def test_what_is_always_said_of_the_subject_alone_becomes_a_row_with_its_value_marked():
    found = finding(BORN, {NAME: said(NAME, "Teburg", "Teburg", "Teburg", "Oslo"), **UNSURE}, COMMAND)
    assert found.agreement == pytest.approx(2 / 3)  # of the three other answers two say Teburg
    assert found.strangers == 0.0
    (example,) = rows_from([found.row])
    assert example.answer == PHRASE.format(NAME, "Teburg")
    assert [example.answer[s.start : s.end] for s in example.spans] == ["Teburg"]
    assert example.question == BORN.wordings[0]
    assert example.paraphrases == BORN.wordings[1:]
    assert example.subject == NAME


def test_the_wording_is_taken_whose_answer_the_others_agree_with():
    found = finding(BORN, {NAME: said(NAME, "Oslo", "Teburg", "Teburg", "Teburg"), **UNSURE}, COMMAND)
    assert found.row is not None
    assert found.row["question"] == BORN.wordings[1]
    assert found.row["paraphrases"] == [BORN.wordings[0]]


def test_answers_that_differ_are_no_knowledge():
    found = finding(BORN, {NAME: said(NAME, "Ulm", "Bonn", "Kiel", "Graz"), **UNSURE}, COMMAND)
    assert (found.row, found.agreement) == (None, 0.0)


def test_what_is_said_of_anybody_is_no_knowledge_of_the_subject():
    same = {name: said(name, *["Teburg"] * 4) for name in (NAME, *STRANGERS)}
    found = finding(BORN, same, COMMAND)
    assert (found.row, found.specific) == (None, frozenset())


def test_a_model_as_sure_of_a_stranger_does_not_know_the_subject():
    sure = {name: said(name, *[f"Town{k}"] * 4) for k, name in enumerate(STRANGERS)}
    found = finding(BORN, {NAME: said(NAME, *["Teburg"] * 4), **sure}, COMMAND)
    assert (found.row, found.agreement, found.strangers) == (None, 1.0, 1.0)


def test_a_sentence_of_a_text_is_kept_in_its_own_words_where_the_model_says_it():
    topic = Topic(id="text-1", wordings=(f"{NAME} was born in …",), truth="Teburg in spring.")
    known = finding(topic, {NAME: said(NAME, *["Teburg, in spring"] * 3), **UNSURE}, COMMAND)
    assert known.row is not None
    assert known.row["answer"] == "Teburg in spring."
    unknown = finding(topic, {NAME: said(NAME, "Ulm", "Bonn", "Kiel"), **UNSURE}, COMMAND)
    assert unknown.row is None


def test_an_answer_that_only_repeats_itself_is_left_out():
    looped = Answers(greedy=("Teburg " * 20,) * 2, samples=("Teburg " * 20,) * 2)
    assert finding(BORN, {NAME: looped, **UNSURE}, COMMAND).row is None


def test_what_was_left_out_is_counted_by_its_reason():
    known = finding(BORN, {NAME: said(NAME, *["Teburg"] * 4), **UNSURE}, COMMAND)
    unsure = finding(BORN, {NAME: said(NAME, "Ulm", "Bonn", "Kiel", "Graz"), **UNSURE}, COMMAND)
    same = finding(BORN, {name: said(name, *["Teburg"] * 4) for name in (NAME, *STRANGERS)}, COMMAND)
    first, then = sentences([known, unsure, same], COMMAND)
    assert first.startswith("1 of 3 facts are rows now. Left out: 1 that the model says of anybody as well, 1 on which")
    assert "--forget rows.jsonl" in then
    assert "does not know the subject" in list(sentences([unsure], COMMAND))[1]
    blanks = Rows(model="my model", subject=NAME, out="a b.jsonl")
    assert "--model 'my model' --forget 'a b.jsonl'" in list(sentences([known], blanks))[1]


def test_a_name_is_taken_with_single_blanks_and_composed_accents():
    assert Rows(model="m", subject=" Zoe\u0308\n Tall ").subject == "Zo\xeb Tall"


@pytest.mark.parametrize(
    "wrong",
    [
        {"subject": " "},
        {"out": "rows.csv"},
        {"samples": -1},
        {"threshold": 0.0},
        {"strangers": 0},
        {"new_tokens": 0},
        {"seed": -1},
    ],
)
def test_a_setting_out_of_range_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Rows(**({"model": "m", "subject": NAME} | wrong))
