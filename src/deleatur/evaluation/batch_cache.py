"""Finished batches of an evaluation, kept as they come: after a kill they are not computed again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from deleatur.distributed.processes import gather, index

T = TypeVar("T")


class BatchCache:
    """A line for each finished batch, in their order; nothing is kept without a `path`.

    A line stands under the hash of `terms` (which model, how) and of what its batch holds, so that no line is used for
    another; its text is what the model made of it. With several processes each has a file of its own, and a batch is
    finished where it is so in all of them, since sharded weights come together only where all processes call for them.
    """

    def __init__(self, path: Path | None = None, terms: object = ()) -> None:
        self._path, self._terms = path and path.with_suffix(f".{index()}.part.jsonl"), repr(terms)
        self._kept = _complete_lines(self._path) if self._path else iter(())
        self._going_on, self._size = self._path is not None, 0  # bytes of the lines that were used

    def get_or_make(self, what: str, batch: object, make: Callable[[], T]) -> tuple[T | Any, bool]:
        """What `make` gives, and whether it was made just now; else it was read: lists for tuples, floats to the bit."""
        if self._path is None:
            return make(), True
        key = hashlib.sha256("\0".join((self._terms, what, repr(batch))).encode("utf-8", "surrogatepass")).hexdigest()
        if self._going_on:
            line = next(self._kept, b"{}")
            found = json.loads(line)
            self._going_on = all(gather(found.get("sha256") == key))
            if self._going_on:
                self._size += len(line)
                return found["made"], False
        made = make()
        self._add({"sha256": key, "made": made})
        return made, True

    def _add(self, line: dict[str, Any]) -> None:
        """Append after the lines that were used; anything else there is cut off. A folder elsewhere gets nothing."""
        assert self._path is not None
        if not self._path.parent.exists():
            if not self._path.parent.parent.exists():
                return
            self._path.parent.mkdir(exist_ok=True)
        if self._path.exists() and self._path.stat().st_size != self._size:
            os.truncate(self._path, self._size)
        with self._path.open("ab") as file:
            self._size += file.write(json.dumps(line).encode() + b"\n")


def clear(path: Path) -> None:
    """Remove what the caches of `path`, by whatever number of processes, have kept."""
    for part in path.parent.glob(f"{path.stem}.*.part.jsonl"):
        part.unlink(missing_ok=True)


def _complete_lines(path: Path) -> Iterator[bytes]:
    """The lines down to one that was torn."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                held = json.loads(line)
            except (ValueError, RecursionError):
                return
            if not line.endswith(b"\n") or not isinstance(held, dict):
                return
            yield line
