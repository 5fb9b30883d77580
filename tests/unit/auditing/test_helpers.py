"""Further processes that share an audit's work: how many there are."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from deleatur.auditing import helpers as module
from deleatur.auditing.helpers import BYTES, Helpers, free_memory


@pytest.mark.parametrize(
    ("cores", "arms", "models", "processes"),
    [(4, 4, 9, 4), (4, 3, 9, 3), (2, 4, 9, 2), (4, 4, 2, 2), (4, 4, 0, 1), (1, 4, 9, 1)],
)
def test_a_process_for_each_arm_core_and_share_of_memory(
    cores: int, arms: int, models: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    ended = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    monkeypatch.setattr(module, "start_helper", lambda task, threads: made.append(threads) or ended)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    set_to: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr(module, "free_memory", lambda: models * BYTES * 1000 + 5)
    with Helpers() as helpers:
        for _ in range(2):  # the second time nothing happens
            helpers.start((), arms=arms, parameters=1000)
    assert made == [cores // processes] * (processes - 1)
    assert set_to == [cores // processes, cores]


@pytest.mark.parametrize(("limit", "free"), [("700", 600), ("9000", 1000), ("max", 1000), (None, 1000), ("50", 0)])
def test_a_containers_limit_counts(limit: str | None, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    monkeypatch.setattr(module, "CGROUP", tmp_path)
    (tmp_path / "memory.current").write_text("100\n")
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
    assert free_memory() == free


def test_on_a_gpu_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(module, "start_helper", lambda task, threads: pytest.fail("started"))
    with Helpers() as helpers:
        helpers.start((), arms=4, parameters=1000)
