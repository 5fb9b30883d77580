"""The folders of a request's runs: whether one goes on, with which settings, or a new one is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from deleatur.commands.inputs import encode_sets, suite_of
from deleatur.commands.recheck import asking_all
from deleatur.config.run_config import Run, from_yaml, to_yaml
from deleatur.errors import ConfigError
from deleatur.io.lock import LOCK
from deleatur.modeling.loading import load_tokenizer
from deleatur.run_folder.file_types import Request
from deleatur.run_folder.ledger import short
from deleatur.settings import Data

CHECKS = "requests.json"  # in a request's run: what its model knows of each request up to it


@dataclass(frozen=True, kw_only=True, slots=True)
class RunInputs:
    """What `request run` fills in of a run; the rest is the user's."""

    model: str
    forget: str
    retain: str | None
    holdout: str | None
    held: str | None
    out: str
    data: Data


def is_begun(request: Request) -> bool:
    """Was a run of it started that has no verdict yet?"""
    return request["run"] is not None and request["verdict"] is None


def is_next(run: Path, chain: list[Request]) -> bool:
    """Did the run begin with the model that is the newest still? Another request may have been done in the meantime."""
    if not chain or not (run / "run.yaml").exists():
        return True
    return Path(from_yaml(run / "run.yaml").model).parts[-2:] == (Path(chain[-1]["run"] or "").name, "model")


def has_ended(folder: Path) -> bool:
    """Is a run written to its end, and what it went on from removed?"""
    return (folder / "report.html").exists() and not any((folder / name).exists() for name in ("checkpoints", LOCK))


def check_same(folder: Path, run_of: Callable[[RunInputs], Run], model: str | None) -> None:
    """Refuse other options than those that an interrupted run was begun with, which goes on with its own."""
    begun = from_yaml(folder / "run.yaml")
    rows = {"forget": str(begun.forget), "retain": begun.retain, "holdout": begun.holdout, "held": begun.held}
    wanted = run_of(RunInputs(model=model or begun.model, **rows, out=str(folder), data=begun.data))
    there, given = (to_yaml(replace(run, out=str(folder))).splitlines() for run in (begun, wanted))
    if there != given:
        other = next((line.strip() for line in there if line not in given), "others are left out")
        seen = f"the run in {folder} was begun with other settings ({other})"
        raise ConfigError(f"{seen}; give the same options to go on, or remove that folder to begin anew")


def in_full(run_of: Callable[[RunInputs], Run]) -> Callable[[RunInputs], Run]:
    """Makes the same runs, but in each every forget row is evaluated, with room for its right answer."""

    def full(inputs: RunInputs) -> Run:
        """Raises ModelError, DataError."""
        run = run_of(inputs)
        rows = encode_sets({"forget": suite_of(run).sets["forget"]}, load_tokenizer(run.model), run.data)["forget"]
        return replace(run, evaluation=asking_all(run.evaluation, rows))

    return full


def free_folder(home: Path, request: Request) -> Path:
    """The first folder of the request's name in which there is no run."""
    names = (short(request) if n == 1 else f"{short(request)}-{n}" for n in range(1, 10**6))
    return next(home / name for name in names if not (home / name / "run.yaml").exists())
