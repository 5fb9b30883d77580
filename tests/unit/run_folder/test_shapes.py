"""JSON is checked against the type that describes it, and becomes what that says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from deleatur.errors import DataError
from deleatur.run_folder.file_types import BenchTerms, TrialLine
from deleatur.run_folder.schema import append_line, read_complete_lines, read_json, write_json
from deleatur.run_folder.shapes import as_type, check_type


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    name: str
    parts: tuple[Inner, ...] = ()
    values: Mapping[str, tuple[float | tuple[float, ...] | None, ...]] | None = None


def test_objects_and_lists_become_the_dataclasses_and_tuples_of_the_type():
    raw = {"name": "a", "parts": [{"spans": [[0, 2], [3, 5]]}], "values": {"x": [1.0, [2.0, 3.0], None]}}
    check_type(raw, Outer, "here")
    made = Outer(name="a", parts=(Inner(spans=((0, 2), (3, 5))),), values={"x": (1.0, (2.0, 3.0), None)})
    assert as_type(raw, Outer) == made


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({}, "here has no 'name'"),
        ({"name": 3}, "here name is 3, but must be str"),
        ({"name": "a", "parts": [{"spans": [[0, "2"]]}]}, "here parts 1 spans 1 2 is '2', but must be int"),
        ({"name": "a", "values": {"x": ["y"]}}, "here values x 1 is 'y'"),
    ],
)
def test_what_is_of_another_type_is_refused_with_its_place(raw, said):
    with pytest.raises(DataError, match=said):
        check_type(raw, Outer, "here")


def test_a_benchs_terms_of_another_form_are_refused_by_file_and_key(tmp_path):
    write_json(tmp_path / "bench.json", {"run": {}, "trials": "three", "rates": [1e-6, 1e-5], "objective": "uq"})
    with pytest.raises(DataError, match=r"bench\.json trials is 'three', but must be int"):
        read_json(tmp_path / "bench.json", BenchTerms)


def test_lines_are_read_down_to_one_that_a_kill_cut_off(tmp_path):
    log = tmp_path / "trials.jsonl"
    assert read_complete_lines(log, TrialLine) == []
    first: TrialLine = {"number": 0, "values": {"train.lr": 1e-5}, "value": None}
    append_line(log, first)
    with log.open("a") as file:
        file.write('{"number": 1, "val')
    assert read_complete_lines(log, TrialLine) == [first]
