"""`deleatur audit`: what is audited and by which rows, then the audit in a folder of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from deleatur.audit.arms import Inputs
from deleatur.audit.conduct import conduct
from deleatur.audit.settings import quick
from deleatur.commands.inputs import suite_of
from deleatur.commands.options import Audit
from deleatur.config.run_config import Run
from deleatur.data.files import NoRows
from deleatur.errors import ConfigError, resume_hint
from deleatur.evaluation.judges import make_judge
from deleatur.io.lock import wait_lock
from deleatur.modeling.patches import exact_matmul
from deleatur.progress import Progress
from deleatur.report.audit_page import write_audit_page
from deleatur.run_folder.schema import require_no_links
from deleatur.types import Example


def audit(command: Audit, progress: Progress = Progress()) -> tuple[dict[str, Any], Path]:
    """Audit a model, or resume an audit: `deleatur audit` from Python.

    Returns:
        What audit.json holds, and the path of the page.

    Raises:
        DataError, ConfigError, ModelError: A row, a setting, a model or the folder cannot be used.
        Interrupted: SIGINT or SIGTERM; the same command goes on.
    """
    inputs = _inputs(command)
    settings = quick(command.audit) if command.quick else command.audit
    name = re.sub(r"[^\w.-]+", "-", Path(command.model).name).strip(".-") or "model"
    folder = Path(command.out or f"runs/audit-{name}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (folder / "inputs.json").exists() and any(p.suffix not in (".part", ".lock") for p in folder.iterdir()):
        raise ConfigError(f"{folder} exists and is no audit; give --out a new folder")
    folder.chmod(0o700)  # rows and answers are for its owner alone
    require_no_links(folder)
    exact_matmul()
    controls = None if command.controls is None else Path(command.controls)
    with resume_hint("the same command"):
        report = conduct(inputs, settings, folder, make_judge(command.judge, folder), progress, controls)
        with wait_lock(folder / "report.lock"):
            return report, write_audit_page(folder, redacted=command.redact)


def _inputs(command: Audit) -> Inputs:
    """The models and rows. Raises ConfigError where a control is missing."""
    path = Path(command.model)
    audited = path / "model" if (path / "run.yaml").is_file() else path
    if command.original is None:
        raise ConfigError("an audit compares with the model as it was before; give it as --original")
    sets = _sets(command)
    if command.retrained is None and sets is not None and not sets.get("holdout"):
        raise ConfigError(
            "an audit needs what was never trained on: rows as --holdout, or a model without the rows as --retrained"
        )
    parts = {name: () if sets is None else sets.get(name, ()) for name in ("forget", "retain", "holdout")}
    return Inputs(
        audited=str(audited) if audited.exists() else command.model,
        original=command.original,
        retrained=command.retrained,
        data=command.data,
        **parts,
    )


def _sets(command: Audit) -> dict[str, tuple[Example, ...]] | None:
    """The rows by set; None where a source is empty, so that the audit is void and no error."""
    run = Run(
        model=command.model,
        forget=command.forget,
        retain=command.retain,
        holdout=command.holdout,
        suite=command.suite,
        data=command.data,
        judge=command.judge,
    )
    try:
        return dict(suite_of(run).sets)
    except NoRows:
        return None
