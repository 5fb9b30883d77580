"""Killed (kill -9) at random moments, inside saves too, a run and a bench go on and end in the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from killing import whole

FEW = ("--evaluation.rows", "2", "--evaluation.new-tokens", "2")
SHORT = ("--train.epochs", "3", "--train.batch", "4", "--train.lr", "1e-3", "--keep.every", "1", "--keep.newest", "2")


@pytest.fixture(scope="module")
def killed(home, tmp_path_factory):
    """Of a run and of a bench: how they died, which folders they ended in, and one that was left alone. Both are made by one
    process, which imports everything once."""
    base = tmp_path_factory.mktemp("killed")
    bench = ("bench", "--model", str(home.model), *home.rows, "--out", "{out}", *FEW, "--train.epochs", "1", "--train.batch")
    bench += ("4", "--rates", "1e-4", "1e-2", "--methods", "graddiff", "--trials", "3", "--seeds", "0")
    run = {"first": home.forget("{out}", *SHORT, *FEW), "again": ("forget", "{out}", "--resume"), "begun": "run.yaml"}
    plans = [run | {"kills": 20, "seed": 0}, {"first": bench, "again": bench, "begun": ".", "kills": 6, "seed": 1}]
    for plan, name in zip(plans, ("run", "bench"), strict=True):
        (base / name).mkdir()
        plan["home"] = str(base / name)
    (base / "plans.json").write_text(json.dumps(plans))
    driver = Path(__file__).with_name("killing.py")
    done = subprocess.run([sys.executable, str(driver), str(base / "plans.json")], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_a_run_killed_twenty_times_ends_in_the_same_bytes(killed):
    """Also the same files: nothing torn or half-written is left. Most operations on files are those of checkpoints."""
    told, alone = killed[0], whole(Path(killed[0]["alone"]))
    assert not told["wrong"], told["wrong"]
    assert len(told["deaths"]) == 20
    for folder in told["ended"]:
        assert whole(Path(folder)) == alone, folder
    assert sum("/checkpoints/" in death or "state" in death for death in told["deaths"]) >= 5
    assert {"time"} < set(told["deaths"])


def test_a_bench_killed_does_no_finished_trial_twice_and_ends_in_the_same_bytes(killed):
    told = killed[1]
    assert not told["wrong"], told["wrong"]
    assert len(told["deaths"]) == 6
    for folder in map(Path, told["ended"]):
        assert _bench(folder) == _bench(Path(told["alone"]))
        assert not folder.with_suffix(".twice").exists()


def _bench(folder: Path) -> dict[str, object]:
    run = folder / "graddiff" / "seed-0"
    results = json.loads((run / "results.json").read_text())
    results.pop("cost")
    results["run"].pop("out")
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))
    return {"results": results, "files": files, "trials": (folder / "graddiff" / "trials.jsonl").read_bytes()}
