"""Further processes that share an audit's work, started by the audit itself."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from deleatur.auditing import helpers as module
from deleatur.auditing.helpers import BYTES, Helpers
from deleatur.auditing.settings import AuditSettings
from deleatur.auditing.work import Work, plan
from deleatur.io.lock import try_lock

SHORT = AuditSettings(attacks=("ask",), ways=("plain",), new_tokens=16, refuser_steps=10, precision="fp32")


def work_in(folder: Path, workplace: Any) -> Work:
    """The work of a short audit, nothing done yet."""
    folder.mkdir()
    inputs = workplace.inputs("second")
    return Work(inputs=inputs, settings=SHORT, folder=folder, jobs=plan(inputs, SHORT)[0], is_helper=True)


def wait(done: Any, seconds: float = 180.0) -> None:
    """Until something is true."""
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_helper_does_what_its_starter_would(workplace: Any, tmp_path: Path) -> None:
    alone, helped = work_in(tmp_path / "alone", workplace), work_in(tmp_path / "helped", workplace)
    helper = module._start(helped.task(), 1)
    alone.finish()
    wait(lambda: helper.poll() is not None)
    helper.communicate()
    assert helper.returncode == 0
    cells = sorted(path.name for path in (tmp_path / "alone" / "cells").iterdir())
    assert cells == sorted(path.name for path in (tmp_path / "helped" / "cells").iterdir())
    assert len(cells) == len(alone.jobs)


def test_a_helper_ends_with_whoever_started_it(workplace: Any, tmp_path: Path) -> None:
    work = work_in(tmp_path / "audit", workplace)
    units = [(unit.home, unit.name) for unit in work._units()]
    locks = [try_lock(work.folder / f"{home}.{name}.lock") for home, name in units]
    for lock in locks:
        assert lock.__enter__()  # so that nothing is left for the helper to do but wait
    helper = module._start(work.task(), 1)
    time.sleep(1)
    assert helper.poll() is None
    assert helper.stdin is not None
    helper.stdin.close()
    helper.wait(timeout=120)
    for lock in locks:
        lock.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("cores", "arms", "models", "processes"),
    [(4, 4, 9, 4), (4, 3, 9, 3), (2, 4, 9, 2), (4, 4, 1, 2), (4, 4, 0, 1), (1, 4, 9, 1)],
)
def test_a_process_for_each_arm_core_and_share_of_memory(
    cores: int, arms: int, models: int, processes: int, workplace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    ended = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    monkeypatch.setattr(module, "_start", lambda task, threads: made.append(threads) or ended)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    set_to: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=models * BYTES * 1000 + 5))
    with Helpers() as helpers:
        for _ in range(2):  # the second time nothing happens
            helpers.start(work_in(tmp_path / f"audit{len(made)}{_}", workplace), arms=arms, parameters=1000)
    assert made == [cores // processes] * (processes - 1)
    assert set_to == [cores // processes, cores]


def test_on_a_gpu_there_are_none(workplace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(module, "_start", lambda task, threads: pytest.fail("started"))
    with Helpers() as helpers:
        helpers.start(work_in(tmp_path / "audit", workplace), arms=4, parameters=1000)
