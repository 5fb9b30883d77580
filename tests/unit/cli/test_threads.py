"""How OpenMP's threads wait: by what else runs on the machine, unless the user has said it."""

from __future__ import annotations

import os

import psutil
import pytest

from deleatur.cli import main as cli

SET = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """The three variables as on a user's machine: not there."""
    for name in SET:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("busy", "expected"), [(0.0, {"GOMP_SPINCOUNT": cli.SPINS}), (50.0, {"OMP_WAIT_POLICY": "PASSIVE"})]
)
def test_threads_wait_by_how_busy_the_machine_is(
    busy: float, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: busy)
    assert cli._thread_environment() == expected


@pytest.mark.parametrize("given", [("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "7"), ("OMP_NUM_THREADS", "1")])
def test_what_the_user_has_set_stays(given: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*given)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: pytest.fail("not needed"))
    assert cli._thread_environment() == {}
    assert os.environ[given[0]] == given[1]
