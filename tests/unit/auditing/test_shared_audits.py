"""Several processes at work on one audit, and audits that take over what another found."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deleatur.auditing.conduct import conduct
from deleatur.auditing.controls import check_same, make_controls
from deleatur.auditing.work import plan
from deleatur.errors import ConfigError
from deleatur.evaluation.judges.contained import Contained
from deleatur.progress import Progress

FORK = multiprocessing.get_context("fork")


def few(workplace: Any) -> Any:
    """Attacks of which each arm takes part of a second."""
    return replace(workplace.small, attacks=("ask", "compress", "nearer", "depth"))


def take_part(workplace: Any, out: Path, log: Path, name: str = "second") -> None:
    """What one process does; a line for each setting that it made."""

    def made(what: str, done: int, total: int, label: str) -> None:
        with log.open("a") as f:
            f.write(f"{label}\n")

    conduct(workplace.inputs(name), few(workplace), out, Contained(), Progress(evaluated=made))


def test_two_processes_share_the_work_and_nothing_is_made_twice(workplace: Any, of_second: Any, tmp_path: Path) -> None:
    """Both end with the same verdict, which one process alone comes to as well."""
    out, logs = tmp_path / "audit", [tmp_path / "a.log", tmp_path / "b.log"]
    out.mkdir()
    both = [FORK.Process(target=take_part, args=(workplace, out, log)) for log in logs]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    made = [log.read_text().splitlines() for log in logs]
    jobs = plan(workplace.inputs("second"), few(workplace))[0]
    assert sorted(made[0] + made[1]) == sorted(f"{j.attack} {j.setting} on {j.arm}" for j in jobs)
    assert all(made)
    said = json.loads((out / "audit.json").read_text())
    assert {n: a["p"] for n, a in said["attacks"].items()} == {n: of_second["attacks"][n]["p"] for n in said["attacks"]}
    assert not list(out.glob("*.lock"))


def test_another_process_resumes_where_one_was_killed(workplace: Any, tmp_path: Path) -> None:
    """Its lock file stays and binds nobody; what it had finished is not made again."""
    out, logs = tmp_path / "audit", [tmp_path / "a.log", tmp_path / "b.log"]
    out.mkdir()
    first = FORK.Process(target=take_part, args=(workplace, out, logs[0]))
    first.start()
    while not logs[0].exists():
        time.sleep(0.01)
    os.kill(first.pid or 0, signal.SIGKILL)
    first.join()
    kept = {path.name for path in (out / "cells").glob("*.json")}
    take_part(workplace, out, logs[1])
    again = {"{0}.{3}.{1}.json".format(*line.split()) for line in logs[1].read_text().splitlines()}
    assert kept and again and not kept & again
    assert (out / "audit.json").exists()


def test_controls_of_another_audit_are_taken_over(workplace: Any, tmp_path: Path) -> None:
    """Only the audited model is asked, and the verdict is that of an audit which makes everything itself."""
    out = [tmp_path / "controls", tmp_path / "audit"]
    make_controls(workplace.inputs("second"), few(workplace), out[0])
    assert not list(out[0].glob("cells/*.audited.*"))
    out[1].mkdir()
    made: list[str] = []
    watched = Progress(evaluated=lambda *a: made.append(a[3]))
    said = conduct(workplace.inputs("original"), few(workplace), out[1], Contained(), watched, out[0])
    assert made and all(label.endswith("on audited") for label in made)
    assert said["verdict"] == "LEAK"


def test_controls_of_other_rows_are_refused(workplace: Any, tmp_path: Path) -> None:
    for name in ("controls", "audit"):
        (tmp_path / name).mkdir()
    check_same(tmp_path / "controls", workplace.inputs("second", retain=workplace.world.retain[:9]), few(workplace))
    with pytest.raises(ConfigError, match="audit of other retain"):
        conduct(workplace.inputs("second"), few(workplace), tmp_path / "audit", Contained(), controls=tmp_path / "controls")


def test_an_audit_of_a_model_that_was_replaced_in_its_place_does_not_go_on(workplace: Any, tmp_path: Path) -> None:
    """A run's folder is deleted and made again, and its old verdict would be taken for that of the new model."""
    place = tmp_path / "run"
    place.mkdir()
    (place / "model.safetensors").write_bytes(b"old")
    inputs = replace(workplace.inputs("second"), audited=str(place))
    check_same(tmp_path, inputs, few(workplace))
    check_same(tmp_path, inputs, few(workplace))
    (place / "model.safetensors").write_bytes(b"new")
    with pytest.raises(ConfigError, match="audit of other audited weights; use the same, or give --out a new folder"):
        check_same(tmp_path, inputs, few(workplace))
    kept = json.loads((tmp_path / "inputs.json").read_text())
    kept = {key: value for key, value in kept.items() if not key.endswith("_weights")}
    (tmp_path / "inputs.json").write_text(json.dumps(kept))
    check_same(tmp_path, inputs, few(workplace))  # of an older version
