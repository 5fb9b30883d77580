"""One process at a time in a folder. The system lets go of the lock of whoever is killed, so that none is left behind."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
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
    path = folder / LOCK
    with path.open("a") as file:
        try:
            _take(file.fileno())
            if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise FileNotFoundError  # whoever had it took it away between our opening and our locking
        except OSError as e:
            if e.errno in TAKEN or isinstance(e, FileNotFoundError):
                raise ConfigError(f"another run is at work in {folder}; let it end, or take another folder") from None
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # where an open file cannot be removed it stays, and does no harm
                path.unlink()
