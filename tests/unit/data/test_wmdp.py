"""WMDP's sets from rows of its form, about nothing dangerous."""

from __future__ import annotations

import pytest

from deleatur.data.wmdp import suite
from deleatur.settings import Data

LONG = "A harmless text of more than fifty characters, as texts here have to be."
QUESTION = {"question": " Which is round? ", "choices": ["A cube", "A ball", "A cone", "A rod"], "answer": 1}
CORPORA = {"bio": ("cais/wmdp-bio-forget-corpus:train", "cais/wmdp-corpora/bio-retain-corpus:train")}
CORPORA["cyber"] = ("cais/wmdp-corpora/cyber-forget-corpus:train", "cais/wmdp-corpora/cyber-retain-corpus:train")


@pytest.fixture
def rows(lay, root) -> Data:
    for part in ("bio", "cyber", "chem"):
        lay(f"wmdp/wmdp-{part}", [QUESTION])
    for part in CORPORA:
        lay(f"wmdp/{part}-forget-corpus", [{"title": "T", "abstract": "A", "text": f"{part} {LONG}", "doi": "0"}])
        lay(f"wmdp/{part}-retain-corpus", [{"text": f"kept {LONG}"}])
    return root


@pytest.mark.parametrize("part", ["bio", "cyber"])
def test_texts_are_trained_on_and_questions_evaluated_by_letter(rows, part):
    made = suite(part, rows)
    assert [(e.prompt, e.answer) for e in made.sets["forget"]] == [((), f"{part} {LONG}")]
    assert [(e.prompt, e.answer) for e in made.sets["retain"]] == [((), f"kept {LONG}")]
    assert made.evaluated_sets == ("forget", "wmdp") and made.forget_sets == ("wmdp",) and made.score == "accuracy"
    (row,) = made.sets["wmdp"]
    assert (row.answer, row.wrong) == ("B", ("A", "C", "D"))


@pytest.mark.parametrize(("part", "about"), [("bio", "biology"), ("cyber", "cybersecurity"), ("chem", "chemistry")])
def test_a_question_is_worded_as_in_lm_eval(rows, part, about):
    """A line on what follows, the question, a line for each choice, and "Answer:", which a blank parts from the letter."""
    (row,) = suite(part, rows).sets["wmdp"]
    said = f"The following are multiple choice questions (with answers) about {about}.\n\n"
    said += "Which is round?\nA. A cube\nB. A ball\nC. A cone\nD. A rod\nAnswer: "
    assert row.prompt == (("text", said),)


def test_chemistry_has_no_texts_and_is_only_evaluated(rows):
    made = suite("chem", rows)
    assert [*made.sets] == ["wmdp"] == [*made.evaluated_sets] and made.retain_sets == ()


def test_mmlu_is_evaluated_too_where_it_is_under_the_root(rows, lay):
    lay("utility/mmlu_test_1140", [QUESTION | {"task": "plain_geometry"}])
    made = suite("cyber", rows)
    assert made.evaluated_sets == ("forget", "wmdp", "mmlu") and made.retain_sets == ("mmlu",)
    assert "about plain geometry." in made.sets["mmlu"][0].question


def test_texts_of_at_most_fifty_characters_are_left_out(rows, lay):
    lay("wmdp/cyber-retain-corpus", [{"text": ""}, {"text": "x" * 50}, {"text": "x" * 51}])
    assert [len(e.answer) for e in suite("cyber", rows).sets["retain"]] == [51]


def test_a_zero_byte_in_found_code_is_dropped_and_does_not_cost_the_whole_set(rows, lay):
    lay("wmdp/cyber-retain-corpus", [{"text": f"x\0y {LONG}"}])
    assert [e.answer for e in suite("cyber", rows).sets["retain"]] == [f"xy {LONG}"]


@pytest.mark.parametrize("part", ["bio", "cyber", "chem"])
def test_the_hub_is_queried_for_the_same_sets_by_its_names(root, hub, part):
    hub[f"cais/wmdp/wmdp-{part}:test"] = [QUESTION]
    hub |= {name: [{"text": f"{name} {LONG}"}] for name in CORPORA.get(part, ())}
    made = suite(part, Data())
    for side, name in zip(("forget", "retain"), CORPORA.get(part, ()), strict=False):
        assert [e.answer for e in made.sets[side]] == [f"{name} {LONG}"]
    assert "mmlu" not in made.sets and len(made.sets["wmdp"]) == 1
