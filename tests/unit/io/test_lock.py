"""One process at a time in a folder, and no lock that outlives its holder."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from deleatur.errors import ConfigError
from deleatur.io.lock import LOCK, folder_lock

HOLD = "import sys, pathlib, time\nfrom deleatur.io.lock import folder_lock\n"
HOLD += "with folder_lock(pathlib.Path(sys.argv[1])):\n    print('in', flush=True)\n    time.sleep(60)"


def test_a_second_process_is_refused_and_the_next_gets_the_lock(tmp_path):
    with folder_lock(tmp_path):
        with (
            pytest.raises(ConfigError, match="another run is at work"),
            folder_lock(tmp_path),
        ):
            pass
        assert [p.name for p in tmp_path.iterdir()] == [LOCK], "who was refused takes nothing away"
    assert list(tmp_path.iterdir()) == []
    with folder_lock(tmp_path):
        pass


def test_a_killed_process_leaves_no_lock(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "in\n"
    with pytest.raises(ConfigError, match="another run"), folder_lock(tmp_path):
        pass
    holder.kill()
    holder.wait()
    assert (tmp_path / LOCK).exists()
    with folder_lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_releases_the_lock(tmp_path):
    with pytest.raises(ZeroDivisionError), folder_lock(tmp_path):
        raise ZeroDivisionError
    with folder_lock(tmp_path):
        pass


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_again(tmp_path, monkeypatch):
    """Between our opening of the file and our locking it, its holder may end and another begin with a file of its own."""

    def take(number: int) -> None:
        (tmp_path / LOCK).unlink()
        (tmp_path / LOCK).touch()

    monkeypatch.setattr("deleatur.io.lock._take", take)
    with pytest.raises(ConfigError, match="another run"), folder_lock(tmp_path):
        pass


def test_a_file_system_without_locks_is_worked_on_all_the_same(tmp_path, monkeypatch):
    def take(number: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("deleatur.io.lock._take", take)
    with folder_lock(tmp_path):
        (tmp_path / "x").touch()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
