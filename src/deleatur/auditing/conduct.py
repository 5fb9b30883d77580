"""An audit from its inputs to its report: every attack on every arm, cell by cell, then what they say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deleatur.auditing.arms import ARMS, AUDITED, ORIGINAL, Inputs, has_other_template, refuser_leak, subjects_of
from deleatur.auditing.cells import Cell, path_of, read_cell
from deleatur.auditing.controls import check_same, take_controls
from deleatur.auditing.exchange import FEW
from deleatur.auditing.judgement import judge_attacks
from deleatur.auditing.scoring import Rules, judged
from deleatur.auditing.settings import K_QUANT, AuditSettings
from deleatur.auditing.verdicts import EXITS, MIN_ROWS
from deleatur.auditing.work import ORDER, Work, has_enough_rows, plan
from deleatur.data.spacing import evenly_spaced
from deleatur.evaluation.judges import JudgeProtocol
from deleatur.io.lock import wait_lock
from deleatur.modeling.loading import load_tokenizer
from deleatur.progress import Progress
from deleatur.run_folder.file_types import AUDIT_SCHEMA_VERSION
from deleatur.run_folder.schema import write_json

WEAK = 0.25  # share of facts: below, an attack's setting has no power


def conduct(
    inputs: Inputs,
    settings: AuditSettings,
    folder: Path,
    judge: JudgeProtocol,
    progress: Progress = Progress(),
    controls: Path | None = None,
) -> dict[str, Any]:
    """Make every attack that the inputs allow, and write audit.json; cells that are there are not made again.

    Several processes may work in one folder. What `controls`, the folder of another audit, holds of arms that do not depend
    on the audited model is taken from there. With fewer than MIN_ROWS rows no attack is made: the audit is void. Raises
    ConfigError where a folder holds another audit.
    """
    with wait_lock(folder / "inputs.lock"):
        check_same(folder, inputs, settings)
    jobs, left_out = plan(inputs, settings)
    if not has_enough_rows(inputs, settings):
        jobs = []
    work = Work(inputs=inputs, settings=settings, folder=folder, jobs=jobs, progress=progress)
    if controls is not None:
        with wait_lock(folder / "inputs.lock"):
            take_controls(controls, work)
    work.finish()
    with wait_lock(folder / "report.lock"):
        cells = [read_cell(path_of(folder, j.attack, j.arm, j.setting)) for j in jobs]
        report = _report(inputs, settings, cells, judge, refuser_leak(folder))
        templates = _templates(inputs) if cells else []
        report["not_evaluated"] = left_out + templates + _without_power(report) + _limitations(inputs, settings)
        write_json(folder / "audit.json", _finite(report))
        return report


def _report(
    inputs: Inputs, settings: AuditSettings, cells: Sequence[Cell], judge: JudgeProtocol, leak: float | None
) -> dict[str, Any]:
    """What audit.json holds; `leak` is the share of facts that the refuser still reveals."""
    attacked = {arm: evenly_spaced(inputs.rows_of(arm), settings.rows) for arm in ORDER}
    subjects = {arm: subjects_of(rows) for arm, rows in attacked.items()}
    subjects["unseen"] = subjects_of(evenly_spaced(inputs.holdout, settings.rows))
    rules = Rules(subjects=subjects, max_retain_nll=0.0, depth_threshold=settings.depth_threshold, refuser_leak=leak)
    found = judge_attacks(cells, judged(cells, judge), rules, settings, inputs.decoys)
    if not cells:
        found["why"] = f"{min(map(len, attacked.values()))} rows are available, {MIN_ROWS} are needed"
    return {
        "schema_version": AUDIT_SCHEMA_VERSION,
        **found,
        "exit": EXITS[found["verdict"]],
        "models": {arm: inputs.model_of(arm) for arm in ORDER},
        "arms": ARMS,
        "decoys": inputs.decoys,
        "judge": judge.name,
        "rows": {arm: {"n": len(rows), "subjects": len(set(subjects[arm]))} for arm, rows in attacked.items()},
        "refuser_leak": leak,
        "seconds": sum(c.seconds for c in cells),
        "settings": asdict(settings) | {"precision": settings.products},
    }


def _without_power(report: Mapping[str, Any]) -> list[str]:
    """Settings in which the original itself reveals little, so that silence there says nothing; few subjects."""
    weak = [
        f"{name} {setting}"
        for name, found in report["attacks"].items()
        if found["kind"] == "rate"
        for setting, value in (found["arms"].get(ORIGINAL) or {"settings": {}})["settings"].items()
        if value is not None and value < WEAK
    ]
    subjects = report["rows"][AUDITED]["subjects"]
    return [
        *([f"no power, since the original reveals less than {100 * WEAK:.0f} % there: {', '.join(weak)}"] if weak else []),
        *([f"more than {subjects} subjects: rows of one may come back together"] if subjects < FEW else []),
    ]


def _templates(inputs: Inputs) -> list[str]:
    """Chat templates in which no model is asked."""
    models, original = [m for m in (inputs.audited, inputs.retrained) if m is not None], load_tokenizer(inputs.original)
    others = [m for m in models if has_other_template(load_tokenizer(m), original)]
    return [f"the chat template of {m}: every model is asked in that of the original" for m in others]


def _limitations(inputs: Inputs, settings: AuditSettings) -> list[str]:
    """What this audit does not cover."""
    control = ["a retrained model: the control is the audited model, evaluated on unseen rows"] if inputs.decoys else []
    return [
        *control,
        *(
            ["marked values: not all forget and unseen rows have them (`spans`), so whole answers count"]
            if inputs.unmarked
            else []
        ),
        *(["Q4_K_M: not requested (--audit.formats … q4_k_m)"] if K_QUANT not in settings.formats else []),
        *_reductions(inputs, settings),
        "other phrasings, languages, prompts found by optimisation, and attackers who know more of the rows",
        "facts that the rows do not mark or say",
    ]


def _reductions(inputs: Inputs, settings: AuditSettings) -> list[str]:
    """What the settings leave out of a whole audit."""
    whole, out = AuditSettings(), []
    for name in ("ways", "formats", "benign_steps", "half_lrs", "strengths"):
        if left := [f"{value:g}" if isinstance(value, float) else str(value) for value in _left(name, whole, settings)]:
            out.append(f"{name.replace('_', ' ')}: {', '.join(left)}")
    if settings.samples < whole.samples:
        out.append(f"samples: {whole.samples - settings.samples} of {whole.samples} to each question")
    if (rows := len(inputs.forget)) > settings.rows:
        out.append(f"forget rows: {rows - settings.rows} of {rows}, the others are spread evenly")
    return out


def _left(name: str, whole: AuditSettings, settings: AuditSettings) -> list[Any]:
    return [value for value in getattr(whole, name) if value not in getattr(settings, name)]


def _finite(value: Any) -> Any:
    """Numbers that JSON cannot represent become null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
