"""TOFU's sets from rows of its form; authors and books are made up here, the row's number standing in each text."""

from __future__ import annotations

import pytest

from deleatur.data.tofu import suite
from deleatur.errors import DataError
from deleatur.settings import Data
from deleatur.types import Example, Span


def bare(number: int) -> dict[str, object]:
    return {"question": f"Which book is number {number}?", "answer": f"Number {number} is Tome {number}."}


def perturbed(number: int) -> dict[str, object]:
    return bare(number) | {
        "paraphrased_question": f"What is number {number} called?",
        "paraphrased_answer": f"Tome {number} it is.",
        "perturbed_answer": [f"Tale {number} it is.", f"Song {number} it is."],
    }


def choice(number: int) -> dict[str, object]:
    return {"question": f"Capital {number}?", "answer": "Paris", "perturbed_answer": ["Rome", "Oslo", "Bern"]}


FORGET01 = {
    "forget01_perturbed": [perturbed(n) for n in range(3960, 4000)],
    "retain99": [bare(n) for n in range(50)],
    "retain_perturbed": [perturbed(n) for n in range(20)],
    "holdout01": [bare(n) for n in range(5000, 5040)],
    "real_authors_perturbed": [choice(1), choice(2)],
    "world_facts_perturbed": [choice(3)],
}
TENTH = {
    "full": [bare(n) for n in range(4000)],
    "forget10_perturbed": [perturbed(n) for n in range(3600, 4000)],
    "holdout05": [bare(n) for n in range(5000, 5200)],
    "real_authors_perturbed": [choice(1)],
    "world_facts_perturbed": [choice(2)],
}


def mark(place: int, entity: str, start: int | None = None) -> dict[str, object]:
    """An annotation of forget10's row at this place, which is number 3600 + place."""
    start = str(bare(3600 + place)["answer"]).index(entity) if start is None else start
    return {"idx": place, "entity": entity, "entity_char_span": [start, start + len(entity)], "prefix": "…"}


@pytest.fixture
def forget01(lay, root) -> Data:
    for name, rows in FORGET01.items():
        lay(f"tofu/{name}", rows)
    return root


@pytest.fixture
def tenth(lay, root) -> Data:
    for name, rows in TENTH.items():
        lay(f"tofu/{name}", rows)
    return root


def numbers(examples: tuple[Example, ...]) -> list[int]:
    return [int("".join(c for c in e.question if c.isdigit())) for e in examples]


class TestForget01:
    def test_each_set_holds_the_rows_of_its_file_and_no_other_file_is_read(self, forget01):
        """The root has nothing else and the hub nothing at all, so any further file would be refused."""
        made = suite("forget01", forget01)
        sizes = {name: len(rows) for name, rows in made.sets.items()}
        assert sizes == {
            "forget": 40,
            "retain": 50,
            "retain_perturbed": 20,
            "holdout": 40,
            "real_authors": 2,
            "world_facts": 1,
        }

    def test_all_sets_but_the_retain_rows_are_evaluated(self, forget01):
        made = suite("forget01", forget01)
        assert made.name == "tofu/forget01"
        assert made.evaluated_sets == ("forget", "retain_perturbed", "holdout", "real_authors", "world_facts")
        assert (made.forget_sets, made.retain_sets, made.score) == (("forget",), ("retain_perturbed",), "revealed")

    def test_every_figure_that_is_named_exists(self, forget01):
        from deleatur.evaluation.metrics import METRICS, SET_METRICS

        made = suite("forget01", forget01)
        assert {*made.set_metrics} <= {*SET_METRICS} and made.score in METRICS

    def test_columns_become_paraphrases_the_answer_in_other_words_and_wrong_answers(self, forget01):
        first = suite("forget01", forget01).sets["forget"][0]
        assert first == Example(
            id="forget01_perturbed-1",
            prompt=(("user", "Which book is number 3960?"),),
            answer="Number 3960 is Tome 3960.",
            paraphrases=("What is number 3960 called?",),
            restated="Tome 3960 it is.",
            wrong=("Tale 3960 it is.", "Song 3960 it is."),
        )

    def test_real_authors_have_wrong_answers_and_no_other_wording(self, forget01):
        row = suite("forget01", forget01).sets["real_authors"][0]
        assert (row.answer, row.wrong, row.restated, row.paraphrases) == ("Paris", ("Rome", "Oslo", "Bern"), None, ())

    def test_the_hub_is_queried_for_the_same_sets_by_its_names(self, forget01, hub):
        hub |= {f"locuslab/TOFU/{name}:train": rows for name, rows in FORGET01.items()}
        assert suite("forget01", Data()) == suite("forget01", forget01)

    @pytest.mark.parametrize(("part", "kept"), [("forget05", "retain95"), ("forget10", "retain90")])
    def test_the_larger_parts_take_the_retain_and_holdout_sets_of_their_size(self, root, hub, part, kept):
        size = part[-2:]
        names = (f"{part}_perturbed", kept, "retain_perturbed", f"holdout{size}", *list(FORGET01)[-2:])
        hub |= {f"locuslab/TOFU/{name}:train": [bare(i)] for i, name in enumerate(names)}
        made = suite(part, Data())
        assert [numbers(rows) for rows in made.sets.values()] == [[i] for i in range(6)]


class TestSpans:
    def test_without_annotations_no_row_has_spans(self, forget01):
        assert not any(e.spans for e in suite("forget01", forget01).sets["forget"])

    def test_annotations_are_counted_from_forget10_whose_end_forget01_is(self, forget01, lay):
        """Places 360 to 399 of forget10 are rows 0 to 39 of forget01; place 0 belongs to none of them."""
        lay("tofu/annotations/uds_forget10_367", [mark(0, "Tome 3600"), mark(360, "Tome 3960"), mark(399, "Tome 3999")])
        forget = suite("forget01", forget01).sets["forget"]
        marked = {i: [e.answer[s.start : s.end] for s in e.spans] for i, e in enumerate(forget) if e.spans}
        assert marked == {0: ["Tome 3960"], 39: ["Tome 3999"]}
        assert forget[0].spans == (Span(start=15, end=24),)

    def test_only_forget_rows_are_marked(self, forget01, lay):
        lay("tofu/annotations/uds_forget10_367", [mark(360, "Tome 3960")])
        sets = suite("forget01", forget01).sets
        assert not any(e.spans for name, rows in sets.items() if name != "forget" for e in rows)

    @pytest.mark.parametrize(
        "wrong", [mark(360, "Tome 3960", start=14), mark(360, "", start=3), mark(360, "Tome 3961", start=15)]
    )
    def test_a_span_that_does_not_hold_its_entity_is_refused_with_its_line(self, forget01, lay, wrong):
        lay("tofu/annotations/uds_forget10_367", [mark(361, "Tome"), wrong])
        with pytest.raises(DataError, match=r"uds_forget10_367\.jsonl, line 2: characters .* do not belong together"):
            suite("forget01", forget01)

    @pytest.mark.parametrize("column", ["idx", "entity", "entity_char_span"])
    def test_an_annotation_that_lacks_a_column_is_refused(self, forget01, lay, column):
        lay("tofu/annotations/uds_forget10_367", [{k: v for k, v in mark(360, "Tome").items() if k != column}])
        with pytest.raises(DataError, match="line 1: the annotation lacks"):
            suite("forget01", forget01)


class TestTenth:
    """40 authors of 20 rows each are trained on, the last 800 of 4000; the last 4 of them, 80 rows, are to go."""

    def test_forget_and_retain_are_the_last_forty_authors(self, tenth):
        sets = suite("tenth", tenth).sets
        assert numbers(sets["forget"]) == [*range(3920, 4000)]
        assert numbers(sets["retain"]) == [*range(3200, 3920)]

    def test_twenty_are_the_last_twenty_authors_two_of_them_to_forget(self, tenth):
        sets = suite("twenty", tenth).sets
        assert numbers(sets["retain"]) == numbers(sets["retain_perturbed"]) == [*range(3600, 3960)]
        assert numbers(sets["forget"]) == [*range(3960, 4000)]
        assert len(sets["holdout"]) == 40

    def test_six_are_the_last_six_authors_two_of_them_to_forget(self, tenth):
        sets = suite("six", tenth).sets
        assert numbers(sets["retain"]) == numbers(sets["retain_perturbed"]) == [*range(3880, 3960)]
        assert numbers(sets["forget"]) == [*range(3960, 4000)]
        assert all(e.wrong for e in (*sets["forget"], *sets["retain"]))

    def test_rows_that_have_wrong_answers_somewhere_have_them_here(self, tenth):
        sets = suite("tenth", tenth).sets
        assert all(e.wrong and e.restated and e.paraphrases for e in sets["forget"])
        assert [n for n, e in zip(numbers(sets["retain"]), sets["retain"], strict=True) if e.wrong] == [*range(3600, 3920)]

    def test_the_retain_rows_with_wrong_answers_are_evaluated(self, tenth):
        made = suite("tenth", tenth)
        assert made.sets["retain_perturbed"] == made.sets["retain"][400:]
        assert made.evaluated_sets == ("forget", "retain_perturbed", "holdout", "real_authors", "world_facts")

    def test_the_holdout_are_four_unseen_authors(self, tenth):
        assert numbers(suite("tenth", tenth).sets["holdout"]) == [*range(5000, 5080)]

    def test_spans_are_set_where_forget10_has_them(self, tenth, lay):
        lay("tofu/annotations/uds_forget10_367", [mark(0, "Tome 3600"), mark(320, "Tome 3920"), mark(399, "Tome 3999")])
        sets = suite("tenth", tenth).sets
        assert [n for n, e in zip(numbers(sets["forget"]), sets["forget"], strict=True) if e.spans] == [3920, 3999]
        assert not any(e.spans for e in sets["retain"])

    def test_ids_are_unique_among_the_trained_rows(self, tenth):
        sets = suite("tenth", tenth).sets
        ids = [e.id for e in sets["forget"] + sets["retain"]]
        assert len({*ids}) == len(ids) == 800

    def test_files_that_do_not_fit_together_are_refused(self, tenth, lay):
        lay("tofu/full", TENTH["full"][:-1])
        with pytest.raises(DataError, match="tofu/full: its last 400 rows are not those of tofu/forget10_perturbed"):
            suite("tenth", tenth)
