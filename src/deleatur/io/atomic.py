"""Files and folders that are written atomically: next to their place, flushed to the disk, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError

from deleatur.errors import ConfigError


def write_atomic(path: Path, text: str | Iterable[str], *, errors: str = "strict") -> None:
    """Write a text file, or lines with their ends, atomically; `errors` as in `str.encode`."""
    with atomic_file(path) as part, part.open("w", encoding="utf-8", errors=errors) as f:
        f.writelines([text] if isinstance(text, str) else text)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Where to write a file, which is moved to `path` at the end; until then the old one stays."""
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        flush(part)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_folder(folder: Path, *, aside: Path | None = None) -> Iterator[Path]:
    """A new folder to write into, `aside` or one next to `folder`, which it replaces at the end.

    Raises ConfigError where it cannot be written.
    """
    part = aside or folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        flush_all(part)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except BaseException as e:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(e, OSError | SafetensorError):
            raise ConfigError(f"{folder} cannot be written ({e}); free some space or give another folder") from e
        raise
    flush(folder.parent)


def flush_all(folder: Path) -> None:
    """A folder and all that is in it."""
    for path in (*folder.rglob("*"), folder):
        flush(path)


def flush(path: Path) -> None:
    """To the disk itself, a folder's entries too where the system knows how."""
    with contextlib.suppress(PermissionError):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
