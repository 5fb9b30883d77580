"""Killed (kill -9) at random moments, inside saves too, a run, a bench and an evaluation end in the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from killing import plans, whole, whole_bench, whole_evaluation


@pytest.fixture(scope="module")
def killed(home, tmp_path_factory):
    """Of a run, a bench and an evaluation: how they died, which folders they ended in, and one that was left alone. All are
    made by one process, which imports everything once."""
    base = tmp_path_factory.mktemp("killed")
    (base / "plans.json").write_text(json.dumps(plans(home, base, kills=(12, 4, 5), seed=0)))
    driver = Path(__file__).with_name("killing.py")
    done = subprocess.run([sys.executable, str(driver), str(base / "plans.json")], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_a_run_killed_twelve_times_ends_in_the_same_bytes(killed):
    """Also the same files: nothing torn or half-written is left, though some died while a checkpoint was written."""
    told, alone = killed[0], whole(Path(killed[0]["alone"]))
    assert not told["wrong"], told["wrong"]
    assert len(told["deaths"]) == 12
    for folder in told["ended"]:
        assert whole(Path(folder)) == alone, folder
    inside = [death for death in told["deaths"] if "/checkpoints/" in death or "state" in death]
    assert inside, told["deaths"]
    assert {"time"} < set(told["deaths"])


def test_a_bench_killed_does_no_finished_trial_twice_and_ends_in_the_same_bytes(killed):
    told = killed[1]
    assert not told["wrong"], told["wrong"]
    assert len(told["deaths"]) == 4
    for folder in map(Path, told["ended"]):
        assert whole_bench(folder) == whole_bench(Path(told["alone"]))
        assert not folder.with_suffix(".twice").exists()


def test_an_evaluation_killed_ends_in_the_same_bytes(killed):
    """Every file of its folder; what was kept of an asking in the meantime is gone."""
    told = killed[2]
    assert not told["wrong"], told["wrong"]
    assert len(told["deaths"]) == 5
    assert any(".part.jsonl" in death for death in told["deaths"])
    for folder in map(Path, told["ended"]):
        assert whole_evaluation(folder) == whole_evaluation(Path(told["alone"]))
