"""Terminal output. Messages go to stderr, results to stdout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bars,
)
from rich.table import Column, Table
from rich.text import Text

from deleatur.config.method import name_of
from deleatur.config.recipes import RECIPES
from deleatur.config.run_config import values_of
from deleatur.distributed.processes import is_first
from deleatur.evaluation.metrics import METRICS, RUN_METRICS, SET_METRICS
from deleatur.evaluation.metrics.page import metrics_markdown
from deleatur.report import ComparedMethod, compare_table, heat_spans, percent, rows_of, set_name, verdict
from deleatur.report.audit_page import AUDIT_ARMS, verdict_line
from deleatur.report.tables import METRIC_LABELS, SetMetricRow, by_judge, lacking, rows_left_out, set_metric_rows
from deleatur.run_folder.file_types import RunResults
from deleatur.run_folder.schema import read_importance
from deleatur.settings import Train

if TYPE_CHECKING:  # what they bring with them would make a list of names slow
    from deleatur.progress import Progress, Step
    from deleatur.types import Encoded

PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}  # [brackets] and :colons: are the user's own
STDERR, OUT = Console(stderr=True, **PLAIN), Console(**PLAIN)


@contextlib.contextmanager
def watch() -> Iterator[Progress]:
    """Bars for what is going on: step, rate, time left, forget and retain NLL."""
    from deleatur.progress import Progress

    columns = (  # 80 characters in all
        TextColumn("{task.description}"),
        BarColumn(bar_width=8),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    bars = Bars(*columns, console=STDERR)
    tasks: dict[str, Any] = {}
    if not is_first():
        yield Progress()
        return

    def phase(text: str) -> None:
        """Print a phase; its bars start again."""
        tasks.clear()
        STDERR.print(text)

    def advance(what: str, done: int, total: int, note: str = "") -> None:
        """Move a bar on; where output is no terminal, print a line for each tenth."""
        if not STDERR.is_terminal:
            if 10 * done // total > 10 * (done - 1) // total:  # a log gets ten lines
                STDERR.print(f"  {what} {done}/{total}  {note}".rstrip())
            return
        bars.start()  # not before there is something to show, so that a refusal stands alone
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total, note="")
        bars.update(tasks[what], completed=done, note=note)

    def step(step: Step, steps: int) -> None:
        """Move the bar of steps on, with what the step says."""
        note = f"{step.seconds:.1f} s/step  NLL forget {step.forget_nll:.2f} retain {step.retain_nll:.2f}"
        advance("steps", step.step, steps, note)

    try:
        yield Progress(phase=phase, step=step, evaluated=advance)
    finally:
        if bars.tasks:
            bars.stop()


def show_rows(encoded: dict[str, list[Encoded]], counts: dict[str, int], tokenizer: Any) -> None:
    """Rows of each set as the model will read them, scored tokens marked; `counts` is how many rows there are in all."""
    for name, rows in encoded.items():
        OUT.print(
            f"{name}: {counts[name]} rows, the first {len(rows)}; scored tokens are between ⟦ ⟧, those to forget in red"
        )
        for row in rows:
            OUT.print(_marked(row, tokenizer), end="\n\n")
    OUT.print("Nothing was trained; leave --show out to begin.")


def _marked(row: Encoded, tokenizer: Any) -> Text:
    text = Text(tokenizer.decode(row.ids[: row.start]), style="dim")
    gold = row.gold or (False,) * len(row.offsets)
    for token, must_go in zip(row.ids[row.start :], gold, strict=True):
        text.append(f"⟦{tokenizer.decode([token])}⟧", style="bold red" if must_go else "bold")
    return text


def print_results(results: RunResults, out: Path) -> None:
    """The evidence as a table, and the report's path."""
    table = Table("rows", "metric", "before", "after", "n", title="Evaluation (↓ lower is better, ↑ higher is better)")
    suite = results.get("suite", {"score": "revealed"})
    shown, judge = None, suite.get("judge")
    for row in rows_of(results):
        if row.set != shown:
            table.add_section()
        arrow = {"lower": "↓ ", "higher": "↑ "}.get(row.better, "  ")
        before, after = percent(row.before, row.before_se), percent(row.after, row.after_se)
        name = "" if row.set == shown else set_name(row.set)
        table.add_row(name, arrow + by_judge(row.metric, judge), before, after, row.count)
        shown = row.set
    OUT.print(table)
    _print_set_metric_rows(set_metric_rows(results.get("set_metrics", {}), judge), "before", "after")
    found = verdict(results)
    OUT.print(f"{found.headline}.", style="bold", soft_wrap=True)
    for sentence in found.reasons:
        OUT.print(sentence, soft_wrap=True)
    parts = [f"{k.upper()} {results[k]:.1f}" for k in ("fq", "rd", "uq") if results[k] is not None]
    score = by_judge(suite["score"], judge)
    OUT.print("  ".join(parts) + f"   (of {score}: forgotten %, drift on retain %, harmonic mean)" if parts else "")
    if agreed := results["importance"]:
        OUT.print(
            f"Importance against the given spans: ROC-AUC {agreed['roc_auc']:.3f}, average precision "
            f"{agreed['average_precision']:.3f}, precision at budget {agreed['precision_at_budget']:.3f}"
        )
    cost = results["cost"]
    OUT.print(
        f"Cost: {cost['steps']} steps in {cost['seconds']:.0f} s, {cost['seconds_per_step']:.2f} s a step "
        f"(importance {100 * cost['scorer_share']:.1f} %), peak memory {cost['peak_memory_bytes'] / 1e9:.1f} GB"
    )
    for note in found.notes:
        OUT.print(f"Note: {note}", soft_wrap=True)
    OUT.print(f"Report: {out / 'report.html'}   Model: {out / 'model'}", soft_wrap=True)
    parts = {name: part.get("cut", 0) for name, part in results["data"].items() if part}
    if any(parts.values()):
        cut = ", ".join(f"{count} of {name}" for name, count in parts.items() if count)
        OUT.print(f"Cut at data.max_length: {cut} rows")


def print_evaluation(figures: dict[str, Any]) -> None:
    """What `evaluate` found of one model."""
    print_figures(figures["sets"], figures["judge"], rows_left_out(figures.get("data", {}), figures["sets"]))
    print_set_metrics(figures["set_metrics"], figures["judge"])
    print_tasks(figures.get("lm_eval", {}))
    for note in figures.get("notes", ()):
        OUT.print(f"Note: {note}", soft_wrap=True)


def print_audit(report: dict[str, Any], page: Path) -> None:
    """Each attack's verdict with the arms side by side, the audit's, and the page's path."""
    table = Table(
        Column("attack", no_wrap=True), Column("verdict", no_wrap=True), *(f"{letter} {arm}" for arm, letter in AUDIT_ARMS)
    )
    for name, attack in report["attacks"].items():
        rates = (attack["arms"].get(arm) for arm, _ in AUDIT_ARMS)
        table.add_row(name, attack["verdict"], *("–" if r is None else percent(r["value"], None) for r in rates))
    if report["attacks"]:
        OUT.print(table)
    for name, attack in report["attacks"].items():
        OUT.print(f"{name}: {attack['why']}", soft_wrap=True)
    OUT.print(verdict_line(report), style="bold", soft_wrap=True)
    OUT.print(f"Page: {page}", soft_wrap=True)


def print_figures(figures: dict[str, Any], judge: str | None = None, left_out: dict[str, int] | None = None) -> None:
    """Sets and metrics of one model; `left_out` has the sizes of sets of which not all rows were evaluated."""
    table = Table("rows", "metric", "value", "n")
    for name, metrics in figures.items():
        table.add_section()
        for number, (metric, figure) in enumerate(m for m in metrics.items() if m[0] in METRIC_LABELS):
            value, size = percent(figure["value"], figure["se"]), (left_out or {}).get(name)
            count = str(figure["n"]) if size is None else f"{figure['n']} of {size}"
            table.add_row("" if number else set_name(name), by_judge(metric, judge), value, count)
    OUT.print(table)


def print_set_metrics(set_metrics: dict[str, Any], judge: str | None = None) -> None:
    """Set metrics of one model, and what the missing ones lack."""
    _print_set_metric_rows(set_metric_rows({"after": set_metrics}, judge), "after")


def _print_set_metric_rows(rows: Sequence[SetMetricRow], *sides: str) -> None:
    table = Table("figure", *(("value",) if len(sides) == 1 else sides), "n", "should be")
    given = [row for row in rows if row.given]
    for row in given:
        table.add_row(row.name, *(values_of(row)[side] for side in sides), row.n, row.target)
    if given:
        OUT.print(table)
    for line in lacking(rows):
        OUT.print(line, soft_wrap=True)


def print_tasks(tasks: dict[str, dict[str, Any]]) -> None:
    """What lm-eval found, by its own names."""
    table = Table("lm-eval task", "figure", "value")
    for task, figures in tasks.items():
        for name, value in figures.items():
            if isinstance(value, float):
                table.add_row(task, name, f"{value:.4g}")
    if tasks:
        OUT.print(table)


def print_comparison(runs: Sequence[ComparedMethod], page: Path) -> None:
    """Methods side by side, and the page's path."""
    shown = compare_table(runs)
    widths = [_width(heading, cells) for heading, *cells in zip(shown.columns, *shown.rows, strict=True)]
    first = Column(shown.columns[0], no_wrap=True, min_width=widths[0] - 3)
    left = [*range(1, len(shown.columns))]
    while left:  # as many tables as it takes, none too wide to read
        fits = [k for n, k in enumerate(left) if 1 + widths[0] + sum(widths[i] for i in left[: n + 1]) <= OUT.width]
        part = fits or left[:1]
        table = Table(first, *(Column(shown.columns[k], width=widths[k] - 3) for k in part))
        for row in shown.rows:
            table.add_row(row[0], *(row[k] for k in part))
        OUT.print(table)
        left = left[len(part) :]
    for note in shown.notes:
        OUT.print(note, soft_wrap=True)
    OUT.print(f"Tables and page: {page}", soft_wrap=True)


def _width(heading: str, cells: Sequence[str]) -> int:
    """Characters that a column takes with its frame, where headings break at blanks and cells do not."""
    return 3 + max(map(len, (*heading.split(), *cells)))


def print_metrics(*, markdown: bool) -> None:
    """Metrics of a row, of a set and of a run."""
    if markdown:
        print(metrics_markdown(), end="")
        return
    table = Table("metric", "on forget rows", "meaning", "source")
    for name, metric in METRICS.items():
        table.add_row(name, metric.forget, metric.meaning, metric.source)
    table.add_section()
    for name, set_metric in SET_METRICS.items():
        table.add_row(name, set_metric.target, set_metric.meaning, set_metric.source)
    table.add_section()
    for name, figure in RUN_METRICS.items():
        table.add_row(name, figure.target, figure.meaning, figure.source)
    OUT.print(table)


def print_heat(path: Path, limit: int) -> None:
    """Answers with a background as strong as their importance; marked characters underlined."""
    rows = read_importance(path)
    for row in rows[:limit]:
        OUT.print(Text(row["question"], style="dim"))
        OUT.print(heat_text(row["answer"], row["tokens"]), end="\n\n")
    OUT.print(f"{min(limit, len(rows))} of {len(rows)} rows; all are in {path}", soft_wrap=True)


def heat_text(answer: str, tokens: Sequence[Mapping[str, Any]]) -> Text:
    """An answer with a background as strong as the importance of its tokens; marked characters underlined."""
    text = Text()
    for piece in heat_spans(answer, list(tokens)):
        strength = min(max(piece.importance or 0.0, 0.0), 1.0)
        red, rest = 255, round(255 - 175 * strength)
        style = f"black on rgb({red},{rest},{rest})" + (" underline" if piece.gold else "")
        text.append(piece.text, style=style)
    return text


COLUMNS = ("method", "forget loss", "importance", "training", "needs", "paper", "settings from")


def print_methods(*, markdown: bool) -> None:
    """What every recipe is made of: the settings that are not the default, what it needs, and where it comes from."""
    rows = [
        (name, *(_changed(part) for part in (r.loss, r.importance, r.train)), ", ".join(r.needs), r.paper, r.source)
        for name, r in RECIPES.items()
    ]
    if markdown:
        lines = [COLUMNS, ("---",) * len(COLUMNS), *rows]
        print("\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines))
        return
    table = Table(Column(COLUMNS[0], no_wrap=True, min_width=max(map(len, RECIPES))), *COLUMNS[1:])
    for row in rows:
        table.add_row(*row)
    OUT.print(table)


def _changed(part: Any) -> str:
    """A part's name in its table, and its settings that are not the default."""
    default = values_of(type(part)())
    note = [f"{k}={v}" for k, v in values_of(part).items() if v != default[k]]
    name = [] if isinstance(part, Train) else [name_of(part)]
    return " ".join([*name, *note])
