"""One process at a time in a folder or at a file. The system lets go of a killed process's lock: none is left behind."""

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
TAKEN = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)  # how the systems say that another holds it


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Nobody else is in the folder meanwhile. Raises ConfigError where somebody is.

    Where the file system knows no locks, as some network file systems, it is entered all the same.
    """
    with _locked(folder / LOCK, f"another run is at work in {folder}; let it end, or take another folder"):
        yield


@contextlib.contextmanager
def file_lock(path: Path, *, seconds: float = 30.0) -> Iterator[None]:
    """Nobody else changes the file meanwhile: whoever does is waited for. Raises ConfigError after so many seconds."""
    taken = f"another process has been changing {path} for {seconds:.0f} s; let it end, and try again"
    ends = time.monotonic() + seconds
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(_locked(path.with_name(path.name + LOCK), taken))
                break
            except ConfigError:
                if time.monotonic() > ends:
                    raise
                time.sleep(0.02)
        yield


@contextlib.contextmanager
def _locked(path: Path, taken: str) -> Iterator[None]:
    """The lock of that name, held meanwhile. Raises ConfigError with the sentence where another holds it."""
    with path.open("a") as file:
        try:
            _take(file.fileno())
            if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise FileNotFoundError  # whoever had it took it away between our opening and our locking
        except OSError as e:
            if e.errno in TAKEN or isinstance(e, FileNotFoundError):
                raise ConfigError(taken) from None
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # where an open file cannot be removed it stays, and does no harm
                path.unlink()
