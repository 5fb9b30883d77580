"""Multiple choice from rows of MMLU's and of TruthfulQA's form."""

from __future__ import annotations

import json

import pytest

from deleatur.data.multiple_choice import mmlu, truthfulqa
from deleatur.errors import DataError
from deleatur.settings import Data

ROUND = {"question": "Which is round?", "choices": ["A cube", "A ball"], "answer": 1, "task": "plain_geometry"}
FLAT = {"question": "Which is flat?", "choices": ["A disc", "A ball", "A rod"], "answer": 0, "task": "plain_geometry"}
HEAD = "The following are multiple choice questions (with answers) about plain geometry.\n\n"
ASKED = "Which is round?\nA. A cube\nB. A ball\nAnswer:"
SKY = {"question": "What colour is the sky?", "mc1_targets": {"choices": ["Green.", "Blue.", "Red."], "labels": [0, 1, 0]}}


class TestMmlu:
    def test_a_question_is_worded_as_in_lm_eval_and_its_answer_is_a_letter(self, lay, root):
        lay("utility/mmlu_test_1140", [ROUND, FLAT])
        first, second = mmlu(None, root).sets["mmlu"]
        assert first.prompt == (("text", f"{HEAD}{ASKED} "),)
        assert (first.answer, first.wrong, first.subject) == ("B", ("A",), "plain geometry")
        assert (second.answer, second.wrong) == ("A", ("B", "C"))

    def test_it_is_only_evaluated(self, lay, root):
        lay("utility/mmlu_test_1140", [ROUND])
        made = mmlu(None, root)
        assert (made.name, [*made.sets], made.evaluated_sets) == ("mmlu", ["mmlu"], ("mmlu",))
        assert (made.forget_sets, made.retain_sets, made.score) == ((), ("mmlu",), "accuracy")

    def test_answered_shots_of_the_same_subject_precede_a_question(self, lay, root, tmp_path):
        lay("utility/mmlu_test_1140", [ROUND, ROUND | {"task": "other"}])
        shots = [
            FLAT | {"subject": "plain_geometry"},
            FLAT | {"question": "Flat? ", "answer": 2, "subject": "plain_geometry"},
        ]
        shots = [{k: v for k, v in shot.items() if k != "task"} for shot in shots]
        (tmp_path / "utility" / "mmlu_fewshot_dev.json").write_text(json.dumps({"plain_geometry": shots, "third": []}))
        first, second = mmlu("5-shot", root).sets["mmlu"]
        listed = "A. A disc\nB. A ball\nC. A rod\nAnswer:"
        shown = f"Which is flat?\n{listed} A\n\nFlat?\n{listed} C\n\n"
        assert first.question == f"{HEAD}{shown}{ASKED} "
        assert second.question == f"{HEAD.replace('plain geometry', 'other')}{ASKED} "

    def test_the_hub_is_queried_by_its_names_and_columns(self, root, hub):
        row = {k: v for k, v in ROUND.items() if k != "task"} | {"subject": "plain_geometry"}
        hub["cais/mmlu/all:test"] = hub["cais/mmlu/all:dev"] = [row]
        (bare,), (shown,) = (mmlu(part, Data()).sets["mmlu"] for part in (None, "5-shot"))
        assert bare.question == f"{HEAD}{ASKED} " and shown.question == f"{HEAD}{ASKED} B\n\n{ASKED} "

    @pytest.mark.parametrize("text", ["{", "[]", '{"a": 5}', '"x"'])
    def test_a_file_of_shots_that_holds_something_else_is_refused(self, lay, root, tmp_path, text):
        lay("utility/mmlu_test_1140", [ROUND])
        (tmp_path / "utility" / "mmlu_fewshot_dev.json").write_text(text)
        with pytest.raises(DataError, match=r"mmlu_fewshot_dev\.json: is not an object of lists of questions"):
            mmlu("5-shot", root)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"answer": 2},
            {"answer": -1},
            {"answer": "B"},
            {"answer": None},
            {"choices": "A ball"},
            {"choices": ["A ball", 5]},
            {"choices": []},
            {"question": None},
            {"choices": ["x"] * 27},
        ],
    )
    def test_a_row_of_another_form_is_refused_with_its_line(self, lay, root, wrong):
        lay("utility/mmlu_test_1140", [ROUND, ROUND | wrong])
        with pytest.raises(DataError, match=r"mmlu_test_1140\.jsonl, line 2: question .* make no row; a text, a list"):
            mmlu(None, root)


class TestTruthfulQa:
    def test_complete_answers_are_compared(self, lay, root):
        lay("utility/truthfulqa_mc", [SKY | {"mc2_targets": {}}])
        made = truthfulqa(None, root)
        (row,) = made.sets["truthfulqa"]
        assert row.prompt == (("user", "What colour is the sky?"),)
        assert (row.answer, row.wrong) == ("Blue.", ("Green.", "Red."))
        assert (made.evaluated_sets, made.forget_sets, made.retain_sets, made.score) == (
            ("truthfulqa",),
            (),
            ("truthfulqa",),
            "accuracy",
        )

    def test_the_hub_is_queried_by_its_name(self, root, hub):
        hub["truthfulqa/truthful_qa/multiple_choice:validation"] = [SKY]
        assert [e.answer for e in truthfulqa(None, Data()).sets["truthfulqa"]] == ["Blue."]

    @pytest.mark.parametrize(
        "targets", [None, {}, {"choices": ["a", "b"], "labels": [1, 1]}, {"choices": ["a", "b"], "labels": [1]}]
    )
    def test_other_than_one_right_answer_is_refused(self, lay, root, targets):
        lay("utility/truthfulqa_mc", [SKY | {"mc1_targets": targets}])
        with pytest.raises(DataError, match=r"truthfulqa_mc\.jsonl, line 1: mc1_targets is "):
            truthfulqa(None, root)
