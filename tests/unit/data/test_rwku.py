"""RWKU's sets from rows of its form, about people that there are not."""

from __future__ import annotations

import pytest

from deleatur.data.rwku import TEN, suite
from deleatur.errors import DataError
from deleatur.settings import Data

PEOPLE = ("Ada North", "Bo, Duke of East", "Cy")
LEVELS = ("forget_level1", "forget_level2", "forget_level3", "neighbor_level1", "neighbor_level2")
SPLITS = {
    "train_positive_phi3": "train_positive_phi3:train",
    **{level: f"{level}:test" for level in LEVELS},
    "forget_mia": "mia_forget:test",
    "retain_mia": "mia_retain:test",
}


def sets_about(people: tuple[str, ...]) -> dict[str, list[dict[str, object]]]:
    """Two texts about each, one question of each level, one text for attacks, and one about somebody else."""

    def ask(level: str, who: str) -> dict[str, object]:
        cloze = level.endswith("1")
        query = f"{who} wrote ___ once." if cloze else f"What did {who} write?"
        more = {"level": level[-1], "type": "cloze" if cloze else "simple question", "target_dir": f"1_{who}"}
        return {"subject": who, "query": query, "answer": f"Tome of {who}"} | more

    texts = [{"text": f" {who} wrote {n} tomes.", "subject": who, "intro": "…", "id": n} for who in people for n in (1, 2)]
    return {
        "train_positive_phi3": texts,
        **{level: [ask(level, who) for who in people] for level in LEVELS},
        "forget_mia": [{"text": f"{who} lives.", "subject": who, "ngram": 5} for who in people],
        "retain_mia": [{"text": f"{who} met Zoe.", "subject": people[0]} for who in people]
        + [{"text": "Zoe lives.", "subject": people[0]}],
    }


@pytest.fixture
def rows(lay, root) -> Data:
    for name, made in sets_about(PEOPLE).items():
        lay(f"rwku/{name}", made)
    return root


def subjects(examples) -> list[str]:
    return [e.subject for e in examples]


class TestOneSubject:
    def test_forget_rows_are_the_texts_about_it_and_retain_rows_those_about_the_others(self, rows):
        sets = suite("Cy", rows).sets
        assert [e.answer for e in sets["forget"]] == [" Cy wrote 1 tomes.", " Cy wrote 2 tomes."]
        assert subjects(sets["retain"]) == ["Ada North"] * 2 + ["Bo, Duke of East"] * 2
        assert all(e.prompt == () for name in ("forget", "retain") for e in sets[name])

    def test_only_questions_about_it_are_asked(self, rows):
        sets = suite("Cy", rows).sets
        assert [subjects(sets[level]) for level in LEVELS] == [["Cy"]] * 5

    def test_a_cloze_prompt_requests_the_missing_words_and_a_question_a_short_answer(self, rows):
        sets = suite("Cy", rows).sets
        asked = {level: sets[level][0].question for level in LEVELS}
        instructions = {level: question.split("\n")[0] for level, question in asked.items()}
        assert asked["forget_level1"].endswith("\nCy wrote ___ once.") and asked["forget_level2"].endswith(
            "\nWhat did Cy write?"
        )
        assert "blank" in instructions["forget_level1"] and "few words" in instructions["forget_level2"]
        assert instructions["neighbor_level1"] == instructions["forget_level1"]
        assert instructions["neighbor_level2"] == instructions["forget_level3"] == instructions["forget_level2"]
        assert sets["forget_level1"][0].answer == "Tome of Cy"

    def test_texts_for_attacks_are_about_it_and_those_for_comparison_do_not_name_it(self, rows):
        """The subject column of the latter says for whom they were drawn, so it does not decide."""
        sets = suite("Cy", rows).sets
        assert [e.answer for e in sets["forget_mia"]] == ["Cy lives."]
        assert [e.answer for e in sets["retain_mia"]] == ["Ada North met Zoe.", "Bo, Duke of East met Zoe.", "Zoe lives."]

    def test_its_evaluated_sets_and_score(self, rows):
        made = suite("Cy", rows)
        assert made.evaluated_sets == ("forget", *LEVELS, "forget_mia", "retain_mia")
        assert (made.forget_sets, made.retain_sets) == (LEVELS[:3], LEVELS[3:])
        assert (made.name, made.score, made.objective) == ("rwku/Cy", "rouge_l", "uq")

    def test_utility_is_evaluated_where_it_is_under_the_root(self, rows, lay):
        lay("utility/mmlu_test_1140", [{"task": "t", "question": "Round?", "choices": ["Cube", "Ball"], "answer": 1}])
        made = suite("Cy", rows)
        assert made.evaluated_sets == ("forget", *LEVELS, "forget_mia", "retain_mia", "mmlu")
        lay("utility/truthfulqa_mc", [{"question": "Flat?", "mc1_targets": {"choices": ["No", "Yes"], "labels": [1, 0]}}])
        made = suite("Cy", rows)
        assert made.evaluated_sets[-2:] == ("mmlu", "truthfulqa") and made.retain_sets == LEVELS[3:]
        assert [(e.answer, e.wrong) for e in made.sets["truthfulqa"]] == [("No", ("Yes",))]

    def test_every_figure_that_is_named_exists(self, rows):
        from deleatur.evaluation.metrics import METRICS, SET_METRICS

        made = suite("Cy", rows)
        assert {*made.set_metrics} <= {*SET_METRICS} and made.score in METRICS


class TestSubjects:
    @pytest.mark.parametrize("part", ["Bo, Duke of East", "Bo, Duke of East, Cy", "Cy,Bo, Duke of East", " Cy ,Ada North"])
    def test_a_list_of_names_may_hold_names_with_commas(self, rows, part):
        if part.startswith(" Cy ,"):
            with pytest.raises(DataError, match="'Cy ,Ada North' begins with no subject"):
                suite(part, rows)
        else:
            assert {*subjects(suite(part, rows).sets["forget"])} == {name for name in PEOPLE if name in part}

    def test_an_unknown_name_is_refused_with_the_known_ones(self, rows):
        with pytest.raises(
            DataError, match="rwku: 'Dee' begins with no subject; there are 'Ada North', 'Bo, Duke of East', 'Cy'"
        ):
            suite("Cy, Dee", rows)

    @pytest.mark.parametrize("part", [None, " "])
    def test_a_missing_name_is_refused_with_what_to_give(self, rows, part):
        with pytest.raises(DataError, match="a subject is needed, as in rwku/Elon Musk, or all; there are 'Ada North'"):
            suite(part, rows)

    def test_all_are_the_ten_of_the_paper_and_no_more(self, lay, root):
        for name, made in sets_about((*TEN, "Cy")).items():
            lay(f"rwku/{name}", made)
        sets = suite("all", root).sets
        assert {*subjects(sets["forget"])} == {*TEN} and len(TEN) == 10
        assert {*subjects(sets["retain"])} == {"Cy"}
        assert len(sets["neighbor_level2"]) == 10

    def test_a_set_without_rows_about_the_subject_is_refused(self, rows, lay):
        lay("rwku/neighbor_level1", sets_about(("Ada North",))["neighbor_level1"])
        with pytest.raises(DataError, match="rwku/neighbor_level1: none of its 1 rows"):
            suite("Cy", rows)


class TestRows:
    def test_ids_are_those_of_the_file_so_that_they_are_unique_and_do_not_hang_on_the_part(self, rows):
        one, two = suite("Cy", rows).sets, suite("Ada North, Cy", rows).sets
        assert [e.id for e in one["forget_level1"]] == ["forget_level1-3"]
        assert [e.id for e in two["forget_level1"]] == ["forget_level1-1", "forget_level1-3"]
        ids = [e.id for examples in two.values() for e in examples]
        assert len({*ids}) == len(ids)

    def test_an_empty_question_is_refused_also_with_an_instruction_before_it(self, rows, lay):
        lay("rwku/forget_level2", [sets_about(("Cy",))["forget_level2"][0] | {"query": " "}])
        with pytest.raises(DataError, match=r"forget_level2\.jsonl, line 1: question is empty"):
            suite("Cy", rows)

    def test_the_hub_is_queried_for_the_same_sets_by_its_names(self, rows, hub):
        hub |= {f"jinzhuoran/RWKU/{SPLITS[name]}": made for name, made in sets_about(PEOPLE).items()}
        assert suite("Cy", Data()) == suite("Cy", rows)
