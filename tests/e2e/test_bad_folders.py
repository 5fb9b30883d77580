"""Folders that cannot be written to or are no runs: one line, and nothing touched."""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from killing import FEW, whole_evaluation
from safetensors.torch import save
from torch import zeros

from deleatur.progress import Progress

Usage = namedtuple("Usage", "total used free")


def test_a_folder_that_holds_something_is_refused(home, tmp_path, refused):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine", encoding="utf-8")
    assert "full exists" in refused(*home.forget("full"))
    assert "exists" in refused(*home.forget("full/mine.txt"))
    assert "full/mine.txt/run" in refused(*home.forget("full/mine.txt/run"))


def test_an_empty_folder_is_left_as_it_was_when_the_run_is_refused(home, tmp_path, refused):
    (tmp_path / "empty").mkdir(mode=0o755)
    refused(*home.forget("empty", "--model", "./nowhere"))
    assert (tmp_path / "empty").is_dir()


def test_a_full_disk_is_noticed_before_anything_is_written(home, refused, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 5000, 5000))
    assert "0.0 GB left" in refused(*home.forget("deep/er/run"))


def test_a_folder_that_cannot_be_written_to_is_noticed_before_anything_is_written(home, refused, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    assert "cannot be written to" in refused(*home.forget("run"))


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to let a file grow beyond so many bytes, as it does where a disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("size", "keep", "left"),
    [(300, "50", ""), (20_000, "50", "records"), (200_000, "50", "checkpoints"), (200_000, "None", "records/after.jsonl")],
)
def test_a_disk_that_fills_while_writing_is_one_line(size, keep, left, home, tmp_path, call, monkeypatch):
    """What was whole by then is there, and nothing else. The trial of saving had room."""
    monkeypatch.setattr("deleatur.commands.unlearn.try_ending", lambda *_: None)
    with files_of_at_most(size):
        said = call(*home.forget("run", "--keep.every", keep))
    assert (said.code, said.out) == (2, "")
    assert [x for x in said.err.splitlines() if "deleatur: " in x] == said.err.splitlines()[-1:]
    assert "too large" in said.err.splitlines()[-1]
    assert "Traceback" not in said.err
    assert (tmp_path / "run" / left).exists()
    assert not (tmp_path / "run" / "results.json").exists()
    assert not (tmp_path / "run" / "model").exists()
    assert not list(tmp_path.rglob("*.part"))


def held(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class BadDisk:
    """After so many openings for writing, makings and renamings below a folder every further one meets a fault."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, after: int, fault: int) -> None:
        self.folder, self.left, self.fault, self.refused = str(folder), after, fault, 0
        for where, name in ((io, "open"), (os, "mkdir"), (os, "replace"), (os, "rename")):
            monkeypatch.setattr(where, name, self.guarded(getattr(where, name)))

    def guarded(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            if str(path).startswith(self.folder) and (real is not io.open or "r" not in (*args, "r")[0]):
                self.left -= 1
                if self.left < 0:
                    self.refused += 1
                    raise OSError(self.fault, os.strerror(self.fault), str(path))
            return real(path, *args, **kwargs)

        return call


FAULTS = pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EROFS], ids=["full", "read-only"])


@FAULTS
@pytest.mark.parametrize("args", [(), ("--form", "open-unlearning"), ("--form", "lm-eval")], ids=" ".join)
def test_a_report_on_a_bad_disk_leaves_what_was_there(args, fault, run_folder, call, monkeypatch):
    """At every opening and renaming in turn, until there is none that fails."""
    call("report", "run", *args)
    for after in range(20):
        before = held(run_folder)
        with monkeypatch.context() as patch:
            disk = BadDisk(patch, run_folder, after, fault)
            said = call("report", run_folder, *args)
        assert held(run_folder) == before, "the same bytes, whether written again or not"
        if not disk.refused:
            break
        assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
        assert os.strerror(fault) in said.err
    assert 2 <= after < 20


@FAULTS
def test_an_evaluation_on_a_bad_disk_ends_in_one_line_and_can_be_resumed(fault, home, tmp_path, call, monkeypatch):
    """At every opening and renaming in turn; what is there by then is whole, and enough to go on with."""
    command = ("evaluate", "--model", home.model, *home.rows, *FEW, "--out")
    call(*command, "alone")
    for after in range(40):
        with monkeypatch.context() as patch:
            disk = BadDisk(patch, tmp_path / "eval", after, fault)
            said = call(*command, tmp_path / "eval")
        if not disk.refused:
            break
        assert (said.code, said.out) == (2, "")
        assert said.err.splitlines()[-1].startswith(f"deleatur: {os.strerror(fault)}")
        assert not list(tmp_path.rglob("*.part"))
        if (tmp_path / "eval" / "evaluate.yaml").exists():
            assert call("evaluate", "eval", "--resume").code == 0
            assert whole_evaluation(tmp_path / "eval") == whole_evaluation(tmp_path / "alone")
        shutil.rmtree(tmp_path / "eval", ignore_errors=True)
    assert 5 <= after < 40


def test_two_runs_do_not_share_a_folder(home, tmp_path, call, monkeypatch):
    """The second begins while the first one trains; to go on with the first then is refused too, and it ends whole."""
    heard = []

    def meanwhile(step, steps) -> None:
        if step.step == 1:
            heard.extend(call(*args) for args in (home.forget("run"), ("forget", "run", "--resume")))

    with monkeypatch.context() as patch:
        patch.setattr("deleatur.cli.console.watch", lambda: nullcontext(Progress(step=meanwhile)))
        assert call(*home.forget("run")).code == 0
    assert [said.code for said in heard] == [2, 2]
    assert "run exists; give --out a new folder" in heard[0].err
    assert "another run is at work in run" in heard[1].err
    assert (tmp_path / "run" / "results.json").exists()
    assert not (tmp_path / "run" / ".lock").exists()


def test_of_two_runs_that_begin_at_once_one_is_refused(home, tmp_path, call, monkeypatch):
    """Both found the folder free; by the time that the model is loaded the other has filled it."""

    def quicker(model, out, run) -> None:
        out.mkdir()
        (out / "run.yaml").touch()

    monkeypatch.setattr("deleatur.commands.unlearn.check_space", quicker)
    said = call(*home.forget("run"))
    assert (said.code, said.err.splitlines()[-1]) == (2, "deleatur: run exists; give --out a new folder")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["run.yaml"]


def test_a_clock_that_stops_or_goes_back_changes_no_result(home, call, finished, monkeypatch):
    """Times are told and decide nothing."""
    monkeypatch.setattr("time.perf_counter", map(float, range(0, -(10**6), -1)).__next__)
    monkeypatch.setattr("time.process_time", lambda: 0.0)
    said = call(*home.forget("run", "--holdout", home.file("holdout"), "--json"))
    assert said.code == 0, said.err
    results, alike = json.loads(said.out), json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert [results[k] for k in ("before", "after", "fq", "importance")] == [
        alike[k] for k in ("before", "after", "fq", "importance")
    ]
    monkeypatch.setattr("time.perf_counter", lambda: 5.0)
    assert call(*home.forget("still")).code == 0


def test_a_name_with_commands_for_the_terminal_is_written_out(home, refused):
    """Colours, a reversal of the writing direction, half a character: shown, and not obeyed."""
    line = refused(*home.forget("run", "--forget", "./a\x1b[31m\u202e\ud800.jsonl"))
    assert "./a\\x1b[31m\\u202e\\ud800.jsonl" in line
    assert refused("score", "a\x1b[31m\u202e").isascii()


RECORD = b'{"set": "forget", "id": "a", "question": "?", "answer": "a", "generated": "a", "logp": [-1.5], "hit": [true], '
RECORD += b'"ends": false, "spans": [{}], "offsets": [[0, 1]]}'  # whole but for its span
HARMED = {  # the file → what it holds instead (None: it is gone), and the verbs that need it
    ("results.json", None): ("report",),
    ("results.json", b"{"): ("report",),
    ("results.json", b"[]"): ("report",),
    ("steps.jsonl", b'{"step": 1'): ("report",),
    ("steps.jsonl", None): ("report",),
    ("records/after.jsonl", b"\xff"): ("report", "peers"),
    ("records/after.jsonl", b"{"): ("report", "peers"),
    ("records/after.jsonl", b"3"): ("report", "peers"),
    ("records/after.jsonl", RECORD[:-1] + b', "more": 1}'): ("peers",),
    ("records/after.jsonl", RECORD.replace(b"[-1.5]", b'["x"]')): ("peers",),
    ("records/after.jsonl", RECORD.replace(b"[[0, 1]]", b"[[0]]")): ("peers",),
    ("records/after.jsonl", RECORD.replace(b"[{}]", b'[{"start": 0}]')): ("peers",),
    ("importance.jsonl", None): ("report", "score"),
    ("importance.jsonl", b'{"id": "a'): ("report", "score"),
    ("importance.jsonl", b'{"id": "a"}'): ("report", "score"),
    ("importance.jsonl", b"[1]"): ("report", "score"),
    ("importance.jsonl", b'{"question": 5, "answer": "a", "tokens": []}'): ("report", "score"),
    ("importance.jsonl", b'{"question": "a", "answer": "a", "tokens": [{"start": "x"}]}'): ("report", "score"),
    ("importance.jsonl", b"\xff\xfe"): ("report", "score"),
    ("run.yaml", None): ("score", "rescore", "evaluate"),
    ("run.yaml", b"x: 1"): ("rescore", "evaluate"),
    ("run.yaml", b"\xff"): ("rescore", "evaluate"),
    ("scorer.safetensors", None): ("rescore",),
    ("scorer.safetensors", b""): ("rescore",),
    ("scorer.safetensors", b"x" * 100): ("rescore",),
    ("scorer.safetensors", save({"other": zeros(3)})): ("rescore",),
    ("scorer.safetensors", save({"linear.weight": zeros(1, 32)})): ("rescore",),
    ("scorer.safetensors", save({"linear.weight": zeros(3)})): ("rescore",),
    ("model/model.safetensors", None): ("rescore", "evaluate"),
    ("model/config.json", None): ("rescore", "evaluate"),
    ("model/tokenizer.json", b"{"): ("rescore", "evaluate"),
}
CASES = [(verb, file, held) for (file, held), verbs in HARMED.items() for verb in verbs]
CASES += [pytest.param(verb, "model/model.safetensors", b"x" * 100) for verb in ("rescore", "evaluate")]


@pytest.mark.parametrize(("verb", "file", "held"), CASES, ids=lambda value: repr(value)[:40])
def test_a_run_folder_with_a_broken_file_is_refused(verb, file, held, run_folder, home, refused):
    (run_folder / file).unlink() if held is None else (run_folder / file).write_bytes(held)
    more = {"rescore": ("--rows", home.file("holdout")), "peers": ("--form", "open-unlearning")}.get(verb, ())
    line = refused({"rescore": "score", "peers": "report"}.get(verb, verb), "run", *more)
    assert file.split("/")[0].split(".")[0] in line, line


@pytest.mark.parametrize("verb", ["report", "score", "evaluate"])
def test_a_folder_that_is_no_run_is_refused(verb, finished, tmp_path, refused):
    (tmp_path / "empty").mkdir()
    assert "nowhere" in refused(verb, "nowhere")
    assert "empty" in refused(verb, "empty")
    assert "run.yaml" in refused(verb, finished / "run.yaml")
