"""An interrupted run goes on from its newest whole checkpoint and ends in the same bytes as one that was left alone."""

from __future__ import annotations

import os
import signal
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from killing import whole

from deleatur.progress import Progress
from deleatur.training.checkpoint import Checkpoints

MORE = ("--train.epochs", "4", "--keep.every", "2", "--keep.newest", "2", "--evaluation.rows", "4")  # eight steps
METHODS = {
    "atwu in bf16": ("--train.precision", "bf16"),
    "two layers, bound, lora": ("--importance.depth", "2", "--train.bound", "0.1", "--lora.rank", "2"),
    "upper layers": ("--train.only", r"layers\.1\.|model\.norm\."),
    "npo": ("--recipe", "npo-learned", "--importance.pretrain", "1"),
}


def left_alone(home, call, tmp_path: Path, *options: str) -> Path:
    assert call(*home.forget("alone", *MORE, *options)).code == 0
    return tmp_path / "alone"


def stopped_at(monkeypatch, step: int, stop) -> None:
    """From now on a run is stopped after a step, before that step's checkpoint."""

    def heard(made, steps: int) -> None:
        if made.step == step:
            stop()

    monkeypatch.setattr("deleatur.cli.console.watch", lambda: nullcontext(Progress(step=heard)))


def killed() -> None:
    raise SystemExit(137)  # as little is cleaned up as by a kill: nothing in the run catches it


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_run_that_was_killed_ends_in_the_same_bytes(method, step, home, call, tmp_path, monkeypatch):
    alone = left_alone(home, call, tmp_path, *METHODS[method])
    with monkeypatch.context() as patch:
        stopped_at(patch, step, killed)
        assert call(*home.forget("run", *MORE, *METHODS[method])).code == 137
    kept = sorted(p.name for p in (tmp_path / "run" / "checkpoints").glob("*"))
    assert kept == [f"step-{s:08d}" for s in (2, 4) if s < step]
    said = call("forget", "run", "--resume")
    assert said.code == 0, said.err
    assert whole(tmp_path / "run") == whole(alone)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_finishes_the_step_saves_it_and_prints_how_to_resume(number, code, home, call, tmp_path, monkeypatch):
    alone = left_alone(home, call, tmp_path)
    with monkeypatch.context() as patch:
        stopped_at(patch, 3, lambda: os.kill(os.getpid(), number))
        said = call(*home.forget("run", *MORE))
    assert said.code == code
    line = "deleatur: interrupted after step 3, which is kept; resume with: deleatur forget run --resume"
    assert said.err.splitlines()[-1] == line
    assert call(*line.partition("deleatur forget ")[1].split()[1:], "run", "--resume").code == 0
    assert whole(tmp_path / "run") == whole(alone)


def test_a_kill_inside_a_save_leaves_the_one_before(home, call, tmp_path, monkeypatch):
    alone = left_alone(home, call, tmp_path)
    with monkeypatch.context() as patch:
        made = Checkpoints.save

        def save(self, step, state):
            patch.setattr("deleatur.io.atomic.flush", lambda path: killed() if step == 4 else None)
            if step == 4:
                patch.setattr("shutil.rmtree", lambda *_, **__: None)  # a kill leaves what was written aside
            made(self, step, state)

        patch.setattr(Checkpoints, "save", save)
        assert call(*home.forget("run", *MORE)).code == 137
    assert {p.name for p in (tmp_path / "run" / "checkpoints").iterdir()} == {".part", "step-00000002"}
    assert call("forget", "run", "--resume").code == 0
    assert whole(tmp_path / "run") == whole(alone)


def test_a_damaged_checkpoint_is_skipped(home, call, tmp_path, monkeypatch):
    alone = left_alone(home, call, tmp_path)
    with monkeypatch.context() as patch:
        stopped_at(patch, 5, killed)
        call(*home.forget("run", *MORE))
    newest = tmp_path / "run" / "checkpoints" / "step-00000004" / "state.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    assert Checkpoints(tmp_path / "run" / "checkpoints", every=2, keep=2).newest() == 2
    assert call("forget", "run", "--resume").code == 0
    assert whole(tmp_path / "run") == whole(alone)


def test_a_damaged_checkpoint_is_replaced_when_its_step_is_reached_again(tmp_path):
    kept = Checkpoints(tmp_path, every=2, keep=2)
    for step in (2, 4):
        kept.save(step, {"x": torch.tensor([float(step)])})
    harmed = tmp_path / "step-00000004" / "state.safetensors"
    harmed.write_bytes(harmed.read_bytes()[:-1])
    again = Checkpoints(tmp_path, every=2, keep=2)
    assert again.newest() == 2
    again.save(4, {"x": torch.tensor([4.0])})
    assert Checkpoints(tmp_path, every=2, keep=2).newest() == 4
    assert again.load(4)["x"].tolist() == [4.0]


def test_only_the_newest_checkpoints_are_kept(home, call, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stopped_at(patch, 8, killed)
        call(*home.forget("run", *MORE, "--keep.newest", "1"))
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000006"]


def test_a_run_that_cannot_be_resumed_is_refused(home, call, run_folder, refused, tmp_path, monkeypatch):
    assert "is finished" in refused("forget", run_folder, "--resume")
    assert "leave --seed out" in refused("forget", run_folder, "--resume", "--seed", "1")
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(home.file("forget").read_bytes())
    with monkeypatch.context() as patch:
        stopped_at(patch, 1, killed)
        call(*[rows if a == str(home.file("forget")) else a for a in home.forget("other", *MORE)])
    rows.write_text("\n".join(rows.read_text().splitlines()[1:]))
    assert "the forget rows are not those that other began with" in refused("forget", "other", "--resume")
