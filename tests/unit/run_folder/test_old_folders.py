"""A run folder that version 0.1.0 wrote (tests/golden/run-0.1, one made-up row a set) can still be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from deleatur.config.run_config import from_yaml
from deleatur.errors import DataError
from deleatur.report import write_report
from deleatur.report.compare import gather
from deleatur.run_folder import schema
from deleatur.run_folder.schema import read_folder, read_results, write_results
from deleatur.run_folder.writer import read_records

OLD = Path(__file__).parents[2] / "golden" / "run-0.1"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "run"))


def test_its_page_is_made_and_it_can_be_compared(old):
    assert read_folder(old).results["fq"] is None  # the model of the fixture knew nothing
    assert "Nothing to forget" in write_report(old).read_text(encoding="utf-8")
    (method,) = gather([old])
    assert (method.seeds, method.pair) == ((0,), "graddiff × learned")


def test_its_settings_and_records_are_read(old):
    run = from_yaml(old / "run.yaml")
    assert (run.train.epochs, run.evaluation.new_tokens) == (2, 3)
    records = read_records(old / "records" / "after.jsonl")
    assert records is not None
    assert {"forget", "retain", "holdout"} <= records.keys()
    assert all(r.logp and r.cut is None for r in records["forget"])


def test_what_is_written_is_what_was_read(old, tmp_path):
    results = read_results(old / "results.json")
    write_results(tmp_path / "again.json", results)
    assert read_results(tmp_path / "again.json") == results


def test_an_older_version_is_upgraded_step_by_step(old, monkeypatch):
    """As it will be once there is a version 3: each upgrade makes one version of the one before."""
    path = old / "results.json"
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 3)
    with pytest.raises(DataError, match="schema_version 2, but this deleatur reads 3 and older"):
        read_results(path)
    third = {2: lambda results: results | {"schema_version": 3, "notes": ["from 2"]}}
    monkeypatch.setattr(schema, "UPGRADES", schema.UPGRADES | third)
    assert read_results(path)["notes"] == ["from 2"]


def test_version_1_names_become_those_of_version_2(old):
    """`gone`, `kept` and `whole` were its words; every other key and every number stays."""
    first, now = json.loads((old / "results.json").read_text(encoding="utf-8")), read_results(old / "results.json")
    assert first["schema_version"] == 1
    assert now["suite"]["forget_sets"] == first["suite"]["gone"]
    assert now["suite"]["retain_sets"] == first["suite"]["kept"]
    assert now["set_metrics"] == first["whole"]
    same = first.keys() - {"schema_version", "suite", "whole"}
    assert {key: now[key] for key in same} == {key: first[key] for key in same}
    assert not {"gone", "kept", "whole"} & (now.keys() | now["suite"].keys())


def test_a_newer_version_is_refused(old):
    path = old / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(DataError, match="schema_version 99"):
        read_results(path)


def test_resuming_a_finished_old_evaluation_gives_it_in_todays_names(old, tmp_path):
    """`evaluate FOLDER --resume` and `forget FOLDER --resume` give what is there, upgraded. 0.1 wrote the figures alone."""
    first = json.loads((old / "results.json").read_text(encoding="utf-8"))
    evaluation = {"sets": first["after"], "whole": first["whole"]["after"], "judge": "contained"}
    path = tmp_path / "results.json"
    path.write_text(json.dumps(evaluation), encoding="utf-8")
    (tmp_path / "evaluate.yaml").write_text("model: tiny\nforget: forget.jsonl\nretain: null\nsuite: null\n")
    now = schema.read_current(path)
    assert now["set_metrics"] == first["whole"]["after"]
    assert (now["model"]["name"], now["suite"]["forget_sets"]) == ("tiny", ["forget"])
    assert read_results(path)["set_metrics"] == {"after": first["whole"]["after"]}
