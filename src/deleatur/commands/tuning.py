"""What is searched of a method: its own few numbers, in the published ranges, with the recipe's settings first."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from deleatur.config.run_config import Run
from deleatur.errors import ConfigError, Diverged
from deleatur.importance import WGA, SatImp
from deleatur.io.atomic import write_atomic
from deleatur.losses import DPO, NPO, UNDIAL, AltPO, GradientDifference, SimNPO

Range = tuple[float, float, bool]  # lowest, highest, is it searched on a logarithmic scale?

# arXiv 2606.06320, section on the search; every method searches the weights of its two losses as well
WEIGHT: Range = (0.1, 5.0, True)
SPACES: dict[type, dict[str, Range]] = {
    GradientDifference: {"saturation": (0.1, 10.0, True)},
    NPO: {"beta": (0.05, 0.2, False)},
    AltPO: {"beta": (0.05, 0.2, False)},
    DPO: {"beta": (0.2, 0.5, False)},
    SimNPO: {"beta": (2.0, 3.0, False), "delta": (0.0, 2.0, False)},
    UNDIAL: {"beta": (1.0, 30.0, True)},
    WGA: {"beta": (0.1, 10.0, True)},
    SatImp: {"beta1": (1.0, 10.0, True), "beta2": (0.1, 5.0, True)},
}


def space_of(run: Run, rates: tuple[float, float]) -> dict[str, Range]:
    """What may vary in this run, by the field's path: the rate, both weights, the method's own numbers; a 0 stays."""
    space: dict[str, Range] = {"train.lr": (*rates, True)}
    space |= {f"train.{name}": WEIGHT for name in ("alpha", "gamma") if getattr(run.train, name) and _weighs(run, name)}
    for part in ("loss", "importance"):
        own = SPACES.get(type(getattr(run, part)), {})
        space |= {f"{part}.{name}": found for name, found in own.items() if getattr(getattr(run, part), name)}
    return space


def _weighs(run: Run, name: str) -> bool:
    """A retain weight that follows a bound is not searched: it sets itself."""
    return name != "alpha" or run.train.bound is None


def values_of(run: Run, rates: tuple[float, float] = (0.0, math.inf)) -> dict[str, float]:
    """What of this run may vary, as it stands, by the field's path; the learning rate brought into its range."""
    values = {path: _at(run, path) for path in space_of(run, rates)}
    return values | {"train.lr": min(max(values["train.lr"], rates[0]), rates[1])}


def _at(run: Run, path: str) -> float:
    part, name = path.split(".")
    return getattr(getattr(run, part), name)


def with_values(run: Run, values: Mapping[str, float]) -> Run:
    """The run with some fields, by path, set anew."""
    for path, value in values.items():
        part, name = path.split(".")
        run = replace(run, **{part: replace(getattr(run, part), **{name: value})})
    return run


def search(
    run: Run, *, trials: int, rates: tuple[float, float], seed: int, log: Path, value_of: Callable[[Run], float]
) -> dict[str, float]:
    """The best of so many trials, as values by path: the recipe's own settings first, then a tree-structured Parzen
    estimator (optuna). Each trial is written to `log` and never done twice, and an interruption changes no later trial.

    `value_of` says how good a run is, higher is better; a run that diverges is worse than all. Raises ConfigError where
    optuna is needed and missing.
    """
    if trials == 1:
        return values_of(run, rates)  # there is nothing to choose from
    space = space_of(run, rates)
    done = read_trials(log)
    for number in range(len(done), trials):
        values = values_of(run, rates) if number == 0 else _suggest(space, done, seed=1000 * seed + number)
        try:
            value: float | None = value_of(with_values(run, values))
        except Diverged:
            value = None
        done.append({"number": number, "values": values, "value": value})
        with log.open("a", encoding="utf-8") as f:
            f.write(json.dumps(done[-1]) + "\n")
    finished = [t for t in done[:trials] if t["value"] is not None]
    if not finished:
        raise Diverged(f"all {trials} trials in {log} diverged; lower --rates")
    return max(finished, key=lambda t: t["value"])["values"]


def read_trials(log: Path) -> list[dict[str, Any]]:
    """Trials that are done; a line that was cut off by a kill does not count and is dropped from the file."""
    if not log.exists():
        return []
    done: list[dict[str, Any]] = []
    for line in log.read_text(encoding="utf-8").split("\n"):
        try:
            done += [json.loads(line)] if line else []
        except ValueError:
            break
    write_atomic(log, (json.dumps(t) + "\n" for t in done))
    return done


def _suggest(space: dict[str, Range], done: list[dict[str, Any]], *, seed: int) -> dict[str, float]:
    """The next trial's values, decided by the trials before it and the seed alone."""
    try:
        import optuna
    except ImportError:
        raise ConfigError("a search needs optuna: pip install 'deleatur[tune]', or take --trials 1") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kinds: dict[str, optuna.distributions.BaseDistribution] = {
        path: optuna.distributions.FloatDistribution(low, high, log=log) for path, (low, high, log) in space.items()
    }
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=5))
    for trial in done:
        state = optuna.trial.TrialState.FAIL if trial["value"] is None else optuna.trial.TrialState.COMPLETE
        inside = {path: min(max(v, space[path][0]), space[path][1]) for path, v in trial["values"].items()}
        study.add_trial(optuna.trial.create_trial(params=inside, distributions=kinds, value=trial["value"], state=state))
    return study.ask(kinds).params
