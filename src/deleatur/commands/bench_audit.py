"""`deleatur bench --audit`: the model of every run is audited by the quick rules, against controls that all share."""

from __future__ import annotations

import shutil
from pathlib import Path

from deleatur.auditing.arms import Inputs
from deleatur.auditing.conduct import conduct
from deleatur.auditing.controls import each_once, make_controls
from deleatur.auditing.settings import AuditSettings, quick
from deleatur.config.run_config import Run
from deleatur.errors import ConfigError
from deleatur.evaluation.judges import make_judge
from deleatur.io.atomic import atomic_folder
from deleatur.modeling.loading import save
from deleatur.modeling.session import Session
from deleatur.progress import Progress
from deleatur.report.audit_page import write_audit_page
from deleatur.types import Suite

CONTROLS = "audit-controls"


def check_controls(suite: Suite, retrained: str | None) -> None:
    """Refuse rows on which an audit has no control."""
    if retrained is None and not suite.sets.get("holdout"):
        raise ConfigError("--audit needs unseen rows as --holdout, or a model without the rows as --evaluation.retrained")


def keep_model(session: Session, folder: Path) -> None:
    """The run's model as it is now, until it is audited."""
    with atomic_folder(folder / "model") as part:
        save(session.model.lm, session.encoder.tokenizer, part)


def audit_run(base: Run, suite: Suite, folder: Path, progress: Progress) -> None:
    """Audit the model of a finished run into `audit/` in its folder; after that it is not kept.

    Raises ConfigError where the run was made without --audit, so that its model is gone.
    """
    model, out = folder / "model", folder / "audit"
    if (out / "audit.html").exists():
        shutil.rmtree(model, ignore_errors=True)
        return
    if not model.exists():
        raise ConfigError(
            f"{folder} was run without --audit and its model is gone; remove {folder}, or give --out a new folder"
        )
    sets = {name: each_once(suite.sets.get(name, ())) for name in ("forget", "retain", "holdout")}
    retrained, settings = base.evaluation.retrained, quick(AuditSettings())
    inputs = Inputs(audited=str(model), original=base.model, retrained=retrained, data=base.data, **sets)
    controls = folder.parent.parent / CONTROLS
    progress.phase("Arms that all audits share")
    make_controls(inputs, settings, controls, progress)
    out.mkdir(mode=0o700, exist_ok=True)
    conduct(inputs, settings, out, make_judge(base.judge, folder), progress, controls)
    write_audit_page(out)
    shutil.rmtree(model)
