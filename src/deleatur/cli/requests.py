"""`deleatur request` and `deleatur review`: actions parsed, and what they found as tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from rich.table import Column, Table

from deleatur.cli.console import OUT, watch
from deleatur.cli.parsing import parse, parse_known
from deleatur.commands.request_options import (
    LEDGER,
    REQUEST_USAGE,
    RequestAdd,
    RequestList,
    RequestRun,
    RequestVerify,
    RequestWithdraw,
    Review,
)
from deleatur.config.run_config import Run, nearest
from deleatur.data.messages import printable
from deleatur.errors import ConfigError
from deleatur.report.tables import percent
from deleatur.run_folder.file_types import Measured, Request
from deleatur.run_folder.ledger import place_of, read_ledger, short

if TYPE_CHECKING:  # which import torch
    from deleatur.commands.exported import ExportedFile
    from deleatur.commands.recheck import Checked

LEFT = {
    "open": " It stays open; the next run begins where this one did, with other options if you give them "
    "(such as --train.epochs or --train.lr).",
    "withdrawn": " It was withdrawn in the meantime, and is not checked any more.",
}
SET_BY_LEDGER = ("--forget", "--retain", "--holdout", "--held", "--suite", "--out")
MakeRun = Callable[[list[str]], Run]


def request(args: list[str], make_run: MakeRun) -> None:
    """Carry out an action on the ledger; `make_run` makes a run of the options of `deleatur forget`."""
    actions: dict[str, Callable[[list[str]], None]] = {
        "add": _add,
        "list": _list,
        "run": lambda rest: _run(rest, make_run),
        "verify": _verify,
        "withdraw": _withdraw,
    }
    if not args or args[0] in ("-h", "--help"):
        print(REQUEST_USAGE)
        return
    if args[0] not in actions:
        raise ConfigError(f"no action {args[0]!r}{nearest(args[0], list(actions))}; there are {', '.join(actions)}")
    actions[args[0]](args[1:])


def _add(args: list[str]) -> None:
    command = parse(RequestAdd, args, verb="request add")
    from deleatur.commands.requests import add

    added = add(command)
    where = "" if command.ledger == LEDGER else f" --ledger {quote(command.ledger)}"
    then = f"Next: deleatur request {'run' if added['state'] == 'open' else 'verify'}{where}"
    print(f"Request {short(added)}, {added['count']} rows, {added['state']}. {then}")


def _withdraw(args: list[str]) -> None:
    command = parse(RequestWithdraw, args, verb="request withdraw")
    from deleatur.commands.requests import withdraw

    taken = withdraw(command)
    stays = "; what a run has forgotten stays forgotten, and is not checked any more" if taken["finished"] else ""
    print(f"Request {short(taken)} is withdrawn{stays}.")


def _list(args: list[str]) -> None:
    command = parse(RequestList, args, verb="request list")
    ledger = Path(command.ledger)
    requests = read_ledger(ledger)
    if not ledger.exists():
        raise ConfigError(f"there is no ledger at {ledger}; create one with: deleatur request add --forget ROWS")
    if command.json:
        print(json.dumps(requests, indent=2, ensure_ascii=False))
        return
    table = Table(
        *(Column(name, no_wrap=name == "request") for name in ("request", "state", "rows", "due", "done", "verdict"))
    )
    for r in requests:
        done = (r["finished"] or "–")[:10]
        table.add_row(short(r), r["state"], str(r["count"]), r["due"] or "–", done, printable(r["verdict"] or "–"))
    OUT.print(table)


def _run(args: list[str], make_run: MakeRun) -> None:
    command, more = parse_known(RequestRun, args, verb="request run")
    names = [a.split("=")[0] for a in more]
    if given := [n for n in names if n in SET_BY_LEDGER or n.startswith("--data.")]:
        raise ConfigError(f"{given[0]} is set by the ledger; give it to deleatur request add")
    from deleatur.commands.request_folders import RunInputs
    from deleatur.commands.requests import run_requests

    def run_of(inputs: RunInputs) -> Run:
        """The run of a request from its inputs and the options given."""
        from dataclasses import replace

        places = {"forget": inputs.forget, "retain": inputs.retain, "holdout": inputs.holdout, "held": inputs.held}
        options = [part for name, path in places.items() if path is not None for part in (f"--{name}", path)]
        run = make_run(["--model", inputs.model, *options, "--out", inputs.out, *more])
        return replace(run, data=inputs.data) if inputs.data != type(inputs.data)() else run

    with watch() as progress:
        attempts, exported, failed = run_requests(command, run_of, progress)
    for attempt in attempts:
        print_checks(attempt.checked)
        left = LEFT.get(attempt.request["state"], "")
        OUT.print(f"Request {short(attempt.request)}: {attempt.request['verdict']}.{left}", style="bold", soft_wrap=True)
        OUT.print(f"Run: {place_of(Path(command.ledger), attempt.request['run'] or '')}", soft_wrap=True)
    print_exported(exported)
    if failed is not None:
        raise failed
    raise SystemExit(int(any(a.request["state"] == "open" for a in attempts)))


def _verify(args: list[str]) -> None:
    command = parse(RequestVerify, args, verb="request verify")
    from deleatur.commands.requests import verify

    with watch() as progress:
        found = verify(command, progress)
    if command.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print_checks(found["requests"])
        more = f"; open and not checked: {found['unchecked']}" if found["unchecked"] else ""
        OUT.print(f"{found['model']} {_finding(found['requests'])}{more}.", style="bold", soft_wrap=True)
        print_exported(found["exported"])
    raise SystemExit(found["exit"])


def _finding(checked: Sequence[Checked]) -> str:
    """How many requests a model knows, and which."""
    if known := [short(c["request"]) for c in checked if c["known"]]:
        return f"knows the rows of {len(known)} of {len(checked)} requests: {', '.join(known)}"
    done = "the request that is" if len(checked) == 1 else f"any of the {len(checked)} requests that are"
    return f"does not know the rows of {done} done"


def print_exported(files: Sequence[ExportedFile]) -> None:
    """A line for each exported file, and what to do about one that knows what was forgotten since."""
    for file in files:
        if file["unchecked"] is not None:
            OUT.print(f"Exported: {file['model']} was not checked: {file['unchecked']}.", soft_wrap=True)
            continue
        known = any(c["known"] for c in file["requests"])
        then = "; export the newest run, and replace this file wherever it is used" if known else ""
        OUT.print(f"Exported: {file['model']} {_finding(file['requests'])}{then}.", soft_wrap=True)


def print_checks(checked: Sequence[Any]) -> None:
    """What a model knows of each request's rows: before its run, as that left it, and now."""
    table = Table("request", "figure", "before", "left", "now", "known")
    for check in checked:
        line: Request = check["request"]
        sides: list[Measured | None] = [line["before"], line["left"], check["now"]]
        for name in ("revealed", "paraphrased", "nll"):
            cells = [_cell(name, side) for side in sides]
            first = (short(line), "yes" if check["known"] else "no") if name == "revealed" else ("", "")
            table.add_row(first[0], "NLL, nats" if name == "nll" else name, *cells, first[1])
    OUT.print(table)


def _cell(name: str, side: Measured | None) -> str:
    value = None if side is None else side.get(name)
    return "–" if value is None else f"{value:.2f}" if name == "nll" else percent(value)


def review(args: list[str]) -> None:
    """Serve the page on which words are marked, until it is ended."""
    command = parse(Review, args, verb="review")
    from deleatur.commands.review import marking_of, serve

    with watch() as progress:
        marking = marking_of(command, progress)

    def begun(address: str) -> None:
        """Print where the page is."""
        print(f"Open this address in a browser on this machine; Ctrl-C ends it:\n{address}", flush=True)

    before = marking.out.stat() if marking.out.exists() else None
    serve(marking, command.port, begun)
    saved = marking.out.exists() and marking.out.stat() != before
    print(f"The marks are in {marking.out}." if saved else "Nothing was saved.")
