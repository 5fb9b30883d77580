"""`deleatur request`: a ledger of deletion requests, each forgotten in the model that the last one left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deleatur.commands import request_folders as folders
from deleatur.commands.exported import ExportedFile, check_exported
from deleatur.commands.recheck import Checked, changed_data, data_of, has_rows, held_rows, measured_of, recheck, rows_of
from deleatur.commands.request_folders import CHECKS, RunInputs
from deleatur.commands.request_options import RequestAdd, RequestRun, RequestVerify, RequestWithdraw
from deleatur.commands.unlearn import execute
from deleatur.config.run_config import Run, from_yaml
from deleatur.data.rows import read_rows
from deleatur.errors import ConfigError, DataError, DeleaturError, Diverged, resume_hint
from deleatur.io.lock import folder_lock
from deleatur.progress import Progress
from deleatur.report.verdict import verdict
from deleatur.run_folder.file_types import Request
from deleatur.run_folder.ledger import change_ledger, find, finished, home_of, place_in, place_of, read_ledger, short
from deleatur.run_folder.schema import read_results, write_json, write_lines
from deleatur.run_folder.writer import digest_rows, read_records
from deleatur.settings import Evaluation
from deleatur.training.memory import release_memory

HELD = "held.jsonl"  # in a request's run: rows of all requests up to it, with the model's own answers


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """A request as its run left it, and what the run's model knows of it and of all earlier ones."""

    request: Request
    checked: tuple[Checked, ...]

    @property
    def again(self) -> list[Request]:
        """Earlier requests whose rows the model knows again."""
        return [c["request"] for c in self.checked[:-1] if c["known"]]


def add(command: RequestAdd) -> Request:
    """Add a request, or take one up again that was withdrawn. Raises DataError or ConfigError where rows cannot be used."""
    ledger = Path(command.ledger)
    rows = _required(command.forget)
    if rows.is_dir() and ledger.resolve().is_relative_to(rows.resolve()):
        raise ConfigError(f"{ledger} lies in {rows}, so that it would count as rows; give the rows a folder of their own")
    for other in filter(None, (command.retain, command.holdout)):
        read_rows(str(_required(other)), settings=command.data)
    examples = read_rows(str(rows), settings=command.data)
    sha = digest_rows(examples)
    given = {"retain": command.retain, "holdout": command.holdout}
    others = {n: None if p is None else place_in(ledger, Path(p)) for n, p in given.items()}
    new = Request(
        sha256=sha,
        rows=place_in(ledger, rows),
        count=len(examples),
        retain=others["retain"],
        holdout=others["holdout"],
        data=changed_data(command.data),
        added=datetime.now(UTC).date().isoformat(),
        due=command.due,
        state="open",
        run=None,
        verdict=None,
        finished=None,
        before=None,
        left=None,
    )

    def change(requests: list[Request]) -> Request:
        """Add the request, or open one again that was withdrawn."""
        same = next((r for r in requests if r["sha256"] == sha), None)
        if same is None:
            requests.append(new)
            return new
        if same["state"] != "withdrawn":
            moved = "; there is nothing to add (if the rows were moved, withdraw it first)"
            raise ConfigError(f"these rows are request {short(same)}, which is {same['state']}{moved}")
        given = ("rows", "data", "retain", "holdout", "due")
        again = {name: new[name] for name in given} | {"state": "done"}  # it is forgotten still
        same.update(again if same["finished"] else new)  # pyright: ignore[reportArgumentType, reportCallIssue]
        return same

    return change_ledger(ledger, change)


def _required(path: str) -> Path:
    if not Path(path).expanduser().exists():
        raise DataError(f"{path} is not there; a request's rows are a file or a folder on this machine")
    return Path(path).expanduser()


def withdraw(command: RequestWithdraw) -> Request:
    """Take a request back. Raises ConfigError for a hash that is unknown, and where it is withdrawn already."""
    ledger = _there(command.ledger)

    def change(requests: list[Request]) -> Request:
        """Mark the request as withdrawn."""
        request = find(requests, command.request, ledger)
        _not_withdrawn(request)
        request["state"] = "withdrawn"
        return request

    return change_ledger(ledger, change)


def _there(ledger: str) -> Path:
    if not Path(ledger).exists():
        raise ConfigError(f"there is no ledger at {ledger}; create one with: deleatur request add --forget ROWS")
    return Path(ledger)


def _not_withdrawn(request: Request) -> None:
    if request["state"] == "withdrawn":
        raise ConfigError(f"request {short(request)} is withdrawn; to take it up again: deleatur request add with its rows")


def verify(command: RequestVerify, progress: Progress = Progress()) -> dict[str, Any]:
    """What a model knows of every request that is done: `deleatur request verify` from Python. Nothing is written.

    Without a model it is the last run's, and every exported one beside it.

    Returns:
        `model`, `requests` (each with `request`, `now`, `known`), `exported` (the same for every exported file, or why it
        was not checked), `unchecked` (how many requests are open), and `exit`: 0, 1 where rows are
        known, 2 where an exported file is there that could not be checked.

    Raises:
        DataError, ConfigError, ModelError: Rows are not there or have changed, or the model cannot be used.
    """
    ledger = _there(command.ledger)
    requests = read_ledger(ledger)
    done = [r for r in requests if r["state"] == "done"]
    if not done:
        raise ConfigError(
            f"no request in {ledger} is done, so there is nothing to verify; deleatur request run does the next"
        )
    model = str(_last_run(requests, ledger) / "model") if command.model is None else command.model
    if not model:
        raise ConfigError("the model's name is empty; give a folder, a .gguf file or a name, or leave it out")
    if (Path(model) / "run.yaml").is_file():
        model = str(Path(model) / "model")
    checked, _ = recheck(model, done, ledger, command.evaluation, progress)
    exported = [] if command.model is not None else check_exported(ledger, command.evaluation, progress)
    known = any(c["known"] for part in (checked, *(e["requests"] for e in exported)) for c in part)
    return {
        "model": model,
        "requests": checked,
        "exported": exported,
        "unchecked": sum(r["state"] == "open" for r in requests),
        "exit": 1 if known else 2 if any(e["unchecked"] and Path(e["model"]).exists() for e in exported) else 0,
    }


def _last_run(requests: list[Request], ledger: Path) -> Path:
    return place_of(ledger, finished(requests)[-1]["run"] or "")


def run_requests(
    command: RequestRun, run_of: Callable[[RunInputs], Run], progress: Progress = Progress()
) -> tuple[list[Attempt], list[ExportedFile], DeleaturError | None]:
    """Forget the next open request, or all: each in the model that the last one left, earlier ones held and checked again.
    Where one was done, every model exported so far is checked for all requests; those are the second value. The third is
    what a request failed with after others were done.

    `run_of` makes a run of what the ledger says. A request is done where its rows are forgotten and no earlier one's are
    known again; else it stays open, and the next run begins where this one did. Raises ConfigError, DataError, ModelError
    where nothing can be begun, Diverged where training was rolled back.
    """
    ledger = _there(command.ledger)
    home = home_of(ledger)
    if home.exists() and not home.is_dir():
        raise ConfigError(f"{home} is a file, but must be the folder of the runs; move the file, or rename the ledger")
    home.mkdir(mode=0o700, exist_ok=True)
    attempts: list[Attempt] = []
    failed = None
    with resume_hint("the same command"), folder_lock(home):
        while not (attempts and command.request) and (request := _next(read_ledger(ledger), command, ledger)):
            try:
                attempts.append(_attempt(request, ledger, command.model, folders.in_full(run_of), progress))
            except DeleaturError as e:
                if not attempts:
                    raise
                failed = e
                break
            if not command.all or attempts[-1].request["state"] == "open":
                break
        if not attempts:
            checks = "deleatur request verify checks those that are done, in every exported file too"
            raise ConfigError(f"no request in {ledger} is open; add one with: deleatur request add --forget ROWS ({checks})")
        done = [a.request for a in attempts if a.request["state"] == "done"]
        settings = [from_yaml(place_of(ledger, r["run"] or "") / "run.yaml").evaluation for r in done[-1:]]
        return attempts, [file for found in settings for file in check_exported(ledger, found, progress)], failed


def _next(requests: list[Request], command: RequestRun, ledger: Path) -> Request | None:
    """The request to run: the one named, else of the open ones the one begun, else the one that is due first."""
    if command.request is not None:
        named = find(requests, command.request, ledger)
        _not_withdrawn(named)
        if named["state"] == "done":
            raise ConfigError(f"request {short(named)} is done; deleatur request verify checks it again")
        return named
    waiting = [r for r in requests if r["state"] == "open"]
    return min(waiting, key=lambda r: (not folders.is_begun(r), r["due"] or "9", r["added"]), default=None)


def _attempt(
    request: Request, ledger: Path, model: str | None, run_of: Callable[[RunInputs], Run], progress: Progress
) -> Attempt:
    requests = read_ledger(ledger)
    chain = finished(requests)
    begun = place_of(ledger, request["run"]) if folders.is_begun(request) and request["run"] else None
    folder = begun if begun is not None and folders.is_next(begun, chain) else folders.free_folder(home_of(ledger), request)
    try:
        if not folders.has_ended(folder):
            if (folder / "run.yaml").exists():
                folders.check_same(folder, run_of, None if chain else model)
                execute(replace(from_yaml(folder / "run.yaml"), out=str(folder)), progress, resume=True)
            else:
                run = run_of(_inputs(request, requests, ledger, model, folder))
                _enter(ledger, request, {"run": place_in(ledger, folder), "verdict": None})
                execute(run, progress)
    except Diverged:
        if (folder / "results.json").exists():
            _enter(ledger, request, {"verdict": verdict(read_results(folder / "results.json")).headline})
        raise
    return _close(request, chain, folder, ledger, progress)


def _inputs(request: Request, requests: list[Request], ledger: Path, model: str | None, folder: Path) -> RunInputs:
    """Where the run begins and what it reads. Raises ConfigError where there is no model, or two of them."""
    chain = finished(requests)
    last = _last_run(requests, ledger) if chain else None
    if last is None and model is None:
        raise ConfigError(f"no request in {ledger} is done, so there is no model to start from; give one as --model")
    if last is not None and model is not None and not _is_first(model, place_of(ledger, chain[0]["run"] or "")):
        raise ConfigError(f"{ledger} continues from the model in {last}; leave --model out")
    rows_of(request, ledger)
    places = {n: None if (p := request[n]) is None else str(place_of(ledger, p)) for n in ("rows", "retain", "holdout")}
    held = None if last is None or not has_rows(last / HELD) else str(last / HELD)
    return RunInputs(
        model=str(model) if last is None else str(last / "model"),
        forget=str(places["rows"]),
        retain=places["retain"],
        holdout=places["holdout"],
        held=held,
        out=str(folder),
        data=data_of(request),
    )


def _is_first(model: str, run: Path) -> bool:
    """Did the first run begin with this model? Then the same command is given again."""
    return (run / "run.yaml").is_file() and from_yaml(run / "run.yaml").model == model


def _enter(ledger: Path, request: Request, changes: dict[str, Any]) -> Request:
    """Change a line of the ledger; what other processes changed in it stays."""

    def change(requests: list[Request]) -> Request:
        """Apply the changes to the request's present line."""
        line = find(requests, request["sha256"], ledger)
        kept = {"state"} if line["state"] == "withdrawn" else set()  # by another process
        line.update({k: v for k, v in changes.items() if k not in kept})  # pyright: ignore[reportCallIssue, reportArgumentType]
        return line

    return change_ledger(ledger, change)


def _close(request: Request, chain: list[Request], folder: Path, ledger: Path, progress: Progress) -> Attempt:
    """Check the run's request and all earlier ones in its model, and enter what came of it."""
    settings: Evaluation = from_yaml(folder / "run.yaml").evaluation
    before = read_records(folder / "records" / "before.jsonl") or {}
    earlier = [r for r in chain if r["state"] == "done"]
    progress.phase(f"Checking {len(earlier) + 1} requests in the model of {folder}")
    release_memory()  # the run's model
    checked, found = recheck(str(folder / "model"), [*earlier, request], ledger, settings, progress)
    release_memory()  # the model checked
    rows = {c["request"]["sha256"]: rows_of(c["request"], ledger) for c in checked}
    write_lines(folder / HELD, held_rows(checked, found, rows))
    write_json(folder / CHECKS, checked)
    found_verdict = verdict(read_results(folder / "results.json"))
    headline = found_verdict.headline
    attempt = Attempt(request=request, checked=tuple(checked))
    changes: dict[str, Any] = {"verdict": headline, "before": measured_of(before), "left": checked[-1]["now"]}
    if again := attempt.again:
        changes["verdict"] = f"{headline}; known again: {', '.join(map(short, again))}"
    elif found_verdict.forgotten:
        changes |= {"state": "done", "finished": datetime.now(UTC).isoformat(timespec="milliseconds")}
    entered = _enter(ledger, request, changes)
    return Attempt(
        request=entered,
        checked=(*checked[:-1], Checked(request=entered, now=checked[-1]["now"], known=checked[-1]["known"])),
    )
