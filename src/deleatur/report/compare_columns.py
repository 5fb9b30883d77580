"""The columns of a comparison: what is read of a run's results, and which of it stands in the table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deleatur.evaluation.metrics import METRICS, SET_METRICS
from deleatur.report.compare import ComparedMethod, suite_of
from deleatur.report.compare_audit import ATTACKED, attacks_of
from deleatur.report.tables import metric_name, set_name
from deleatur.report.words import one_line
from deleatur.run_folder.file_types import RunResults

BETTER: dict[str, Literal["lower", "higher"]] = {"j_w": "lower", "j_avg": "higher", "model_utility": "higher"}
ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A figure of a run. `read` gives a number, or says why there is none; without `digits` three figures count."""

    name: str
    better: Literal["lower", "higher", ""] = ""
    digits: int | None = 1
    meaning: str
    read: Callable[[RunResults], float | str]

    @property
    def heading(self) -> str:
        """The column's name, with an arrow for the better direction."""
        return self.name + ARROWS[self.better]

    def of(self, results: RunResults) -> float | str:
        """The run's finite number, or why it has none."""
        value = self.read(results)
        if isinstance(value, str):
            return value
        return value if math.isfinite(value) else "no finite number"

    def text(self, value: float, se: float | None) -> str:
        """The mean, ± its standard error where there is one."""
        how = (".3g", ".2g") if self.digits is None else (f".{self.digits}f",) * 2
        error = "" if se is None or (se == 0 and self.digits == 0) else f" ± {se:{how[1]}}"
        return (f"{value + 0.0:{how[0]}}" + error).replace("-", "−")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """Mean over the seeds that have the figure, and its standard error; None where there are too few of them."""

    mean: float | None
    se: float | None
    n: int
    lacks: str = ""  # why not all seeds have it
    reported: bool = True  # else a peer's file has none, of which a note speaks once


Reader = Callable[[RunResults], float | str]


def score_of(part: str, side: str = "after", ending: str = "", metric: str | None = None) -> Reader:
    """Mean over a suite's "forget_sets" or "retain_sets" of what FQ and RD read, or of another metric, in percent."""

    def read(results: RunResults) -> float | str:
        """The mean in percent, or why there is none."""
        suite = suite_of(results)
        wanted = metric or suite["score"]
        found = [results[side].get(name + ending, {}).get(wanted, {}).get("value") for name in suite[part]]
        return 100 * statistics.fmean(found) if found and None not in found else "not evaluated"

    return read


def _given(*path: str, lacks: str = "not measured", share: float = 1.0) -> Reader:
    def read(results: RunResults) -> float | str:
        """The value at `path`, or what it lacks."""
        value: Any = results
        for key in path:
            value = (value or {}).get(key)
        return lacks if value is None else value * share

    return read


def _set_metric(name: str) -> Reader:
    def read(results: RunResults) -> float | str:
        """The set metric after training, or what it lacks."""
        figure = (results.get("set_metrics") or {}).get("after", {}).get(name, {})
        return figure["value"] if "value" in figure else str(figure.get("lacks", "not measured"))

    return read


NOTHING = "not defined where the score was not evaluated, or nothing was there to lose"
COLUMNS = (
    Column(
        name="FQ",
        better="higher",
        meaning="percent of what forget rows said that is gone, from answers that are still coherent",
        read=_given("fq", lacks=NOTHING),
    ),
    Column(
        name="RD",
        better="lower",
        meaning="percent by which what retain rows said drifted, down or up",
        read=_given("rd", lacks=NOTHING),
    ),
    Column(name="UQ", better="higher", meaning="harmonic mean of FQ and 100 − RD", read=_given("uq", lacks=NOTHING)),
    Column(name="forget, %", better="lower", meaning="the score on sets that should go", read=score_of("forget_sets")),
    Column(
        name="incoherent, %",
        better="lower",
        meaning="answers on sets that should go which are empty, looped or garbled",
        read=score_of("forget_sets", metric="incoherent"),
    ),
    Column(
        name="forget, paraphrased, %",
        better="lower",
        meaning="the same on paraphrases, which were never trained on",
        read=score_of("forget_sets", ending="_paraphrased"),
    ),
    Column(name="retain, %", better="higher", meaning="the score on sets that should stay", read=score_of("retain_sets")),
    Column(
        name="retain, paraphrased, %",
        better="higher",
        meaning="the same on paraphrases, which were never trained on",
        read=score_of("retain_sets", ending="_paraphrased"),
    ),
    Column(
        name="ROC-AUC",
        better="higher",
        digits=3,
        meaning="how often a token that must go has more importance than one that must not; .5 is chance",
        read=_given("importance", "roc_auc", lacks="the forget rows have no spans"),
    ),
)
COSTS = (
    Column(name="steps", digits=0, meaning="optimizer steps", read=_given("cost", "steps")),
    Column(
        name="s/step", better="lower", digits=2, meaning="median time of a step", read=_given("cost", "seconds_per_step")
    ),
    Column(
        name="CPU s/step",
        better="lower",
        digits=2,
        meaning="median processor time of a step",
        read=_given("cost", "cpu_seconds_per_step"),
    ),
    Column(
        name="GB",
        better="lower",
        meaning="peak memory of the steps, 10⁹ bytes",
        read=_given("cost", "peak_memory_bytes", share=1e-9),
    ),
)


def columns_of(runs: Sequence[ComparedMethod]) -> list[Column]:
    """All that at least one run has a number for; what a peer measured on a set, where another run has it too."""
    shared = [c for c in _peers(runs) if sum(bool(cell(run, c).n) for run in runs) > 1]
    audited = [Column(name=name, better="lower", meaning=ATTACKED, read=read) for name, read in attacks_of(runs).items()]
    every = (*COLUMNS, *shared, *set_metric_columns(runs), *audited, *COSTS)
    return [c for c in every if any(cell(run, c).n for run in runs)]


def cell(run: ComparedMethod, column: Column) -> Cell:
    """A method's figure: mean and standard error over its runs, and how many have one."""
    read = [column.of(r) for r in run.results]
    values = [float(v) for v in read if not isinstance(v, str)]
    return Cell(
        mean=statistics.fmean(values) if values else None,
        se=statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None,
        n=len(values),
        lacks=next((v for v in read if isinstance(v, str)), ""),
        reported=bool(values) or not run.peer,
    )


def _peers(runs: Sequence[ComparedMethod]) -> list[Column]:
    """What peers' files say of single sets."""
    missing = [
        (name, metric) for run in runs if run.peer for name, found in run.results[0]["after"].items() for metric in found
    ]
    return [
        Column(
            name=one_line(f"{metric_name(metric)} of {set_name(name)}"),
            better=_direction(metric, on_forget_rows=name.startswith("forget")),
            digits=3,
            meaning=METRICS[metric].meaning if metric in METRICS else "",
            read=_given("after", name, metric, "value"),
        )
        for name, metric in dict.fromkeys(missing)
    ]


def _direction(metric: str, *, on_forget_rows: bool) -> Literal["lower", "higher", ""]:
    """Where it should go on sets that should go, the other way on all others."""
    falls = {"lower": True, "higher": False}.get(METRICS[metric].forget) if metric in METRICS else None
    return "" if falls is None else "lower" if falls is on_forget_rows else "higher"


def set_metric_columns(runs: Sequence[ComparedMethod]) -> list[Column]:
    """A column for each set metric that one of the runs has."""
    names = dict.fromkeys(
        name for run in runs for r in run.results for name in (r.get("set_metrics") or {}).get("after", {})
    )
    return [
        Column(
            name=metric_name(name),
            better=BETTER.get(name, ""),
            digits=None,
            meaning=f"{SET_METRICS[name].meaning}; target: {SET_METRICS[name].target}" if name in SET_METRICS else "",
            read=_set_metric(name),
        )
        for name in names
    ]
