"""Two processes do what one does, on CPU through gloo, whether each holds the weights or its share of them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).parent))  # the script's own import of its neighbour
from in_two import FEWER
from test_guard import ASCENT
from train_in_two import SCENARIOS, train

ENGINES = ("copies", "shares", "zero")
SPREAD = ("shares", "zero")
MORE = ("--train.epochs", "3", "--evaluation.rows", "4", "--keep.every", "2")
RUNS = {
    "plain": ("--train.batch", "3"),  # an odd batch: the processes' shares differ
    "lora": ("--recipe", "npo-learned", "--lora.rank", "2", "--train.checkpointing", "--train.retain", "kl"),
    "default": ("--recipe", "atwu", "--lora.rank", "2"),
}
WHOLE_RUNS = (
    ("plain", "copies"),
    ("plain", "shares"),
    ("lora", "shares"),
    ("default", "shares"),
    ("plain", "zero"),
)
TRAININGS = [(name, engine) for engine in ENGINES for name in FEWER.get(engine, SCENARIOS)]
CLOCKS = ("seconds", "cpu_seconds", "scorer_seconds", "memory")


@pytest.fixture(scope="session")
def folder(home, tmp_path_factory) -> Path:
    """Where two processes left what they did; one that hangs is ended, and what is missing fails its test."""
    folder = tmp_path_factory.mktemp("two")
    commands = {
        engine: [
            {"stop": None, "command": home.forget(folder / f"{name}-{engine}", *MORE, *RUNS[name])}
            for name, spread in WHOLE_RUNS
            if spread == engine
        ]
        for engine in ENGINES
    }
    for engine in SPREAD:
        stopped = folder / f"stopped-{engine}"
        commands[engine] += [
            {"stop": (1, 3), "command": home.forget(stopped, *MORE, *RUNS["plain"])},
            {"stop": None, "command": ("forget", str(stopped), "--resume")},
        ]
    commands["zero"] += [{"stop": None, "command": home.forget(folder / "harmed-zero", *MORE, *ASCENT)}]
    commands["shares"] += [{"stop": None, "command": ("score", str(folder / "stopped-shares"))}]
    (folder / "commands.json").write_text(json.dumps(commands))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    script = str(Path(__file__).with_name("in_two.py"))
    started = [
        subprocess.Popen(
            [sys.executable, script, str(folder)],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=(folder / f"stdout-{rank}").open("w"),
            stderr=(folder / f"stderr-{rank}").open("w"),
        )
        for rank in range(2)
    ]
    try:
        for process in started:
            process.wait(timeout=400)
    except subprocess.TimeoutExpired:
        for process in started:
            process.kill()
    return folder


def said(folder: Path) -> list[str]:
    return [(folder / f"stderr-{rank}").read_text()[-2000:] for rank in range(2)]


def differences(ours: object, theirs: object, where: str = "") -> Iterator[str]:
    """Where two JSON values differ; numbers by more than 1e-5, beyond 1 relative to their size."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        for key in ours:
            yield from differences(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for k, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(*pair, f"{where}[{k}]")
    elif isinstance(ours, float) and isinstance(theirs, float):
        if abs(ours - theirs) > 1e-5 * max(1.0, abs(ours)):
            yield f"{where}: {ours} {theirs}"
    elif ours != theirs:
        yield f"{where}: {ours} {theirs}"


def whole(run: Path) -> dict[str, object]:
    """All numbers of a run but its costs."""
    results = json.loads((run / "results.json").read_text())
    results.pop("cost")
    results["run"].pop("out")
    lines = {name: (run / name).read_text().splitlines() for name in ("steps.jsonl", "importance.jsonl")}
    lines |= {name: (run / "records" / name).read_text().splitlines() for name in ("before.jsonl", "after.jsonl")}
    read = {name: [json.loads(line) for line in some] for name, some in lines.items()}
    read["steps.jsonl"] = [{k: v for k, v in step.items() if k not in CLOCKS} for step in read["steps.jsonl"]]
    return {"results": results} | read


def weights(run: Path) -> dict[str, torch.Tensor]:
    scorer = run / "scorer.safetensors"
    return load_file(run / "model" / "model.safetensors") | (load_file(scorer) if scorer.exists() else {})


@cache
def trained_alone(name: str) -> tuple[list[dict], dict[str, torch.Tensor]]:
    return train(name, Accelerator(cpu=True))


@pytest.mark.parametrize(("name", "engine"), TRAININGS)
def test_two_processes_train_and_log_as_one_does(name, engine, folder):
    """Losses are sums over the global count, so weights, scorer and every figure of the log are one process's to 1e-5."""
    logged, weights = trained_alone(name)
    assert any(step["scorer"] for step in logged)
    for rank in range(2):
        out = folder / f"{name}-{engine}-{rank}"
        assert out.with_suffix(".json").exists(), said(folder)
        bare = [[{k: v for k, v in s.items() if k not in CLOCKS} for s in log] for log in (logged, _read(out))]
        assert list(differences(*bare)) == []
        for key, value in load_file(out.with_suffix(".safetensors")).items():
            torch.testing.assert_close(value, weights[key], rtol=1e-5, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")


def _read(out: Path) -> list[dict]:
    return json.loads(out.with_suffix(".json").read_text())


@pytest.fixture(scope="session")
def alone(home, tmp_path_factory) -> dict[str, Path]:
    """The runs in this one process."""
    from deleatur.cli.main import main

    base = tmp_path_factory.mktemp("alone")
    for name, options in RUNS.items():
        main(home.forget(base / name, *MORE, *options))
    return {name: base / name for name in RUNS}


@pytest.mark.parametrize(("name", "engine"), WHOLE_RUNS)
def test_a_run_in_two_processes_has_the_numbers_of_one_process(name, engine, folder, alone):
    """Results, records, importance and log to 1e-5, generated text to the letter, model and scorer to 1e-5."""
    run = folder / f"{name}-{engine}"
    assert (run / "results.json").exists(), said(folder)
    assert list(differences(whole(alone[name]), whole(run))) == []
    ours, theirs = weights(alone[name]), weights(run)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        torch.testing.assert_close(theirs[key], value, rtol=1e-5, atol=1e-5)
    assert (run / "report.html").exists()
    assert not (run / "checkpoints").exists()


@pytest.mark.parametrize("engine", SPREAD)
def test_a_signal_to_one_process_stops_both_and_resuming_from_shares_ends_in_the_same_bytes(engine, folder):
    stopped, plain = folder / f"stopped-{engine}", folder / f"plain-{engine}"
    assert (stopped / "results.json").exists(), said(folder)
    assert whole(stopped) == whole(plain)
    for file in ("model/model.safetensors", "scorer.safetensors"):
        assert (stopped / file).read_bytes() == (plain / file).read_bytes()


def test_a_damaged_run_under_zero_is_rolled_back_to_the_weights_of_one_process(folder, home, call, tmp_path):
    """The same step, sentence and weights; the losses on the way there grow to 12."""
    harmed = folder / "harmed-zero"
    assert (harmed / "results.json").exists(), said(folder)
    assert call(*home.forget("run", *MORE, *ASCENT)).code == 4
    ours, theirs = (json.loads((run / "results.json").read_text()) for run in (tmp_path / "run", harmed))
    assert (ours["ended"], ours["notes"]) == (theirs["ended"], theirs["notes"])
    for key, value in load_file(tmp_path / "run" / "model" / "model.safetensors").items():
        torch.testing.assert_close(load_file(harmed / "model" / "model.safetensors")[key], value, rtol=1e-4, atol=1e-4)


def test_the_first_process_alone_speaks_and_verbs_that_cannot_be_spread_are_refused(folder):
    for rank in range(2):
        codes = [json.loads((folder / f"codes-{engine}-{rank}.json").read_text()) for engine in ENGINES]
        assert codes == [[0], [0, 0, 0, 75, 0, 2], [0, 75, 0, 4]], said(folder)
    assert (folder / "stdout-1").read_text() == (folder / "stderr-1").read_text() == ""
    assert "interrupted after step 3, which is kept" in (folder / "stderr-0").read_text()
    assert "score runs in one process" in (folder / "stderr-0").read_text()
