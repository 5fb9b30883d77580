"""What each verb of the command line does with its arguments. Each imports what it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from deleatur.cli.arguments import audited_run, bench_command, evaluate_command, forget_command
from deleatur.cli.parsing import parse
from deleatur.commands.options import Audit, Compare, Demo, Export, Methods, Metrics, Report, Score
from deleatur.config.run_config import EVALUATION_FIELDS, Run, nearest, values_of
from deleatur.data.messages import printable
from deleatur.errors import ConfigError


def verb_of(name: str) -> Callable[[list[str]], None]:
    """What carries out a verb's arguments. Raises ConfigError for one that does not exist."""
    if name not in VERBS:
        raise ConfigError(f"no verb {name!r}{nearest(name, list(VERBS))}; there are {', '.join(VERBS)}")
    return VERBS[name]


def _forget(args: list[str]) -> None:
    command = forget_command(args)
    from deleatur.cli.console import show_rows, watch
    from deleatur.commands.retain_rows import first_rows
    from deleatur.commands.unlearn import execute

    with watch() as progress:
        if command.show:
            show_rows(*first_rows(command.run, command.show, progress))
            return
        out = execute(command.run, progress, resume=command.resume)
    _present(out, as_json=command.json)


def _evaluate(args: list[str]) -> None:
    command = evaluate_command(args)
    from deleatur.cli.console import print_evaluation, watch
    from deleatur.commands.evaluation import evaluate

    run = Run(**{name: value for name, value in values_of(command).items() if name in EVALUATION_FIELDS})
    folder = None if command.out is None else Path(command.out)
    with watch() as progress:
        figures = evaluate(run, progress, tasks=command.tasks, folder=folder, resume=command.resume)
    if command.json:
        print(json.dumps(figures, indent=2))
    else:
        print_evaluation(figures)


def _audit(args: list[str]) -> None:
    command = parse(Audit, args, verb="audit", default=audited_run(args))
    from deleatur.cli.console import print_audit, watch
    from deleatur.commands.audit import audit_command

    with watch() as progress:
        report, page = audit_command(command, progress)
    if command.json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print_audit(report, page)
    raise SystemExit(report["exit"])


def _make_rows(args: list[str]) -> None:
    from deleatur.commands.rows_options import Rows

    command = parse(Rows, args, verb="rows")
    from deleatur.cli.console import OUT, watch
    from deleatur.commands.rows import make_rows, sentences

    with watch() as progress:
        findings = make_rows(command, progress)
    for f in findings:
        if f.row is not None:
            OUT.print(printable(f"{f.agreement:4.0%}  {f.question} – {f.answer}"), soft_wrap=True)
    for sentence in sentences(findings, command):
        OUT.print(sentence, soft_wrap=True)


def _score(args: list[str]) -> None:
    command = parse(Score, args, verb="score")
    from deleatur.cli.console import print_heat, watch
    from deleatur.commands.evaluation import score

    with watch() as progress:
        path = score(Path(command.run), rows=command.rows, model=command.model, progress=progress)
    print_heat(path, command.limit)


def _report(args: list[str]) -> None:
    command = parse(Report, args, verb="report")
    run = Path(command.run)
    if command.form == "page":
        from deleatur.report import write_report

        print(write_report(run, redacted=command.redact))
        return
    from deleatur.report.compare import layout_note
    from deleatur.report.interop import write_as
    from deleatur.run_folder.writer import read_records

    found = (read_records(run / "records" / f"{when}.jsonl") for when in ("after", "before"))  # an evaluation's are "before"
    records = next((made for made in found if made), {})
    note = layout_note(command.form, run)
    print("\n".join(map(str, write_as(command.form, run, records, redacted=command.redact))))
    if note:
        print(f"Note: {note}", file=sys.stderr)


def _export(args: list[str]) -> None:
    command = parse(Export, args, verb="export")
    from deleatur.cli.console import watch
    from deleatur.commands.export import export

    with watch() as progress:
        print(export(command, progress))


def _request(args: list[str]) -> None:
    from deleatur.cli.requests import request

    request(args, lambda more: forget_command(more).run)


def _review(args: list[str]) -> None:
    from deleatur.cli.requests import review

    review(args)


def _demo(args: list[str]) -> None:
    command = parse(Demo, args, verb="demo")
    from deleatur.cli.console import print_evaluation, watch
    from deleatur.cli.story import print_story
    from deleatur.config.recipes import check_recipe

    check_recipe(command.recipe)

    with watch() as progress:
        progress.phase(
            f"{command.size} people who do not exist: a model learns about them, then forgets {command.forgotten}."
        )
        from deleatur.commands.demo import run_demo  # takes seconds, so not before there is something to read

        reference = run_demo(command, progress)
    print_story(Path(command.out))
    if reference is not None:
        print("The reference, not fine-tuned on the forgotten people:")
        print_evaluation(reference)


def _bench(args: list[str]) -> None:
    command = bench_command(args)
    from deleatur.cli.console import watch
    from deleatur.commands.bench import run_bench

    with watch() as progress:
        folders = run_bench(command.run, command.budget, progress)
    _compared(folders, Path(command.run.out or "runs/bench"))


def _compare(args: list[str]) -> None:
    command = parse(Compare, args, verb="compare")
    _compared([Path(run) for run in command.runs], Path(command.out))


def _compared(runs: Sequence[Path], out: Path) -> None:
    from deleatur.cli.console import print_comparison
    from deleatur.report import gather, write_comparison
    from deleatur.report.interop import read_any_run

    shown = gather(runs, read_any_run)
    print_comparison(shown, write_comparison(shown, out))


def _metrics(args: list[str]) -> None:
    command = parse(Metrics, args, verb="metrics")
    from deleatur.cli.console import print_metrics

    print_metrics(markdown=command.markdown)


def _methods(args: list[str]) -> None:
    command = parse(Methods, args, verb="methods")
    from deleatur.cli.console import print_methods

    print_methods(markdown=command.markdown)


def _present(out: Path, *, as_json: bool = False) -> None:
    from deleatur.run_folder.schema import read_current, read_results

    if as_json:
        print(json.dumps(read_current(out / "results.json"), indent=2, ensure_ascii=False))
        return
    from deleatur.cli.console import print_results

    print_results(read_results(out / "results.json"), out)


VERBS: dict[str, Callable[[list[str]], None]] = {
    "forget": _forget,
    "evaluate": _evaluate,
    "audit": _audit,
    "rows": _make_rows,
    "score": _score,
    "report": _report,
    "export": _export,
    "request": _request,
    "review": _review,
    "demo": _demo,
    "bench": _bench,
    "compare": _compare,
    "metrics": _metrics,
    "methods": _methods,
    "recipes": _methods,
}
