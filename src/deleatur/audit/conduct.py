"""An audit from its inputs to its report: every attack on every arm, cell by cell, then what they say."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from deleatur.audit.arms import (
    ARMS,
    AUDITED,
    CONTROL,
    ORIGINAL,
    REFUSER,
    Arm,
    Inputs,
    loaded,
    refuser_leak,
    spread,
    subjects_of,
)
from deleatur.audit.asking import Question
from deleatur.audit.attacks import ATTACKS
from deleatur.audit.attacks.table import Findings, both_forms
from deleatur.audit.cells import Cell, path_of, read_cell, write_cell
from deleatur.audit.judgement import judge_attacks
from deleatur.audit.scoring import Rules, judged
from deleatur.audit.settings import AuditSettings
from deleatur.audit.verdicts import EXITS, LEAST_ROWS
from deleatur.data.encode import encode_all
from deleatur.errors import ConfigError
from deleatur.evaluation.judges import JudgeProtocol
from deleatur.io.atomic import write_atomic
from deleatur.progress import Progress
from deleatur.run_folder.schema import AUDIT_SCHEMA_VERSION
from deleatur.types import Example

ORDER = (ORIGINAL, CONTROL, AUDITED, REFUSER)
BASE = "base"  # retain rows, before anything is done to a model
BASE_ROWS = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One setting of an attack on one arm."""

    attack: str
    arm: str
    setting: str


def conduct(
    inputs: Inputs, settings: AuditSettings, folder: Path, judge: JudgeProtocol, progress: Progress = Progress()
) -> dict[str, Any]:
    """Make every attack that the inputs allow, and write audit.json; cells that are there are not made again.

    Fewer than LEAST_ROWS rows are never asked: the audit is void. Raises ConfigError where the folder holds another audit.
    """
    _require_same(folder, inputs, settings)
    jobs, left_out = plan(inputs, settings)
    if min(len(inputs.forget), len(inputs.rows_of(CONTROL))) < LEAST_ROWS:
        jobs = []
    for arm in (*ORDER, None):
        part = [j for j in jobs if j.arm == arm and not _late(j)] if arm else [j for j in jobs if _late(j)]
        todo = [j for j in part if not path_of(folder, j.attack, j.arm, j.setting).exists()]
        if todo:
            _run(arm or ORIGINAL, todo, jobs, (inputs, settings, folder, progress))
    cells = [read_cell(path_of(folder, j.attack, j.arm, j.setting)) for j in jobs]
    report = _report(inputs, settings, cells, judge, refuser_leak(folder)) | {"not_asked": left_out + _never_asked(inputs)}
    write_atomic(folder / "audit.json", json.dumps(_finite(report), indent=2, ensure_ascii=False) + "\n")
    return report


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
    left_out += [f"{name}: it was not asked for" for name in ATTACKS if name not in settings.attacks]
    return jobs, left_out


def _late(job: Job) -> bool:
    """Does the job run in the original model, once every arm has been there?"""
    return job.attack in ATTACKS and ATTACKS[job.attack].on_original


def _run(name: str, todo: Sequence[Job], jobs: Sequence[Job], how: tuple[Inputs, AuditSettings, Path, Progress]) -> None:
    """The jobs of one arm that are left, each written as it is done."""
    inputs, settings, folder, progress = how
    progress.phase(f"{ARMS[name][0].upper()}: {inputs.model_of(name)}")
    with loaded(name, inputs, settings, folder) as arm:
        for attack in dict.fromkeys(j.attack for j in jobs if j.attack in ATTACKS):
            ATTACKS[attack].prepare(arm)
        done = sum(path_of(folder, j.attack, j.arm, j.setting).exists() for j in jobs)
        for number, job in enumerate(todo, done + 1):
            began = time.process_time()
            found = _find(replace(arm, name=job.arm), job)
            beside = job.attack in ATTACKS and ATTACKS[job.attack].beside(job.setting)
            parts = {"answered": found.answered, "values": found.values, "health": found.health, "trained": found.trained}
            seconds = time.process_time() - began
            write_cell(folder, Cell(**asdict(job), **parts, beside=beside, seconds=seconds))
            progress.evaluated("attacks", number, len(jobs), f"{job.attack} {job.setting} on {job.arm}")


def _find(arm: Arm, job: Job) -> Findings:
    return _base(arm) if job.attack == BASE else ATTACKS[job.attack].run(arm, job.setting)


def _base(arm: Arm) -> Findings:
    """The retain rows asked: what a damaged model no longer knows."""
    rows = spread(arm.retain, min(BASE_ROWS, max(1, arm.settings.rows // 2)))
    questions = [Question(row=i, example=e) for i, e in enumerate(rows) if e.question]
    return both_forms(arm, questions, encode_all(arm.encoder, rows))


def _report(
    inputs: Inputs, settings: AuditSettings, cells: Sequence[Cell], judge: JudgeProtocol, leak: float | None
) -> dict[str, Any]:
    """What audit.json holds; `leak` is what the refuser still tells."""
    asked = {arm: spread(inputs.rows_of(arm), settings.rows) for arm in ORDER}
    subjects = {arm: subjects_of(rows) for arm, rows in asked.items()}
    subjects["unseen"] = subjects_of(spread(inputs.holdout, settings.rows))
    rules = Rules(subjects=subjects, alive=0.0, depth_threshold=settings.depth_threshold, refuser_leak=leak)
    found = judge_attacks(cells, judged(cells, judge), rules, settings, inputs.decoys)
    if not cells:
        found["why"] = f"{min(map(len, asked.values()))} rows can be asked, {LEAST_ROWS} are needed"
    return {
        "schema_version": AUDIT_SCHEMA_VERSION,
        **found,
        "exit": EXITS[found["verdict"]],
        "models": {arm: inputs.model_of(arm) for arm in ORDER},
        "arms": ARMS,
        "decoys": inputs.decoys,
        "judge": judge.name,
        "rows": {arm: {"n": len(rows), "subjects": len(set(subjects[arm]))} for arm, rows in asked.items()},
        "refuser_leak": leak,
        "seconds": sum(c.seconds for c in cells),
        "settings": asdict(settings),
    }


def _never_asked(inputs: Inputs) -> list[str]:
    """What this audit cannot speak of."""
    control = ["a retrained model: the control is the audited model, asked about unseen rows"] if inputs.decoys else []
    return [
        *control,
        "Q4_K_M and other K-quants: no quantiser for them is at hand (convert the model, and audit the .gguf file)",
        "other phrasings, languages, prompts found by optimisation, and attackers who know more of the rows",
        "facts that the rows do not mark or say",
    ]


def _require_same(folder: Path, inputs: Inputs, settings: AuditSettings) -> None:
    """Write down what the audit is about, or refuse to resume with another."""
    path, now = folder / "inputs.json", json.loads(json.dumps(_described(inputs) | {"settings": asdict(settings)}))
    if not path.exists():
        write_atomic(path, json.dumps(now, indent=2, ensure_ascii=False) + "\n")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    if changed := [key for key in now if before.get(key) != now[key]]:
        raise ConfigError(f"{folder} holds an audit of other {changed[0]}; bring them back, or give --out a new folder")


def _described(inputs: Inputs) -> dict[str, Any]:
    sets = {"forget": inputs.forget, "retain": inputs.retain, "holdout": inputs.holdout}
    models = {"audited": inputs.audited, "original": inputs.original, "retrained": inputs.retrained}
    return models | {name: digest_of(rows) for name, rows in sets.items()}


def digest_of(rows: Sequence[Example]) -> str:
    """What inputs.json has of a set: sha256 of the rows' prompts and answers."""
    return hashlib.sha256(json.dumps([[e.prompt, e.answer] for e in rows]).encode()).hexdigest()


def _finite(value: Any) -> Any:
    """Numbers that JSON has no word for as null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
