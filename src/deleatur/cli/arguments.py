"""What the arguments of a verb say, where a run folder, a file or a recipe gives part of it. Free of torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro

from deleatur.cli.parsing import parse, peek, positional
from deleatur.commands.options import Audit, Bench, Evaluate, Forget
from deleatur.config.recipes import RECIPES
from deleatur.config.run_config import EVALUATION_FIELDS, Run, evaluation_from_yaml, from_yaml, read_run, values_of
from deleatur.errors import ConfigError
from deleatur.importance import IMPORTANCES
from deleatur.losses import FORGET_LOSSES
from deleatur.settings import UNGUARDED


def forget_command(args: list[str]) -> Forget:
    """The run that a YAML file or a recipe gives, changed by the options."""
    missing: Any = tyro.MISSING
    if given := positional(args, flags=("--json", "--resume")):
        if "--resume" in args:
            return _resumed(Path(given), args)
        if Path(given).is_dir():
            ways = f"resume it with: deleatur forget {given} --resume, or repeat it with: deleatur forget {given}/run.yaml"
            raise ConfigError(f"{given} is a folder; {ways}")
        base = replace(from_yaml(Path(given)), out=None)
        recipe = "atwu"
        if peek(args, "--recipe", RECIPES):
            raise ConfigError("a run file names its method itself; leave --recipe out, or change --loss and --importance")
    else:
        recipe = peek(args, "--recipe", RECIPES) or "atwu"
        base = RECIPES[recipe].run(model=missing, **(rows_to_give(args) | {"retain": None}))
    loss, importance = peek(args, "--loss", FORGET_LOSSES), peek(args, "--importance", IMPORTANCES)
    pair = {"loss": FORGET_LOSSES[loss]()} if loss else {}
    pair |= {"importance": IMPORTANCES[importance]()} if importance else {}
    base = replace(base, **pair)  # at once, since not every loss goes with the recipe's importance
    default = Forget(run=base, recipe=recipe, forget_loss=loss, token_importance=importance)
    return parse(Forget, args, verb="forget", default=default)


def rows_to_give(args: list[str]) -> dict[str, Any]:
    """What must be given: a suite where one is named, rows where none is."""
    suite = any(a == "--suite" or a.startswith("--suite=") for a in args)
    return dict.fromkeys(("suite",) if suite else ("forget", "retain"), tyro.MISSING)


def _resumed(folder: Path, args: list[str]) -> Forget:
    """The run of a folder, with that run's own settings."""
    folder = folder.parent if folder.name == "run.yaml" else folder
    _check_unchanged(args)
    return Forget(run=replace(from_yaml(folder / "run.yaml"), out=str(folder)), resume=True, json="--json" in args)


def _check_unchanged(args: list[str]) -> None:
    if more := [a for a in args if a not in ("--resume", "--json")]:
        raise ConfigError(f"--resume continues the run as it is; leave {more[0]} out")


def evaluate_command(args: list[str]) -> Evaluate:
    """What a run folder, a folder of an evaluation to resume, or the options alone say."""
    missing: Any = tyro.MISSING
    default = Evaluate(model=missing, **rows_to_give(args))
    if given := positional(args, flags=("--json", "--resume")):
        folder = Path(given)
        started = (folder / "evaluate.yaml").exists()
        if "--resume" in args:
            _check_unchanged(args)
            if not started:
                raise ConfigError(f"{folder} has no evaluate.yaml; give the folder that deleatur evaluate --out began")
            run, tasks = evaluation_from_yaml(folder / "evaluate.yaml")
            return Evaluate(**_evaluation_fields(run), tasks=tasks, out=given, resume=True, json="--json" in args)
        if started:
            raise ConfigError(f"{folder} holds an evaluation; resume with: deleatur evaluate {folder} --resume")
        run = read_run(folder)
        evaluation = replace(run.evaluation, start=run.evaluation.start or run.model)  # as the run itself was evaluated
        default = Evaluate(**_evaluation_fields(replace(run, model=str(folder / "model"), evaluation=evaluation)))
    command = parse(Evaluate, args, verb="evaluate", default=default)
    if command.resume:
        raise ConfigError("--resume takes nothing but the folder of an evaluation: deleatur evaluate FOLDER --resume")
    return command


def _evaluation_fields(run: Run) -> dict[str, Any]:
    return {name: value for name, value in values_of(run).items() if name in EVALUATION_FIELDS}


def audited_run(args: list[str]) -> Audit | None:
    """What the folder of a run says of itself, where the first argument is one."""
    given = next(iter(args), "-")
    if given.startswith("-") or not (Path(given) / "run.yaml").is_file():
        return None
    run = read_run(Path(given))
    return Audit(
        model=given,
        original=run.model,
        retrained=run.evaluation.retrained,
        forget=run.forget,
        retain=run.retain,
        holdout=run.holdout,
        suite=run.suite,
        data=run.data,
        judge=run.judge,
    )


def bench_command(args: list[str]) -> Bench:
    """A bench's rows, settings and budget; what a method does by itself is compared, so nothing is rolled back."""
    run: Any = Run(model=tyro.MISSING, guard=UNGUARDED, **rows_to_give(args))  # pyright: ignore[reportArgumentType]
    return parse(Bench, args, verb="bench", default=Bench(run=run))
