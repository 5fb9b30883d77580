"""The ledger of deletion requests: one file, a line a request, without the rows' text. Importing this imports no torch."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from deleatur.errors import ConfigError, DataError
from deleatur.io.lock import LOCK, wait_lock
from deleatur.run_folder.file_types import Measured, Request
from deleatur.run_folder.schema import read_lines, write_lines

T = TypeVar("T")
WAIT = 30.0  # seconds for another process to finish its change
SHORT = 12  # characters of a hash that name a request
KNOWN = 0.05  # score up to which a model knows nothing of the rows: one row of twenty, as chance hits do
GONE = 0.1  # share of the score before that may be left of what counts as forgotten; a tenth: the paper's best FQ is 91.7
MARGIN = 0.05  # score above what the request's own run left, within which nothing came back
CLEAR = 0.5  # rise of the NLL by a run, in nats, below which its fall says nothing


def short(request: Request) -> str:
    """The request's name: the beginning of its hash."""
    return request["sha256"][:SHORT]


def home_of(ledger: Path) -> Path:
    """The folder of the ledger's runs. Raises ConfigError where the ledger is no file of JSON Lines."""
    if ledger.suffix != ".jsonl":
        raise ConfigError(f"the ledger is {ledger}, but must be a file that ends in .jsonl")
    return (ledger.resolve() if ledger.is_symlink() else ledger).with_suffix("")


def ledger_of(run: Path) -> Path | None:
    """The ledger next to a run's folder, or next to the folder that the run is in; None where there is none."""
    parent = run.resolve().parent
    found = (parent.with_name(f"{parent.name}.jsonl"), parent / "requests.jsonl")
    return next((path for path in found if path.is_file() and not _is_rows(path)), None)


def _is_rows(path: Path) -> bool:
    """Is the file of JSON Lines something else than a ledger, such as rows?"""
    with contextlib.suppress(ValueError, StopIteration), path.open(encoding="utf-8") as lines:
        first = json.loads(next(lines))
        return isinstance(first, dict) and not {"sha256", "state"} & first.keys()
    return False


def read_ledger(ledger: Path) -> list[Request]:
    """Every request, in the order of their coming; none where there is no file. Raises DataError where a line is broken or
    there twice."""
    home_of(ledger)
    if not ledger.exists():
        return []
    try:
        requests = list(read_lines(ledger, Request, str(ledger)))
    except DataError as e:
        seen = str(e).partition("; ")[0]
        raise DataError(f"{seen}; deleatur never leaves a ledger so: correct or remove that line, or restore a copy") from e
    for number, request in enumerate(requests, start=1):
        if any(r["sha256"] == request["sha256"] for r in requests[: number - 1]):
            raise DataError(f"{ledger} has request {short(request)} twice, again in line {number}; remove one of the two")
        if request["state"] == "done" and not (request["run"] and request["finished"]):
            seen = f"{ledger}, line {number}, calls request {short(request)} done, but not by which run and when"
            raise DataError(f"{seen}; fill in run and finished, or put its state back to open")
    return requests


def change_ledger(ledger: Path, change: Callable[[list[Request]], T]) -> T:
    """Change the requests in place under a lock, and write them atomically; returns what `change` does.

    A process that is killed leaves the ledger as it was before or as it is after.
    """
    home_of(ledger)
    if not ledger.parent.is_dir():
        raise ConfigError(f"{ledger.parent} is not a folder; give --ledger a file in one that is there")
    ledger = ledger.resolve()  # a link to the file stays one
    with wait_lock(ledger.with_name(ledger.name + LOCK), seconds=WAIT):
        requests = read_ledger(ledger)
        result = change(requests)
        write_lines(ledger, requests)
    return result


def find(requests: Sequence[Request], name: str, ledger: Path) -> Request:
    """The request whose hash begins so. Raises ConfigError where there is none, or more than one."""
    found = [r for r in requests if name and r["sha256"].startswith(name)]
    if len(found) == 1:
        return found[0]
    there = ", ".join(map(short, requests)) or "none"
    seen = f"{len(found)} requests in {ledger} begin" if found else f"no request in {ledger} begins"
    raise ConfigError(f"{seen} with {name[:64]!r}; give the hash of one of {there}")


def finished(requests: Sequence[Request]) -> list[Request]:
    """Requests that a run of this ledger forgot, withdrawn later or not, the last one last."""
    return sorted((r for r in requests if r["finished"]), key=lambda r: r["finished"] or "")


def place_in(ledger: Path, path: Path) -> str:
    """A path as the ledger has it."""
    path, home = path.resolve(), ledger.resolve().parent
    return str(path.relative_to(home)) if path.is_relative_to(home) else str(path)


def place_of(ledger: Path, path: str) -> Path:
    """The reverse of `place_in`, short where the ledger is below the current folder."""
    full = ledger.resolve().parent / path
    here = Path(os.path.relpath(full))
    return full if here.parts[:1] == ("..",) else here


def is_known(request: Request, now: Measured) -> bool:
    """Does a model know the request's rows?

    It does where its score is above all of: chance, a tenth of the score before the request's run, and what that run left;
    or where the NLL has fallen back by more than half of what the run had raised it.
    """
    before, left = request["before"], request["left"] or now
    was, rest, score = (0.0 if m is None else _score(m) for m in (before, left, now))
    if score > max(KNOWN, GONE * was, rest + MARGIN if request["left"] else 0.0):
        return True
    levels = [None if m is None else m["nll"] for m in (before, left, now)]
    if None in levels:
        return False
    first, low, nll = (level or 0.0 for level in levels)
    return low - first > CLEAR and nll < (first + low) / 2


def _score(measured: Measured) -> float:
    return max(measured["revealed"] or 0.0, measured["paraphrased"] or 0.0)


def check_rows(request: Request, ledger: Path, digest: Callable[[Path], str]) -> Path:
    """The request's rows, as they were when it came. Raises DataError where they are not there or were changed."""
    path, name = place_of(ledger, request["rows"]), short(request)
    if not path.exists():
        needed = "put them back, or withdraw the request (and add it from where they are)"
        raise DataError(f"the rows of request {name} are not at {path}; {needed}")
    if (now := digest(path)) != request["sha256"]:
        seen = f"the rows in {path} have changed since request {name} was added: their hash is now {now[:SHORT]}"
        raise DataError(f"{seen}; put the old ones back, or withdraw the request and add the new rows")
    return path
