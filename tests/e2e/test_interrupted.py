"""Ctrl-C: exit 130, one line, and a folder that cannot be mistaken for a finished run. Going on is in test_resume.py."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace

import pytest
from killing import whole

from deleatur.commands.demo import fine_tuned_model
from deleatur.commands.demo_scale import FineTuning, scale_of
from deleatur.commands.options import Demo
from deleatur.data.world import make_world
from deleatur.errors import Interrupted
from deleatur.progress import Progress
from deleatur.training.checkpoint import Checkpoints

LINE = "deleatur: interrupted; resume with: deleatur forget run --resume"


def test_an_interrupt_during_a_step_ends_the_run_in_one_line(home, tmp_path, call, monkeypatch):
    def interrupt(step, steps):
        raise KeyboardInterrupt

    monkeypatch.setattr("deleatur.cli.console.watch", lambda: nullcontext(Progress(step=interrupt)))
    said = call(*home.forget("run"))
    assert (said.code, said.out, said.err) == (130, "", f"{LINE}\n")
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"run.yaml", "data.json", "records", "steps.jsonl"}
    assert (tmp_path / "run" / "steps.jsonl").read_text(encoding="utf-8").count("\n") == 1


@pytest.mark.parametrize(
    ("number", "code", "word", "trained"),
    [(signal.SIGTERM, 75, "terminated", False), (signal.SIGINT, 130, "interrupted", True)],
)
def test_a_signal_during_an_evaluation_prints_how_to_resume(number, code, word, trained, home, tmp_path, call, monkeypatch):
    """Before training and after it; what was done by then is not done again."""
    alone, done = call(*home.forget("alone", "--keep.every", "1")), []
    assert alone.code == 0

    def asked(what, count, total, rate):
        if (tmp_path / "run" / "checkpoints").exists() is trained:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr("deleatur.cli.console.watch", lambda: nullcontext(Progress(evaluated=asked)))
        said = call(*home.forget("run", "--keep.every", "1"))
    assert (said.code, said.out) == (code, "")
    assert said.err == f"deleatur: {word}; resume with: deleatur forget run --resume\n"
    with monkeypatch.context() as patch:
        patch.setattr(
            "deleatur.cli.console.watch", lambda: nullcontext(Progress(step=lambda step, steps: done.append(step.step)))
        )
        assert call("forget", "run", "--resume").code == 0
    assert done == ([] if trained else [1, 2, 3, 4])
    assert whole(tmp_path / "run") == whole(tmp_path / "alone")


def test_a_signal_during_the_demos_fine_tuning_keeps_the_step(home, tmp_path, call, monkeypatch):
    """Called again, fine-tuning goes on with the next step, and gives the model of an uninterrupted one."""
    told = {
        "name": str(home.model),
        "rows": make_world(people=3, forget=1).fine_tuning_rows,
        "how": FineTuning(train=replace(scale_of(Demo()).fine_tuning, epochs=2), data=scale_of(Demo()).data),
    }
    at_a_stretch, done = fine_tuned_model(**told, folder=tmp_path / "other"), []

    def heard(step, steps):
        done.append(step.step)
        if done == [1, 2]:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("deleatur.cli.console.watch", lambda: nullcontext(Progress(step=heard)))
    said = call("demo", "--model", home.model, "--people", 3, "--forgotten", 1, "--fine-tune-epochs", 2)
    line = "deleatur: interrupted after step 2, which is kept; resume with: the same command\n"
    assert (said.code, said.out, said.err) == (75, "", line)
    assert not (tmp_path / "runs").exists()
    again = fine_tuned_model(**told, folder=tmp_path / "models", progress=Progress(step=heard))
    assert done[:3] == [1, 2, 3]
    assert (again / "model.safetensors").read_bytes() == (at_a_stretch / "model.safetensors").read_bytes()
    assert sorted(p.name for p in (tmp_path / "models").iterdir()) == [again.name]


HEARD = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # ignored below `nohup … &`
FIRST = ("--seeds", 0, "--objective", "extraction_strength")  # an untrained model reveals nothing, so it has no UQ


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_during_a_trial_says_how_to_resume_the_bench(number, code, home, call, monkeypatch):
    monkeypatch.setattr(
        "deleatur.cli.console.watch", lambda: nullcontext(Progress(step=lambda *_: os.kill(os.getpid(), number)))
    )
    said = call("bench", "--model", home.model, *home.rows, "--methods", "graddiff", "--trials", 2, *FIRST)
    assert (said.code, said.out) == (code, "")
    assert said.err.splitlines()[-1].endswith("; resume with: the same command")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_during_an_evaluation_says_that_it_starts_again(number, code, finished, call, monkeypatch):
    """It writes nothing, so there is nothing to go on from."""
    monkeypatch.setattr(
        "deleatur.cli.console.watch", lambda: nullcontext(Progress(evaluated=lambda *_: os.kill(os.getpid(), number)))
    )
    said = call("evaluate", finished)
    assert (said.code, said.out) == (code, "")
    assert said.err.splitlines()[-1].endswith("; resume with: the same command, from its beginning")


def test_an_interrupt_from_the_keyboard_ends_the_process(home, tmp_path):
    command = home.forget("run", "--train.epochs", "5000", "--evaluation.rows", "1")
    process = subprocess.Popen(
        [sys.executable, "-c", f"{HEARD}; from deleatur.cli.main import main; main()", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    )
    steps = tmp_path / "run" / "steps.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and not (steps.exists() and steps.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = (text.decode() for text in process.communicate(timeout=60))
    assert (process.returncode, out) == (130, "")
    said = r"deleatur: interrupted after step \d+, which is kept; resume with: deleatur forget run --resume"
    assert re.fullmatch(said, err.splitlines()[-1])
    assert "Traceback" not in err
    left = {p.name for p in (tmp_path / "run").iterdir()}
    assert left == {"run.yaml", "data.json", "records", "steps.jsonl", "checkpoints"}


def test_a_signal_while_processes_compare_theirs_is_not_lost(tmp_path, monkeypatch):
    """It comes after this process has said that it has none; the step after it ends training."""
    kept = Checkpoints(tmp_path, every=None, keep=1)

    def gather(value):
        os.kill(os.getpid(), signal.SIGINT)
        return [value]

    with pytest.raises(Interrupted, match="after step 2"), kept.handle_signals():
        with monkeypatch.context() as patched:
            patched.setattr("deleatur.training.checkpoint.gather", gather)
            assert not kept.due(1, 10)
        kept.stop_if_requested(1)
        assert kept.due(2, 10)
        kept.stop_if_requested(2)
