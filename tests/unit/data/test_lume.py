"""LUME's sets from rows of its form."""

from __future__ import annotations

import pytest

from deleatur.data.lume import suite
from deleatur.errors import DataError
from deleatur.settings import Data

FORGET = [
    {"id": '"a-1"sc1', "input": "Once there was", "output": "a race.", "task": "Task1"},
    {"id": '"a-1"qa0', "input": "What was there?", "output": "A race", "task": "Task1"},
    {"id": "b-2qa12", "input": "Who ran?", "output": "Runa", "task": "Task2"},
    {"id": "sc-3qa0", "input": "Who won?", "output": "Runa", "task": "Task3"},
]
RETAIN = [{"id": f"k{task}qa0", "input": "Where?", "output": "Tessholm", "task": f"Task{task}"} for task in (1, 2, 3)]


@pytest.fixture
def rows(lay, root) -> Data:
    lay("lume/forget", FORGET)
    lay("lume/retain", RETAIN)
    return root


def test_continuations_are_texts_and_questions_are_questions(rows):
    """The id's end decides: sc and a number for a text. One with sc elsewhere is a question."""
    forget = suite(None, rows).sets["forget"]
    assert [(e.id, e.prompt, e.answer) for e in forget] == [
        ('"a-1"sc1', (("text", "Once there was "),), "a race."),
        ('"a-1"qa0', (("user", "What was there?"),), "A race"),
        ("b-2qa12", (("user", "Who ran?"),), "Runa"),
        ("sc-3qa0", (("user", "Who won?"),), "Runa"),
    ]


def test_both_sets_are_trained_on_and_evaluated(rows):
    made = suite(None, rows)
    assert made.evaluated_sets == ("forget", "retain") == tuple(made.sets)
    assert (made.forget_sets, made.retain_sets, made.score) == (("forget",), ("retain",), "rouge_l")


@pytest.mark.parametrize(("part", "ids"), [("1", ['"a-1"sc1', '"a-1"qa0']), ("2", ["b-2qa12"]), ("3", ["sc-3qa0"])])
def test_a_part_is_one_task(rows, part, ids):
    made = suite(part, rows)
    assert [e.id for e in made.sets["forget"]] == ids
    assert [e.id for e in made.sets["retain"]] == [f"k{part}qa0"]
    assert made.name == f"lume/{part}"


def test_an_id_that_comes_twice_is_refused(rows, lay):
    lay("lume/retain", [RETAIN[0], RETAIN[0]])
    with pytest.raises(DataError, match=r"retain\.jsonl, line 2: the id 'k1qa0' is taken"):
        suite(None, rows)


def test_the_hub_is_queried_for_what_semeval_published(rows, hub):
    name = "llmunlearningsemeval2025organization/semeval25-unlearning-dataset-public"
    hub |= {f"{name}:forget_train": FORGET, f"{name}:retain_train": RETAIN}
    assert suite("1", Data()) == suite("1", rows)
