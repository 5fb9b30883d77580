"""One process at a time in a folder. The system releases the lock of a process that is killed."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from deleatur.errors import ConfigError

if sys.platform == "win32":
    from msvcrt import LK_NBLCK, locking

    def _take(number: int) -> None:
        locking(number, LK_NBLCK, 1)
else:
    from fcntl import LOCK_EX, LOCK_NB, flock

    def _take(number: int) -> None:
        flock(number, LOCK_EX | LOCK_NB)


LOCK = ".lock"
PAUSE = 0.05  # seconds between two tries
TAKEN = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)  # how the systems say that another holds it


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Inside, hold a file's lock if no other process does: True, or False where one does.

    Where the file system knows no locks, as some network file systems, it is True all the same.
    """
    with path.open("a") as file:
        acquired = True
        try:
            _take(file.fileno())
            if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                acquired = False  # whoever had it took it away between our opening and our locking
        except OSError as e:
            acquired = e.errno not in TAKEN and not isinstance(e, FileNotFoundError)
        try:
            yield acquired
        finally:
            if acquired:
                with contextlib.suppress(OSError):  # where an open file cannot be removed it stays, and does no harm
                    path.unlink()


@contextlib.contextmanager
def wait_lock(path: Path, *, seconds: float = float("inf")) -> Iterator[None]:
    """Wait until no other process holds a file's lock, and hold it inside. Raises ConfigError after so many seconds."""
    ends = time.monotonic() + seconds
    while True:
        with try_lock(path) as acquired:
            if acquired:
                yield
                return
        if time.monotonic() > ends:
            raise ConfigError(f"another process has held {path} for {seconds:.0f} s; let it end, and try again")
        time.sleep(PAUSE)


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Holds the folder's lock. Raises ConfigError where another process has it."""
    with try_lock(folder / LOCK) as acquired:
        if not acquired:
            raise ConfigError(f"another run is at work in {folder}; let it end, or take another folder")
        yield
