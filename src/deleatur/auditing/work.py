"""The work of an audit: which settings of which attacks on which arms, and how several processes share it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from deleatur.auditing.arms import ARMS, AUDITED, CONTROL, ORIGINAL, REFUSER, Arm, Inputs, loaded
from deleatur.auditing.asking import Question
from deleatur.auditing.attacks import ATTACKS
from deleatur.auditing.attacks.table import Findings, both_forms
from deleatur.auditing.cells import Cell, path_of, write_cell
from deleatur.auditing.helpers import Helpers, receive
from deleatur.auditing.settings import AuditSettings
from deleatur.auditing.verdicts import MIN_ROWS
from deleatur.data.encode import encode_all
from deleatur.data.spacing import evenly_spaced
from deleatur.io.lock import try_lock
from deleatur.modeling.patches import exact_matmul
from deleatur.progress import Progress

ORDER = (ORIGINAL, CONTROL, AUDITED, REFUSER)
BASE = "base"  # retain rows, before anything is done to a model
BASE_ROWS = 24
WAIT = 1.0  # seconds, while other processes are at all that is left


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One setting of an attack on one arm."""

    attack: str
    arm: str
    setting: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """What one process does at a time: an attack on an arm, or what its attack needs of it, in the model of `home`."""

    home: str
    name: str
    makes: tuple[Path, ...]
    needs: tuple[Path, ...]
    do: Callable[[Arm], None]

    def left(self) -> bool:
        """Is one of its files still missing?"""
        return not all(path.exists() for path in self.makes)

    def ready(self) -> bool:
        """Are all the files that it reads there?"""
        return all(path.exists() for path in self.needs)


def plan(inputs: Inputs, settings: AuditSettings) -> tuple[list[Job], list[str]]:
    """All jobs, arm by arm, and why some attacks are left out."""
    given = {"holdout": bool(inputs.holdout), "retrained": inputs.retrained is not None}
    flags = {"holdout": "unseen rows (--holdout)", "retrained": "a model never trained on the rows (--retrained)"}
    arms = [arm for arm in ORDER if arm != REFUSER or any(e.question for e in inputs.forget)]
    jobs = [Job(attack=BASE, arm=arm, setting="plain") for arm in arms]
    left_out = [] if REFUSER in arms else ["a model that only refuses: the rows are texts without questions"]
    for name in settings.attacks:
        attack = ATTACKS[name]
        if lacking := [flags[need] for need in sorted(attack.needs) if not given[need]]:
            left_out.append(f"{name}: it needs {' and '.join(lacking)}")
            continue
        jobs += [Job(attack=name, arm=arm, setting=s) for arm in arms for s in attack.settings(settings)]
    left_out += [f"{name}: not requested" for name in ATTACKS if name not in settings.attacks]
    return jobs, left_out


def has_enough_rows(inputs: Inputs, settings: AuditSettings) -> bool:
    """Are there enough rows for an audit, of which it reads no more than its settings say?"""
    return min(len(inputs.forget), len(inputs.rows_of(CONTROL)), settings.rows) >= MIN_ROWS


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """The jobs of an audit in its folder."""

    inputs: Inputs
    settings: AuditSettings
    folder: Path
    jobs: Sequence[Job]
    progress: Progress = Progress()
    is_helper: bool = False

    def finish(self) -> None:
        """Do what is left, together with other processes; returns once all is done.

        Several processes may do so at once: a unit is done by the one that holds its lock, and each begins with an arm at
        which nobody is. Whoever is killed lets go of its lock, and others make what its unit still lacks. On a CPU it starts
        helpers, once the size of a model is known.
        """
        units = self._units()
        with Helpers() as helpers:
            while left := [unit for unit in units if unit.left()]:
                homes = sorted({u.home for u in left}, key=lambda home: (self._taken(home), ORDER.index(home)))
                if not any(self._visit(home, left, helpers) for home in homes):
                    time.sleep(WAIT)

    def cell(self, job: Job) -> Path:
        """The path of a job's cell."""
        return path_of(self.folder, job.attack, job.arm, job.setting)

    def task(self) -> tuple[Any, ...]:
        """What `help_with` needs to do the same work."""
        return self.inputs, self.settings, self.folder, list(self.jobs)

    def _units(self) -> list[Unit]:
        """Arm by arm; what has to be prepared comes first, where its attack has something left."""
        arms = list(dict.fromkeys(job.arm for job in self.jobs))
        attacks = [name for name in ATTACKS if not all(self.cell(job).exists() for job in self.jobs if job.attack == name)]
        files = {(n, arm): self.folder / file for n in attacks for arm in arms if (file := ATTACKS[n].prepared(arm))}
        units = [
            Unit(home=arm, name=f"{n}-{arm}-prepared", makes=(path,), needs=(), do=ATTACKS[n].prepare)
            for (n, arm), path in files.items()
        ]
        for attack, arm in dict.fromkeys((job.attack, job.arm) for job in self.jobs):
            jobs = [job for job in self.jobs if (job.attack, job.arm) == (attack, arm)]
            needs = tuple(path for (name, _), path in files.items() if name == attack)
            home = ORIGINAL if attack in ATTACKS and ATTACKS[attack].on_original else arm
            makes = tuple(self.cell(job) for job in jobs)
            units.append(
                Unit(home=home, name=f"{attack}-{arm}", makes=makes, needs=needs, do=lambda a, j=jobs: self._do(a, j))
            )
        return units

    def _taken(self, home: str) -> bool:
        """Does another process seem to be at an arm?"""
        return any(self.folder.glob(f"{home}.*.lock"))

    def _visit(self, home: str, left: Sequence[Unit], helpers: Helpers) -> bool:
        """Do the units that are ready in an arm's model and not locked by another process; False where there are none."""
        with contextlib.ExitStack() as stack:
            arm: Arm | None = None
            for unit in left:
                if unit.home != home or not unit.left() or not unit.ready():
                    continue
                with try_lock(self.folder / f"{home}.{unit.name}.lock") as acquired:
                    if acquired and unit.left():
                        arm = arm or stack.enter_context(self._load(home))
                        if not self.is_helper:
                            arms = len({u.home for u in left})
                            helpers.start(self.task(), arms=arms, parameters=sum(p.numel() for p in arm.model.parameters()))
                        unit.do(arm)
            return arm is not None

    def _load(self, home: str) -> contextlib.AbstractContextManager[Arm]:
        self.progress.phase(f"{ARMS[home][0].upper()}: {self.inputs.model_of(home)}")
        return loaded(home, self.inputs, self.settings, self.folder)

    def _do(self, arm: Arm, jobs: Sequence[Job]) -> None:
        """The jobs of a unit that are left, each written as it is done."""
        left = {job.setting: job for job in jobs if not self.cell(job).exists()}
        began = time.process_time()
        for setting, found in _find(replace(arm, name=jobs[0].arm), jobs[0].attack, [*left]):
            job = left[setting]
            beside = job.attack in ATTACKS and ATTACKS[job.attack].beside(setting)
            parts = {
                "answered": found.answered,
                "values": found.values,
                "retain_nll": found.retain_nll,
                "trained": found.trained,
            }
            seconds = time.process_time() - began
            write_cell(self.folder, Cell(**asdict(job), **parts, beside=beside, seconds=seconds))
            done = sum(self.cell(j).exists() for j in self.jobs)
            self.progress.evaluated("attacks", done, len(self.jobs), f"{job.attack} {setting} on {job.arm}")
            began = time.process_time()


def help_with() -> None:
    """What a helper does: all that is left of the work that it is given."""
    inputs, settings, folder, jobs = receive()
    exact_matmul()
    Work(inputs=inputs, settings=settings, folder=folder, jobs=jobs, is_helper=True).finish()


def _find(arm: Arm, attack: str, settings: Sequence[str]) -> Iterable[tuple[str, Findings]]:
    return ((setting, _base(arm)) for setting in settings) if attack == BASE else ATTACKS[attack].run(arm, settings)


def _base(arm: Arm) -> Findings:
    """The model evaluated on retain rows, which a damaged model no longer knows."""
    rows = evenly_spaced(arm.retain, min(BASE_ROWS, max(1, arm.settings.rows // 2)))
    questions = [Question(row=i, example=e) for i, e in enumerate(rows) if e.question]
    return both_forms(arm, questions, encode_all(arm.encoder, rows))
