"""`deleatur audit`: what is audited and by which rows, then the audit in a folder of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from deleatur.auditing.arms import Inputs
from deleatur.auditing.conduct import conduct
from deleatur.auditing.controls import each_once
from deleatur.auditing.settings import K_QUANT, AuditSettings, quick
from deleatur.auditing.work import BASE, plan
from deleatur.commands.inputs import suite_of
from deleatur.commands.options import Audit
from deleatur.config.run_config import Run
from deleatur.data.files import NoRows
from deleatur.errors import ConfigError, resume_hint
from deleatur.evaluation.judges import make_judge
from deleatur.io.lock import wait_lock
from deleatur.modeling.llama_cpp import check_tool
from deleatur.modeling.loading import check_files
from deleatur.modeling.patches import exact_matmul, matmul_precision_restored
from deleatur.progress import Progress
from deleatur.report.audit_page import write_audit_page
from deleatur.run_folder.schema import check_no_links
from deleatur.settings import Judge
from deleatur.types import Example


def audit(
    run: Run,
    *,
    original: str | Path,
    folder: str | Path,
    retrained: str | Path | None = None,
    settings: AuditSettings = AuditSettings(),
    progress: Progress = Progress(),
) -> dict[str, Any]:
    """Attack an unlearned model to see whether the forgotten rows come back: `deleatur audit` from Python.

    The same attacks are made on `original`, on the model under audit, on one that never saw the rows, and on the original
    taught to refuse, so that each attack is shown to find a leak where there is one, and none where there is none. Calling
    it again with the same arguments resumes; several processes may work in one folder.

    Args:
        run: `model` (a name on the hub, a folder, a .gguf file, or the folder of a run), its rows or `suite`, `data` and
            `judge` are read, the other fields are not. At least 10 forget rows are needed.
        original: The model before unlearning: name, folder or .gguf file.
        folder: Folder of the audit, made where it is missing and readable by its owner alone; it gets `audit.json`, the
            page `audit.html`, and a file for each attack, model and setting.
        retrained: Model never trained on the forget rows. Without one, the audited model is evaluated on the holdout rows
            of `run` instead, which then must be there.
        settings: Which attacks are made and how large they are; `deleatur.auditing.quick(settings)` takes minutes.
        progress: Callbacks for phases.

    Returns:
        What audit.json holds: `verdict` ("CLEAR", "LEAK", "VOID" or "INCONCLUSIVE"), `why`, `exit` (the command's exit
        code), `attacks` (name → verdict, reason and success rate by model), `models`, `rows` and `settings`.

    Raises:
        DataError: A row cannot be used.
        ConfigError: A setting is wrong, there is neither a retrained model nor holdout rows, or `folder` holds another
            audit or other files.
        ModelError: A model cannot be used.
        Interrupted: SIGINT or SIGTERM; the same call resumes.

    Examples:
        >>> import deleatur
        >>> from deleatur.auditing import AuditSettings
        >>> from deleatur.config import Run
        >>> run = Run(model="unlearned", forget="forget.jsonl", retain="retain.jsonl", holdout="holdout.jsonl")
        >>> report = deleatur.audit(run, original="tiny", folder="audit", settings=AuditSettings(attacks=("ask",)))
        >>> report["verdict"], report["why"]
        ('VOID', '6 rows are available, 10 are needed')
    """
    target = Path(folder)
    inputs = _inputs(run, str(original), None if retrained is None else str(retrained))
    report = _run_audit(inputs, settings, target, run.judge, progress)
    with wait_lock(target / "report.lock"):
        write_audit_page(target)
    return report


def audit_command(command: Audit, progress: Progress = Progress()) -> tuple[dict[str, Any], Path]:
    """Carry out the command; returns what audit.json holds, and the path of the page. Raises as `audit`."""
    if command.original is None:
        if not Path(command.model).exists():
            raise ConfigError(f"no run at {command.model}; if that is a model on the hub, give its original as --original")
        raise ConfigError("an audit compares with the model as it was before; give it as --original")
    run = Run(
        model=command.model,
        forget=command.forget,
        retain=command.retain,
        holdout=command.holdout,
        suite=command.suite,
        data=command.data,
        judge=command.judge,
    )
    inputs = _inputs(run, command.original, command.retrained)
    settings = quick(command.audit) if command.quick else command.audit
    name = re.sub(r"[^\w.-]+", "-", Path(command.model).name).strip(".-") or "model"
    folder = Path(command.out or f"runs/audit-{name}")
    controls = None if command.controls is None else Path(command.controls)
    report = _run_audit(inputs, settings, folder, command.judge, progress, controls)
    with wait_lock(folder / "report.lock"):
        return report, write_audit_page(folder, redacted=command.redact)


def _run_audit(
    inputs: Inputs, settings: AuditSettings, folder: Path, judge: Judge, progress: Progress, controls: Path | None = None
) -> dict[str, Any]:
    if K_QUANT in settings.formats:
        check_tool()
    jobs, left_out = plan(inputs, settings)
    if all(job.attack == BASE for job in jobs):
        raise ConfigError(f"no attack can be made; {left_out[0]}")
    for model in dict.fromkeys(filter(None, (inputs.audited, inputs.original, inputs.retrained))):
        check_files(model)  # what cannot be used is found before anything is computed
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (folder / "inputs.json").exists() and any(p.suffix not in (".part", ".lock") for p in folder.iterdir()):
        raise ConfigError(f"{folder} exists and is not an audit folder; give --out a new folder")
    folder.chmod(0o700)  # rows and answers are for its owner alone
    check_no_links(folder)
    with matmul_precision_restored(), resume_hint("the same command"):
        exact_matmul()
        return conduct(inputs, settings, folder, make_judge(judge, folder), progress, controls)


def _inputs(run: Run, original: str, retrained: str | None) -> Inputs:
    """The models and rows. Raises ConfigError where a control is missing."""
    path = Path(run.model)
    audited = path / "model" if (path / "run.yaml").is_file() else path
    sets = _sets(run)
    if retrained is None and sets is not None and not sets.get("holdout"):
        raise ConfigError(
            "an audit needs what was never trained on: rows as --holdout, or a model without the rows as --retrained"
        )
    parts = {name: () if sets is None else sets.get(name, ()) for name in ("forget", "retain", "holdout")}
    if sets is not None and len(parts["retain"]) < 2:
        raise ConfigError("an audit needs 2 rows to keep or more, as --retain: they show what an attack damages")
    return Inputs(
        audited=str(audited) if audited.exists() else run.model,
        original=original,
        retrained=retrained,
        data=run.data,
        **parts,
    )


def _sets(run: Run) -> dict[str, tuple[Example, ...]] | None:
    """The rows by set; None where a source is empty, so that the audit is void and no error."""
    try:
        sets = suite_of(run).sets
        return {name: each_once(rows) for name, rows in sets.items()}
    except NoRows:
        return None
