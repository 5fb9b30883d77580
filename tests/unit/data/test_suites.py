"""Suites by name, and the way that every one of them takes its rows: from the root, else the hub, through one row reader."""

from __future__ import annotations

import pytest

from deleatur.data.rows import read_as, read_rows
from deleatur.data.suites import SUITES, read_suite
from deleatur.errors import DataError
from deleatur.settings import Data

QA = {"question": "Who?", "answer": "Ada.", "extra": 5}


def plain(row):
    yield {"question": row.cells.get("question"), "answer": row.cells.get("answer")}


class TestNames:
    def test_a_name_without_a_part_and_one_with_a_part_reach_the_suite(self, lay, root):
        rows = [{"id": f"{t}qa0", "input": "Who?", "output": "Ada.", "task": f"Task{t}"} for t in (1, 2)]
        lay("lume/forget", rows)
        lay("lume/retain", rows)
        assert read_suite("lume", root).name == read_suite("lume/", root).name == "lume"
        assert read_suite("lume/2", root).name == "lume/2"
        assert [len(read_suite(name, root).sets["forget"]) for name in ("lume", "lume/2")] == [2, 1]

    @pytest.mark.parametrize("name", ["tofuu", "", "/forget10", "TOFU/forget10"])
    def test_an_unknown_suite_is_refused_with_all_known_ones(self, root, name):
        with pytest.raises(DataError, match="there are " + ", ".join(SUITES)) as caught:
            read_suite(name, root)
        assert len(str(caught.value).splitlines()) == 1

    @pytest.mark.parametrize(
        ("name", "there"),
        [
            ("tofu/forget02", "tofu: has no part 'forget02'; there are tofu/forget01, .*, tofu/tenth"),
            ("tofu", "tofu: has several parts, of which one is needed; there are tofu/forget01"),
            (
                "muse/sport",
                "muse: has no part 'sport'; there are muse/news, muse/books, muse/news-sust-1, .*muse/news-scal-4",
            ),
            ("wmdp/nuclear", "wmdp: has no part 'nuclear'; there are wmdp/bio, wmdp/cyber, wmdp/chem"),
            ("lume/4", "lume: has no part '4'; there are lume/1, lume/2, lume/3"),
            ("mmlu/3-shot", "mmlu: has no part '3-shot'; there are mmlu/5-shot"),
            ("truthfulqa/mc2", "truthfulqa: has no part 'mc2'; it has none"),
        ],
    )
    def test_an_unknown_part_is_refused_with_the_known_ones_and_nothing_is_read(self, root, name, there):
        with pytest.raises(DataError, match=there):
            read_suite(name, root)


class TestReadAs:
    def test_the_root_comes_before_the_hub(self, lay, hub, root):
        hub["o/n/c:test"] = [QA | {"answer": "Hub."}]
        lay("bench/set", [QA])
        assert [e.answer for e in read_as("bench/set", "o/n/c:test", root, plain)] == ["Ada."]

    def test_ids_are_the_same_from_root_and_hub(self, lay, hub, root):
        hub["o/n/c:test"] = [QA, QA]
        lay("bench/set", [QA, QA])
        ours = read_as("bench/set", "o/n/c:test", root, plain)
        assert ours == read_as("bench/set", "o/n/c:test", Data(), plain)
        assert [e.id for e in ours] == ["set-1", "set-2"]

    def test_a_path_of_that_name_in_the_working_folder_is_not_meant(self, lay, hub, root, tmp_path, monkeypatch):
        lay("bench/set", [QA])
        monkeypatch.chdir(tmp_path)
        hub["o/n:train"] = [QA | {"answer": "Hub."}]
        assert [e.answer for e in read_as("bench/set", "o/n", Data(), plain)] == ["Hub."]

    def test_the_environment_gives_a_root_where_settings_give_none(self, lay, root, tmp_path, monkeypatch):
        lay("bench/set", [QA])
        monkeypatch.setenv("DELEATUR_DATA", str(tmp_path))
        assert len(read_as("bench/set", "o/n", Data(), plain)) == 1

    def test_rows_that_are_not_found_are_refused_with_both_places(self, root, tmp_path):
        with pytest.raises(
            DataError, match=r"bench/set or o/n/c:test: there is none under .*the hub does not give it"
        ) as caught:
            read_as("bench/set", "o/n/c:test", root, plain)
        assert str(tmp_path) in str(caught.value)
        with pytest.raises(
            DataError, match=r"bench/set or o/n: no folder is set by --data.root or \$DELEATUR_DATA, and the hub"
        ):
            read_as("bench/set", "o/n", Data(), plain)

    def test_rows_are_checked_like_the_users_and_keep_their_place(self, lay, hub, root, tmp_path):
        lay("bench/set", [QA, QA | {"answer": " "}])
        with pytest.raises(DataError, match=r"set\.jsonl, line 2: answer is empty"):
            read_as("bench/set", "o/n", root, plain)
        hub["o/n:train"] = [QA, {"question": "Who?"}]
        with pytest.raises(DataError, match="o/n, row 2: answer is empty"):
            read_as("bench/gone", "o/n", root, plain)

    def test_a_row_may_become_none_or_several_and_ids_stay_those_of_the_file(self, lay, root):
        lay("bench/set", [QA | {"times": times} for times in (0, 1, 2)])

        def several(row):
            for _ in range(row.cells["times"]):
                yield {"text": row.cells["answer"]}

        assert [e.id for e in read_as("bench/set", "o/n", root, several)] == ["set-2", "set-3.1", "set-3.2"]

    def test_no_row_left_is_refused(self, lay, root):
        lay("bench/set", [QA, QA])
        with pytest.raises(DataError, match="bench/set: none of its 2 rows belongs to what is asked for"):
            read_as("bench/set", "o/n", root, lambda row: ())

    def test_columns_that_a_user_has_ignored_are_not_a_benchmarks(self, lay, root, tmp_path):
        lay("bench/set", [QA])
        assert read_as("bench/set", "o/n", Data(root=str(tmp_path), ignore=("answer",)), plain)[0].answer == "Ada."

    def test_a_home_that_is_not_there_is_one_line(self):
        with pytest.raises(DataError, match="bench/set: cannot be read under ~nobody-here"):
            read_as("bench/set", "o/n", Data(root="~nobody-here"), plain)

    def test_it_gives_what_a_user_gets_who_names_the_file(self, lay, root):
        lay("bench/set", [{"question": "Who?", "answer": "Ada."}])
        assert read_as("bench/set", "o/n", root, plain) == read_rows("bench/set", settings=root)
