"""The inputs of an audit, saved once, and the controls that another audit may reuse."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from deleatur.auditing.arms import AUDITED, CONTROL, REFUSER_FILES, Inputs
from deleatur.auditing.attacks import ATTACKS
from deleatur.auditing.cells import path_of
from deleatur.auditing.settings import AuditSettings
from deleatur.auditing.work import Job, Work, has_enough_rows, plan
from deleatur.errors import ConfigError, DataError
from deleatur.io.atomic import atomic_file
from deleatur.io.lock import wait_lock
from deleatur.progress import Progress
from deleatur.run_folder.file_types import AuditInputs
from deleatur.run_folder.schema import read_json, write_json
from deleatur.types import Example

NAME = "inputs.json"


def check_same(folder: Path, inputs: Inputs, settings: AuditSettings) -> None:
    """Save the audit's inputs, or refuse to resume with other ones."""
    path, now = folder / NAME, _described(inputs, settings)
    if now.get("retrained_weights", "") == now.get("audited_weights") or inputs.retrained == inputs.audited:
        raise ConfigError("--retrained is the audited model itself, which shows nothing; give one without the rows")
    if not path.exists():
        write_json(path, now)
        return
    if changed := _changed(read_json(path, AuditInputs), now):
        raise ConfigError(
            f"{folder} holds an audit of other {changed[0].replace('_', ' ')}; use the same, or give --out a new folder"
        )


def make_controls(inputs: Inputs, settings: AuditSettings, folder: Path, progress: Progress = Progress()) -> None:
    """The arms that do not depend on the audited model, for other audits to reuse."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    inputs = replace(inputs, audited="")
    with wait_lock(folder / "inputs.lock"):
        check_same(folder, inputs, settings)
    jobs = [job for job in plan(inputs, settings)[0] if _is_control(job, inputs)]
    if has_enough_rows(inputs, settings):
        Work(inputs=inputs, settings=settings, folder=folder, jobs=jobs, progress=progress).finish()


def take_controls(source: Path, work: Work) -> None:
    """Copy another audit's results on the arms that do not depend on the audited model.

    Raises ConfigError where that audit had another original or retrained model, other rows or settings.
    """
    try:
        other = read_json(source / NAME, AuditInputs)
    except DataError as e:
        raise ConfigError(f"{source} is not an audit folder ({e}); give --controls the folder of one") from e
    current = _described(work.inputs, work.settings)
    if changed := [key for key in _changed(other, current) if not key.startswith("audited")]:
        raise ConfigError(f"{source} is an audit of other {changed[0].replace('_', ' ')}; its controls say nothing here")
    kept = [job for job in work.jobs if _is_control(job, work.inputs)]
    arms = dict.fromkeys(job.arm for job in kept)
    files = [file for attack in ATTACKS.values() for arm in arms if (file := attack.prepared(arm))]
    cells = [path_of(source, job.attack, job.arm, job.setting) for job in kept]
    (work.folder / "cells").mkdir(exist_ok=True)
    for path in (*(source / name for name in dict.fromkeys((*files, *REFUSER_FILES))), *cells):
        target = work.folder / path.relative_to(source)
        if path.exists() and not target.exists():
            with atomic_file(target) as part:
                shutil.copyfile(path, part)


def _is_control(job: Job, inputs: Inputs) -> bool:
    """Is it the same for every audited model? Decoys are evaluated on the audited model."""
    return job.arm != AUDITED and not (job.arm == CONTROL and inputs.decoys)


def each_once(rows: Sequence[Example]) -> tuple[Example, ...]:
    """The rows without repetitions, which would count as further evidence."""
    return tuple({(e.prompt, e.answer): e for e in rows}.values())


def digest_of(rows: Sequence[Example]) -> str:
    """What inputs.json has of a set: sha256 of all that an attack reads of its rows."""
    content = [
        [e.prompt, e.answer, e.paraphrases, [[s.start, s.end, s.keep] for s in e.spans], e.subject, e.wrong, e.alternates]
        for e in each_once(rows)
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def weights_of(model: str, suffixes: Sequence[str] = (".safetensors", ".bin")) -> str | None:
    """sha256 of a model's weights on this disk; None where there are none, such as of a name on the hub."""
    place = Path(model)
    files = [place] if place.is_file() else sorted(p for p in place.glob("*") if p.suffix in suffixes)
    digests = []
    for path in files:
        with path.open("rb") as f:
            digests.append(hashlib.file_digest(f, "sha256").hexdigest())
    return hashlib.sha256("".join(digests).encode()).hexdigest() if digests else None


def _rest_of(model: str) -> str | None:
    """sha256 of what else of a model's folder decides its answers: settings, tokenizer, chat template, an adapter's base."""
    base = _base_of(Path(model))
    parts = (weights_of(model, (".json", ".jinja", ".model")), *((weights_of(base), _rest_of(base)) if base else ()))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest() if any(parts) else None


def _base_of(folder: Path) -> str | None:
    """The model that an adapter is on."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    return base if isinstance(base, str) and Path(base).resolve() != folder.resolve() else None


def _described(inputs: Inputs, settings: AuditSettings) -> dict[str, Any]:
    sets = {"forget": inputs.forget, "retain": inputs.retain, "holdout": inputs.holdout}
    models = {"audited": inputs.audited, "original": inputs.original, "retrained": inputs.retrained}
    hashes = {name: digest_of(rows) for name, rows in sets.items()}
    found = {f"{name}_weights": weights_of(model) for name, model in models.items() if model}
    found |= {f"{name}_files": _rest_of(model) for name, model in models.items() if model}
    weights = {name: value for name, value in found.items() if value is not None}
    how = {"settings": asdict(settings) | {"precision": settings.products}, "encoding": asdict(inputs.data) | {"root": None}}
    return json.loads(json.dumps(models | hashes | how | weights))


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What an audit was of other values of; weights and files only where both have them, as not on the hub."""
    return [key for key in now if before.get(key, now[key] if key.endswith(("_weights", "_files")) else None) != now[key]]
