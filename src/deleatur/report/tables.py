"""The evidence as rows, and names of sets and metrics."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from deleatur.evaluation.metrics import METRICS, SET_METRICS
from deleatur.evaluation.metrics.table import SetMetric
from deleatur.run_folder.file_types import RunResults

SETS = {
    "forget": "forget rows",
    "forget_paraphrased": "forget rows, paraphrased",
    "retain": "retain rows",
    "retain_paraphrased": "retain rows, paraphrased",
    "held": "rows of earlier requests, with the model's own answers",
    "holdout": "unseen rows",
    "holdout_paraphrased": "unseen rows, paraphrased",
}
METRIC_LABELS = {  # what a reader is shown, all of them shares; results.json has the others too
    "judged": ("judged", "share of answers that reveal the fact, by the run's judge"),
    "revealed": ("revealed", "share of the fact's pieces that the model's own answer contains, word for word"),
    "incoherent": ("incoherent", "share of generated answers that are empty, repetitive or garbled"),
    "probability": ("probability", "how likely the reference answer is: the geometric mean over its tokens"),
    "rouge_l": ("ROUGE-L", "share of the reference answer's words that the model's answer has, in their order"),
    "extraction_strength": ("extraction strength", "share of the answer that the model completes to the end by itself"),
    "exact_memorisation": ("exact memorisation", "share of tokens that are the model's first choice"),
    "truth_ratio": ("truth ratio", "how alike the right and the wrong answers are to the model: 1 = equally likely"),
    "accuracy": ("accuracy", "share of questions whose right answer is likelier than every wrong one"),
}

JUDGED = {"judged": "judged", "j_w": "J_W", "j_avg": "J_avg"}  # numbers that a judge made


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One metric on one set. Values and standard errors in [0, 1]; None where the side was not measured."""

    set: str
    metric: str
    before: float | None
    before_se: float | None
    after: float | None
    after_se: float | None
    n: int
    better: Literal["lower", "higher", ""]
    rows: int | None = None  # how many the set has, where not all were evaluated

    @property
    def count(self) -> str:
        """The rows with this metric, and of how many they were taken where some were left out."""
        return str(self.n) if self.rows is None else f"{self.n} of {self.rows}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SetMetricRow:
    """A set metric as a reader sees it: each side's number, a dash where there is none, and why there is none."""

    name: str
    before: str
    after: str
    n: str
    target: str
    meaning: str
    lacks: str

    @property
    def given(self) -> bool:
        """Has one of the sides a number?"""
        return (self.before, self.after) != ("–", "–")


def rows_of(results: RunResults) -> list[Row]:
    """The evidence of `results.json` that a reader is shown, forget rows first; other sets follow in alphabetical order."""
    before, after = results["before"], results["after"]
    left = rows_left_out(results.get("data") or {}, after or before)
    found = [
        _row(name, metric, before.get(name, {}).get(metric), after.get(name, {}).get(metric))
        for name in _ordered({*before, *after}, SETS)
        for metric in METRIC_LABELS
        if metric in before.get(name, {}) or metric in after.get(name, {})
    ]
    return [replace(row, rows=left.get(row.set)) for row in found]


def rows_left_out(data: dict[str, Any], figures: dict[str, Any]) -> dict[str, int]:
    """The size of each set of which not all rows were evaluated."""
    sizes = {name: (part or {}).get("rows", 0) for name, part in data.items()}
    most = {name: max((figure["n"] for figure in found.values()), default=0) for name, found in figures.items()}
    return {name: size for name, size in sizes.items() if 0 < most.get(name, 0) < size}


def set_metric_rows(set_metrics: Mapping[str, Mapping[str, Any]], judge: str | None = None) -> list[SetMetricRow]:
    """The set metrics of both sides, in the suite's order."""
    before, after = (set_metrics.get(side, {}) for side in ("before", "after"))
    return [
        _set_metric_row(by_judge(name, judge), before.get(name, {}), after.get(name, {}), SET_METRICS.get(name))
        for name in dict.fromkeys([*before, *after])
    ]


def lacking(rows: Sequence[SetMetricRow]) -> list[str]:
    """A sentence for each reason why figures are missing, with their names."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if row.lacks:
            names.setdefault(row.lacks, []).append(row.name)
    return [f"Not given, {', '.join(found)}: {reason}." for reason, found in names.items()]


def by_judge(metric: str, judge: str | None) -> str:
    """A metric in words, with who judged where that is what it rests on."""
    return f"{metric_name(metric)}, by {judge}" if judge and metric in JUDGED else metric_name(metric)


def set_name(name: str) -> str:
    """A set in words."""
    return SETS.get(name, name.replace("_", " "))


def metric_name(name: str) -> str:
    """A metric in words."""
    return METRIC_LABELS[name][0] if name in METRIC_LABELS else JUDGED.get(name, name.replace("_", " "))


def percent(value: float | None, se: float | None = None, *, sign: bool = True) -> str:
    """A share as "2.1 %", "98 %" or "98.0 ± 0.8 %"; a dash where there is none. What is not 0 or 1 is not rounded to it."""
    if value is None or not math.isfinite(value):
        return "–"
    text, error = f"{100 * value:.1f}", ""
    if text in ("0.0", "100.0") and value not in (0, 1):
        text = "<0.1" if value < 0.5 else ">99.9"
    if se is None:
        text = text.removesuffix(".0")
    elif math.isfinite(se):
        error = f" ± {100 * se:.1f}"
    return text + error + (" %" if sign else "")


def _row(name: str, metric: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> Row:
    was, now = before or {}, after or {}
    falls = {"forget": True, "retain": False}.get(name.removesuffix("_paraphrased"))
    if falls is not None and METRICS[metric].forget == "higher":
        falls = not falls
    if METRICS[metric].everywhere:
        falls = METRICS[metric].forget == "lower"
    return Row(
        set=name,
        metric=metric,
        before=was.get("value"),
        before_se=was.get("se"),
        after=now.get("value"),
        after_se=now.get("se"),
        n=(after or was)["n"],
        better="" if falls is None else "lower" if falls else "higher",
    )


def _set_metric_row(name: str, before: Mapping[str, Any], after: Mapping[str, Any], known: SetMetric | None) -> SetMetricRow:
    return SetMetricRow(
        name=name,
        before=_number(before),
        after=_number(after),
        n=str(after.get("n", before.get("n", ""))),
        target=known.target if known else "",
        meaning=known.meaning if known else "",
        lacks=str(after.get("lacks") or before.get("lacks") or ""),
    )


def _number(figure: Mapping[str, Any]) -> str:
    """A figure with its interval; a dash where there is none."""
    if not isinstance(figure.get("value"), int | float):
        return "–"
    between = f" [{figure['low']:.3g}, {figure['high']:.3g}]" if "low" in figure and "high" in figure else ""
    return f"{figure['value']:.3g}{between}".replace("-", "−")


def _ordered(names: set[str], known: dict[str, Any]) -> Iterator[str]:
    yield from (name for name in known if name in names)
    yield from sorted(names - known.keys())
