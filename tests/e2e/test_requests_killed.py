"""Killed (kill -9) at random moments, a run of a request ends in the same ledger and the same bytes; one at a time runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from killing import whole

from deleatur.io.lock import folder_lock


def entered(case: Path) -> dict:
    """The ledger's line, but for the moment at which it was done."""
    (line,) = (case / "requests.jsonl").read_text(encoding="utf-8").splitlines()
    return {key: value for key, value in json.loads(line).items() if key != "finished"}


def run_of(case: Path) -> dict[str, object]:
    made = whole(case / entered(case)["run"])
    checks = json.loads(bytes(made.pop("requests.json")))  # pyright: ignore[reportArgumentType]
    return made | {"now": [check["now"] for check in checks]}


def test_killed_four_times_requests_end_in_the_same_ledger_and_bytes(home, tmp_path):
    driver = Path(__file__).with_name("killing_requests.py")
    done = subprocess.run([sys.executable, driver, home.folder, tmp_path, "4", "0"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told["deaths"]) == 4
    assert any("requests.jsonl" in death for death in told["deaths"]), "in writing the ledger too"
    for name in told["ended"][1:]:
        assert entered(tmp_path / name) == entered(tmp_path / "alone") | {"rows": entered(tmp_path / name)["rows"]}
        assert run_of(tmp_path / name) == run_of(tmp_path / "alone"), name
    assert sorted(p.name for p in (tmp_path / told["ended"][-1]).iterdir()) == ["requests", "requests.jsonl"]


def test_a_second_run_on_the_same_ledger_is_refused(home, call, tmp_path):
    call("request", "add", *home.rows)
    (tmp_path / "requests").mkdir()
    with folder_lock(tmp_path / "requests"):
        said = call("request", "run", "--model", home.model)
    assert (said.code, "another run is at work in requests" in said.err) == (2, True)
