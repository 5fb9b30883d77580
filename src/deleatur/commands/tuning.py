"""Hyper-parameter search over a method's own settings, in the published ranges, the recipe's settings first."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from deleatur.config.method import MethodSettings
from deleatur.errors import ConfigError, Diverged
from deleatur.modeling.patches import quiet_optuna
from deleatur.protocols import Searched
from deleatur.run_folder.file_types import TrialLine
from deleatur.run_folder.schema import append_line, read_complete_lines, write_lines
from deleatur.settings import Range

# arXiv 2606.06320, section on the search; every method searches the weights of its two losses as well
WEIGHT = Range(0.1, 5.0, log=True)


def space_of(method: MethodSettings, rates: tuple[float, float]) -> dict[str, Range]:
    """The search space of this method, by field path: learning rate, both weights, the parts' own settings; a 0 stays 0.

    A retain weight that follows a bound is not searched, since it is adapted in training.
    """
    train = method.train
    weights = {"alpha": train.alpha if train.bound is None else 0.0, "gamma": train.gamma}
    space = {"train.lr": Range(*rates, log=True)} | {f"train.{name}": WEIGHT for name, value in weights.items() if value}
    for name, part in (("loss", method.loss), ("importance", method.importance)):
        ranges = part.ranges if isinstance(part, Searched) else {}
        space |= {path: found for key, found in ranges.items() if _at(method, path := f"{name}.{key}")}
    return space


def values_of(method: MethodSettings, rates: tuple[float, float] = (0.0, math.inf)) -> dict[str, float]:
    """The present values in the search space, by field path; the learning rate clipped to its range."""
    values = {path: _at(method, path) for path in space_of(method, rates)}
    return values | {"train.lr": min(max(values["train.lr"], rates[0]), rates[1])}


def _at(method: MethodSettings, path: str) -> float:
    part, name = path.split(".")
    return asdict(_part(method, part))[name]


def _part(method: MethodSettings, name: str) -> Any:
    return {"train": method.train, "loss": method.loss, "importance": method.importance}[name]


def with_values(method: MethodSettings, values: Mapping[str, float]) -> MethodSettings:
    """The method with some fields, by path, replaced."""
    for path, value in values.items():
        part, name = path.split(".")
        changed: dict[str, Any] = {part: replace(_part(method, part), **{name: value})}
        method = replace(method, **changed)
    return method


def search(
    method: MethodSettings,
    *,
    trials: int,
    rates: tuple[float, float],
    seed: int,
    log: Path,
    value_of: Callable[[MethodSettings], float],
) -> dict[str, float]:
    """The best of so many trials, as values by path: the recipe's own settings first, then a tree-structured Parzen
    estimator (optuna). Each trial is written to `log` and never done twice, and an interruption changes no later trial.

    `value_of` says how good a method is, higher is better; one that diverges is worse than all. Raises ConfigError where
    optuna is needed and missing.
    """
    if trials == 1:
        return values_of(method, rates)  # there is nothing to choose from
    space = space_of(method, rates)
    done = read_trials(log)
    for number in range(len(done), trials):
        values = values_of(method, rates) if number == 0 else _suggest(space, done, seed=1000 * seed + number)
        try:
            value: float | None = value_of(with_values(method, values))
        except Diverged:
            value = None
        done.append({"number": number, "values": values, "value": value})
        append_line(log, done[-1])
    finished = [t for t in done[:trials] if t["value"] is not None]
    if not finished:
        raise Diverged(f"all {trials} trials in {log} diverged; lower --rates")
    return max(finished, key=lambda t: t["value"] or 0.0)["values"]


def read_trials(log: Path) -> list[TrialLine]:
    """Trials that are done; a line that was cut off by a kill does not count and is dropped from the file."""
    done = read_complete_lines(log, TrialLine)
    if log.exists():
        write_lines(log, done)
    return done


def _suggest(space: dict[str, Range], done: list[TrialLine], *, seed: int) -> dict[str, float]:
    """The next trial's values, decided by the trials before it and the seed alone."""
    try:
        import optuna
    except ImportError:
        raise ConfigError("a search needs optuna: pip install 'deleatur[tune]', or take --trials 1") from None
    quiet_optuna()
    kinds: dict[str, optuna.distributions.BaseDistribution] = {
        path: optuna.distributions.FloatDistribution(low, high, log=log) for path, (low, high, log) in space.items()
    }
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=5))
    for trial in done:
        state = optuna.trial.TrialState.FAIL if trial["value"] is None else optuna.trial.TrialState.COMPLETE
        inside = {path: min(max(v, space[path][0]), space[path][1]) for path, v in trial["values"].items()}
        study.add_trial(optuna.trial.create_trial(params=inside, distributions=kinds, value=trial["value"], state=state))
    return study.ask(kinds).params
