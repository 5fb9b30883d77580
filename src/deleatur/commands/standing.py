"""Whether a ledger of deletion requests allows a model to be exported, and what the model's card says of each request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from deleatur.auditing.controls import digest_of, weights_of
from deleatur.commands.exported import enter_export, files_of
from deleatur.commands.options import Export
from deleatur.commands.recheck import Checked, recheck, rows_of
from deleatur.commands.request_folders import CHECKS
from deleatur.config.run_config import from_yaml
from deleatur.errors import ConfigError, DataError
from deleatur.progress import Progress
from deleatur.report.tables import percent
from deleatur.run_folder.file_types import AuditInputs, AuditVerdict, Request
from deleatur.run_folder.ledger import ledger_of, place_of, read_ledger, short
from deleatur.run_folder.schema import read_audit, read_json
from deleatur.settings import Evaluation

GOOD = ("CLEAR", "INCONCLUSIVE")  # verdicts of an audit with which a model can be exported


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """The requests that are not withdrawn, the verdicts of their audits by hash, and the reasons against exporting."""

    ledger: Path | None = None
    requests: tuple[Request, ...] = ()
    audits: Mapping[str, str] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    evaluation: Evaluation = field(default_factory=Evaluation)
    warn: bool = False

    def require(self, lacks: Sequence[str], progress: Progress) -> None:
        """Refuse, or warn, where something is lacking. Raises ConfigError."""
        if lacks and not self.warn:
            more = f" (and {len(lacks) - 1} more)" if len(lacks) > 1 else ""
            raise ConfigError(f"{lacks[0]}{more}; fix that, or give --warn to export the model anyway")
        for line in lacks:
            progress.phase(f"Warning: {line}")

    def check(self, folder: Path, progress: Progress) -> list[str]:
        """Ask every written form of the model itself about every request that is done; returns the card's lines.

        Raises ConfigError where one knows rows of a request.
        """
        done = [r for r in self.requests if r["state"] == "done"]
        if self.ledger is None or not done:
            return self._warnings(self.lacks)
        found = {name: self._ask(name, model, done, self.ledger, progress) for name, model in files_of(folder).items()}
        known = [
            f"{name} knows the rows of request {short(c['request'])}"
            for name, part in found.items()
            for c in part
            if c["known"]
        ]
        self.require(known, progress)
        lines = [self._line(r, {name: part[number] for name, part in found.items()}) for number, r in enumerate(done)]
        return [*lines, *self._warnings([*self.lacks, *known])]

    def enter(self, run: Path, folder: Path) -> None:
        """Have the ledger remember the exported folder, so that later requests are checked in it too."""
        if self.ledger is not None:
            enter_export(self.ledger, run, folder)

    def _ask(self, name: str, model: Path, done: Sequence[Request], ledger: Path, progress: Progress) -> list[Checked]:
        progress.phase(f"Checking {len(done)} requests in {name}")
        return recheck(str(model), done, ledger, self.evaluation, progress)[0]

    def _line(self, request: Request, checks: Mapping[str, Checked]) -> str:
        before = (request["before"] or {}).get("revealed")
        now = ", ".join(f"{percent(check['now']['revealed'])} in {name}" for name, check in checks.items())
        audit = self.audits.get(request["sha256"], "none")
        return (
            f"`{request['sha256']}` ({request['count']} rows), {(request['finished'] or '')[:10]}: {request['verdict']}. "
            f"Audit: {audit}. Of its rows the answers revealed {percent(before)} before, and reveal {now}."
        )

    def _warnings(self, lacks: Sequence[str]) -> list[str]:
        return [f"Exported although {line.partition(' (deleatur ')[0]}." for line in lacks]  # no path of this machine


def standing_of(command: Export, run: Path) -> Standing:
    """What the ledger of a run says, by the options; nothing where there is no ledger."""
    ledger = Path(command.ledger) if command.ledger is not None else ledger_of(run)
    if ledger is None:
        lost = (f"{run} is the run of a request, but no ledger is beside it (--ledger names one)",)
        return Standing(lacks=lost if (run / CHECKS).is_file() else (), warn=command.warn)
    if not ledger.exists():
        raise ConfigError(f"there is no ledger at {ledger}; leave --ledger out, or give the file of the requests")
    requests = tuple(r for r in read_ledger(ledger) if r["state"] != "withdrawn")
    audits = {r["sha256"]: v for r in requests if r["state"] == "done" and (v := audit_of(r, ledger, run, command.audits))}
    own = ledger_of(run)
    other = own is not None and own.resolve() != ledger.resolve() and (run / CHECKS).is_file()
    lacks = (*([f"{run} is the run of a request in another ledger"] if other else []), *lacking(requests, audits, ledger))
    settings = from_yaml(run / "run.yaml").evaluation
    return Standing(ledger=ledger, requests=requests, audits=audits, lacks=lacks, evaluation=settings, warn=command.warn)


def lacking(requests: Sequence[Request], audits: Mapping[str, str], ledger: Path) -> Iterator[str]:
    """The reasons against exporting, a sentence each."""
    for request in requests:
        name, found = short(request), audits.get(request["sha256"])
        if request["state"] == "open":
            yield f"request {name} is open"
        elif found is None:
            run = place_of(ledger, request["run"] or "")
            yield f"request {name} has no audit (deleatur audit {quote(str(run))} --out {quote(str(run / 'audit'))})"
        elif found not in GOOD:
            yield f"the audit of request {name} is {found}"


def audit_of(request: Request, ledger: Path, run: Path, more: Sequence[str]) -> str | None:
    """The verdict of the audit of a request's rows on its own run's model or of the exported one; the worst of several.

    An audit of other weights is not counted, such as of a run whose folder was deleted and made again.
    """
    home = place_of(ledger, request["run"] or "")
    models: dict[tuple[str, ...], str | None] = {
        (place.resolve().name, "model"): weights_of(str(place / "model")) for place in (home, run)
    }
    sha = digest_of(rows_of(request, ledger))
    found = []
    for folder in (home / "audit", Path("runs") / f"audit-{home.name}", *map(Path, more)):
        try:
            inputs = read_json(folder / "inputs.json", AuditInputs)
            report = read_audit(folder / "audit.json", AuditVerdict)
        except DataError:  # none, or not finished
            continue
        audited, weights = Path(inputs["audited"]).parts[-2:], inputs.get("audited_weights")
        if inputs["forget"] == sha and audited in models and models[audited] in (None, weights or models[audited]):
            found.append(report["verdict"])
    return min(found, key=lambda verdict: (verdict != "LEAK", verdict in GOOD), default=None)
