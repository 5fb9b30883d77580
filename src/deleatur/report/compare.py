"""Finished runs compared: which of them are seeds of one method, and where their settings differ."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from deleatur.errors import ConfigError
from deleatur.report.words import flat, one_line, plain
from deleatur.run_folder.file_types import AuditSummary, RunResults, StepLine
from deleatur.run_folder.schema import read_audit, read_results, read_steps

NO_METHOD = ("seed", "out", "keep.every", "keep.newest")  # settings that a method's runs may differ in
TRAIN = ("lr", "alpha", "gamma", "retain", "bound", "dual_step", "only")
METHOD = ("loss.", "importance.", *(f"train.{name}" for name in TRAIN))  # what methods may differ in, and be on equal terms
SOURCES = ("forget", "retain", "holdout")  # files of any name; their contents are compared
MAX_NAMED = 3  # methods named in a sentence, before they are counted
SUITE = {"forget_sets": ["forget"], "retain_sets": ["retain"], "score": "revealed"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedMethod:
    """One method's runs: what each `results.json` says, in the order of seeds, where it is, and the first run's steps."""

    label: str
    results: tuple[RunResults, ...]
    places: tuple[str, ...] = ()
    steps: Sequence[StepLine] = field(default=())

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each run."""
        return tuple(map(seed_of, self.results))

    @property
    def peer(self) -> str | None:
        """The tool whose results file it was read from; None for a run of deleatur."""
        return self.results[0].get("peer")

    @property
    def layout(self) -> str:
        """Whose token ids it was evaluated on: "own", or as `data.layout` says."""
        return layout_of(self.results[0])

    @property
    def pair(self) -> str:
        """The method as forget loss × importance."""
        if self.peer:
            return f"by {self.peer}"
        if self.results[0].get("evaluation"):
            return "not trained"
        run = self.results[0]["run"]
        return f"{run['loss']['name']} × {run['importance']['name']}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """One finished run."""

    place: Path
    results: RunResults

    @property
    def name(self) -> str:
        """The method's name in the results, or the folder's; of `<method>/seed-0` the first part."""
        home = self.place.resolve()
        home = home.parent if home.name == "results.json" else home.with_name(home.name.removesuffix(".json"))
        return self.results.get("method") or (home.parent.name if home.name.startswith("seed-") else home.name)

    @property
    def same(self) -> str:
        """All that makes it another method than others, as one text."""
        if "peer" in self.results:
            return str(self.place)
        settings = {k: plain(v) for k, v in flat(self.results["run"]).items() if k not in NO_METHOD}
        return json.dumps([self.results.get("method"), settings], sort_keys=True)


Read = Callable[[Path], RunResults]


def gather(places: Sequence[Path], read: Read = read_results) -> list[ComparedMethod]:
    """The runs of these folders or result files; those that differ in nothing but seed and folder are one method's.

    `read` may know files of other forms, and says in "peer" whose they are. Methods come in the order given. One of a name
    that others have too goes by its whole path. Raises ConfigError where there is no finished run, or the same one twice,
    DataError where a file is broken.
    """
    if not places:
        raise ConfigError("there is no finished run to show; give the folders of runs")
    found: dict[str, list[Finished]] = {}
    for place in places:
        run = Finished(place=place, results=_results(place, read))
        found.setdefault(run.same, []).append(run)
    names = [runs[0].name for runs in found.values()]
    return [
        _shown(name if names.count(name) == 1 else str(runs[0].place), sorted(runs, key=lambda run: seed_of(run.results)))
        for name, runs in zip(names, found.values(), strict=True)
    ]


def seed_of(results: RunResults) -> int:
    """The seed of a run."""
    return results.get("seed", results["run"].get("seed", 0))


def suite_of(results: RunResults) -> dict[str, Any]:
    """Which sets should go and which stay, and the metric that FQ and RD read on them."""
    return SUITE | (results.get("suite") or {})


def unequal(runs: Sequence[ComparedMethod]) -> Iterator[str]:
    """A sentence for all in which the methods were not on equal terms: model, rows, evaluation, duration."""
    terms = {run.label: [_terms(r) for r in run.results] for run in runs if not run.peer}
    for name in dict.fromkeys(name for each in terms.values() for term in each for name in term):
        values: dict[str, list[str]] = {}
        for label, each in terms.items():
            value = " and ".join(dict.fromkeys(term[name] for term in each if name in term))
            if value:  # a setting that an older run did not have is not another one
                values.setdefault(value, []).append(label)
        if len(values) > 1:
            commonest = sorted(values.items(), key=lambda item: -len(item[1]))
            yield f"Not on equal terms: {name} is {'; '.join(f'{v} for {_named(labels)}' for v, labels in commonest)}."
    yield from _other_ids(runs)


def _other_ids(runs: Sequence[ComparedMethod]) -> Iterator[str]:
    """Where a file of OpenUnlearning is compared with runs that have other token ids."""
    ours = [run.label for run in runs if not run.peer and run.layout != "open-unlearning"]
    if ours and any(run.peer == "OpenUnlearning" for run in runs):
        yield (
            f"Not on equal terms: the token ids of {_named(ours)} are not OpenUnlearning's; evaluate with --data.layout "
            "open-unlearning, and with --data.system-prompt where its configuration has one."
        )


def layout_of(results: RunResults) -> str:
    """Whose token ids a run was evaluated on: "own", or as `data.layout` says."""
    data = (results.get("run") or {}).get("data")
    return str(data.get("layout", "own")) if isinstance(data, dict) else "own"


def layout_note(form: str, run: Path) -> str | None:
    """A sentence where a file in OpenUnlearning's form is of a run with other token ids; None for other forms."""
    if form != "open-unlearning" or layout_of(read_results(run / "results.json")) == form:
        return None
    return (
        "the token ids of this run are not OpenUnlearning's, so its figures are not comparable with theirs; evaluate with "
        "--data.layout open-unlearning, and with --data.system-prompt where its configuration has one"
    )


def _results(place: Path, read: Read) -> RunResults:
    path = place if place.suffix == ".json" else place / "results.json"
    if not path.is_file():
        raise ConfigError(f"{place} has no finished run: there is no {path}; leave it out, or let the run end")
    results, audit = read(path), path.parent / "audit" / "audit.json"
    results.pop("audit", None)
    if audit.is_file():
        results["audit"] = read_audit(audit, AuditSummary)
    return results


def _shown(label: str, runs: list[Finished]) -> ComparedMethod:
    for one, other in pairwise(runs):
        if seed_of(one.results) == seed_of(other.results):
            raise ConfigError(
                f"{one.place} and {other.place} are the same method with seed {seed_of(one.results)} and would count twice; "
                "leave one out"
            )
    first = runs[0].place
    return ComparedMethod(
        label=one_line(label.encode("utf-8", errors="replace").decode()),
        results=tuple(run.results for run in runs),
        places=tuple(str(run.place) for run in runs),
        steps=read_steps(first) if (first / "steps.jsonl").is_file() else (),
    )


def _terms(results: RunResults) -> dict[str, str]:
    trained = not results.get("evaluation")
    settings = {k: plain(v) for k, v in flat(results["run"]).items() if k not in (*NO_METHOD, *SOURCES)}
    sets = dict.fromkeys(SOURCES) | results["data"]
    data = {f"{name} rows": str((source or {}).get("sha256", "none"))[:12] for name, source in sets.items()}
    suite = {f"suite.{k}": plain(v) for k, v in suite_of(results).items()}
    if not trained:  # another model is what it is compared for
        return {k: v for k, v in settings.items() if k not in ("model", "evaluation.start")} | data | suite
    more = {"model": results["model"]["name"], "steps": plain(results["cost"].get("steps"))}
    more |= {"FQ and RD": "of coherent answers, and drift" if "fq_raw" in results else "by their former definitions"}
    return {k: v for k, v in settings.items() if not k.startswith(METHOD)} | data | suite | more


def _named(labels: list[str]) -> str:
    return ", ".join(labels) if len(labels) <= MAX_NAMED else f"{len(labels)} methods"
