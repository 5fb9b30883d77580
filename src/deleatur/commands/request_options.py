"""What the verbs about deletion requests take: `request` and `review`. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from deleatur.settings import Data, Evaluation, is_day, require

LEDGER = "requests.jsonl"

REQUEST_USAGE = """usage: deleatur request ACTION [OPTIONS]        (deleatur request ACTION --help lists its options)

A ledger of deletion requests: rows by hash and path, dates, run, verdict; no text of a row, and not who asked.

  add        add a request: rows to forget, rows to keep, the day until which it is due
  list       show the requests
  run        forget the next open request in the model that the last one left, and check all earlier ones again
  verify     check a model, of any kind, or all exported ones against every request that is done
  withdraw   take a request back

The ledger is requests.jsonl, or what --ledger names; its runs lie in the folder beside it, here requests/.
exits 0 when done, 1 when rows of a request are known (again), 2 when an input is invalid or an exported file cannot be
checked; run exits as forget does
"""


@dataclass(frozen=True, kw_only=True)
class RequestAdd:
    """Add a request to the ledger; the rows stay where they are, and the ledger has their hash and path."""

    forget: str
    """Rows to forget: a file, or a folder of files."""
    retain: str | None = None
    """Rows to keep."""
    holdout: str | None = None
    """Unseen rows."""
    due: str | None = None
    """Day until which the request is to be done, as YYYY-MM-DD."""
    ledger: str = LEDGER
    """File of the requests; made where it is not there."""
    data: Data = field(default_factory=Data)
    """How rows become examples."""

    def __post_init__(self) -> None:
        require(self.due is None or is_day(self.due), "due", self.due, "a day as YYYY-MM-DD")


@dataclass(frozen=True, kw_only=True)
class RequestList:
    """Show the requests: state, rows, dates, run and verdict."""

    ledger: str = LEDGER
    """File of the requests."""
    json: bool = False
    """Print the requests as JSON, and nothing else, on stdout."""


@dataclass(frozen=True, kw_only=True)
class RequestRun:
    """Forget the open request that is due first, in the model of the last one. What earlier requests left is held, and they
    are checked again afterwards. An interrupted run is resumed. Every option of `deleatur forget` can be given but those for
    rows and for the folder."""

    request: str | None = None
    """Beginning of the hash of the request to run (default: the one that is due first)."""
    ledger: str = LEDGER
    """File of the requests."""
    model: str | None = None
    """The model to begin with; needed while no request is done, since later requests start from the last one's model."""
    all: bool = False
    """Repeat until no request is open, or one was not forgotten."""


@dataclass(frozen=True, kw_only=True)
class RequestVerify:
    """Check a model against every request that is done: is what was forgotten known again? Exits 1 where it is."""

    model: Annotated[str | None, tyro.conf.Positional] = None
    """Folder of a run or model (also of an adapter), name on the hub, or .gguf file (default: the last request's
    model, and every model exported so far)."""
    ledger: str = LEDGER
    """File of the requests."""
    evaluation: Evaluation = field(default_factory=Evaluation)
    """How the model is evaluated."""
    json: bool = False
    """Print the figures as JSON, and nothing else, on stdout."""


@dataclass(frozen=True, kw_only=True)
class RequestWithdraw:
    """Take a request back: it is not run, and not checked any more. What a run has forgotten stays forgotten."""

    request: Annotated[str, tyro.conf.Positional]
    """Beginning of the request's hash."""
    ledger: str = LEDGER
    """File of the requests."""


@dataclass(frozen=True, kw_only=True)
class Review:
    """Mark which words of forget rows must go, or must stay, on a page in your browser that only this machine can open. The
    marks are saved as `spans` into a new file of rows, which the next run takes."""

    source: Annotated[str, tyro.conf.Positional]
    """Folder of a run, whose importance shades the words, or a file of rows."""
    importance: str | None = None
    """Importance of the rows, as `deleatur score RUN --rows FILE` writes it (default: the run's)."""
    model: str | None = None
    """Model that is to forget a file of rows and of which there is no run: the words are shaded by the importance that
    `deleatur forget` would begin with. Name on the hub, folder, or .gguf file."""
    retain: str | None = None
    """Rows to keep, for --model (default: made from the model, as `deleatur forget` does)."""
    out: str | None = None
    """New file of rows with the marks (default: NAME-reviewed.jsonl in the current folder)."""
    replace: bool = False
    """Replace --out where it exists, even if it is the file of rows itself."""
    port: int = 0
    """Port of the page; 0 takes a free one."""
    data: Data = field(default_factory=Data)
    """How a file of rows is read."""

    def __post_init__(self) -> None:
        require(0 <= self.port < 65536, "port", self.port, "0 to 65535")
        require(self.model is None or self.importance is None, "model", self.model, "left out where --importance is given")
        require(self.retain is None or self.model is not None, "retain", self.retain, "left out, or given with --model")
