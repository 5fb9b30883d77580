"""The run folder, the contract between the verbs: its files, written and read."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from deleatur.config.run_config import EVALUATION_FIELDS, Run, to_dict
from deleatur.distributed.processes import agree, is_first, size
from deleatur.errors import ConfigError, DataError
from deleatur.evaluation.aggregate import measure, measure_sets, quality
from deleatur.evaluation.metrics.agreement import agreement
from deleatur.evaluation.metrics.table import Evidence
from deleatur.importance.scorer import save_scorer
from deleatur.io.atomic import atomic_folder
from deleatur.io.lock import LOCK, folder_lock
from deleatur.modeling.loading import save
from deleatur.modeling.session import Session
from deleatur.progress import Step
from deleatur.protocols import Learns
from deleatur.run_folder.file_types import SCHEMA_VERSION, RunResults
from deleatur.run_folder.schema import (
    RecordLine,
    check_no_links,
    read_lines,
    read_row_hashes,
    write_json,
    write_lines,
    write_results,
)
from deleatur.run_folder.shapes import as_type, check_type
from deleatur.settings import Keep
from deleatur.types import Encoded, Example, Record, Suite

Records = dict[str, list[Record]]  # by set
BUDGET = 0.2  # share of tokens at which agreement is read where the importance has no budget of its own


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What unlearning returns: the model (changed in place), the scorer where the importance is learned, the evidence.

    `results` is what results.json holds, `records` maps "before" and "after" (and "retrained") to records by set, `steps`
    has one entry for each optimizer step.
    """

    model: PreTrainedModel
    scorer: nn.Module | None
    results: RunResults
    records: dict[str, Records]  # "before", "after", and "retrained" where there is such a model
    steps: tuple[Step, ...]


def free_folder(run: Run) -> Path:
    """The run's folder. Raises ConfigError where the given folder is not empty."""
    if run.out is not None:
        return check_empty(Path(run.out))
    name = re.sub(r"[^\w.-]+", "-", run.suite or Path(run.forget or "").stem).strip(".-")  # so that `..` leads nowhere
    base = Path("runs") / (name or "run")
    return next(p for n in range(1, 10**6) if not (p := base if n == 1 else base.with_name(f"{base.name}-{n}")).exists())


def check_empty(out: Path) -> Path:
    """The folder itself, where there is none yet, or nothing in it but a lock and what a kill cut off."""
    if out.exists() and (not out.is_dir() or any(p.name != LOCK and p.suffix != ".part" for p in out.iterdir())):
        raise ConfigError(f"{out} exists; give --out a new folder")
    return out


def unfinished_folder(out: Path) -> Path:
    """The folder of a run that was interrupted. Raises ConfigError where there is nothing to resume."""
    left = [name for name in ("checkpoints", LOCK) if (out / name).exists()]  # by a kill at the very end
    if has_results(out) and (out / "report.html").exists() and not left:
        raise ConfigError(f"the run in {out} is finished; there is nothing to resume")
    check_no_links(out)
    return out


@contextmanager
def claimed(out: Path, claim: Callable[[], object], *, resume: bool) -> Iterator[None]:
    """Holds the folder's lock; it is made, unless resumed, and the first process makes its claim."""
    if not resume and is_first():
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        out.chmod(0o700)  # the rows' text is for its owner alone, also where the folder was there
    with folder_lock(out) if is_first() else nullcontext():
        agree(claim)
        yield


def has_results(out: Path) -> bool:
    """Is all there but, perhaps, the report?"""
    return (out / "results.json").exists()


def check_same_rows(out: Path, rows: Mapping[str, list[Encoded]]) -> None:
    """Write down what the rows are, or where that is done, refuse rows that have changed since."""
    path, now = out / "data.json", {name: digest(encoded) for name, encoded in rows.items()}
    if not is_first():
        return
    if not path.exists():
        write_json(path, now)
        return
    then = read_row_hashes(path)
    if changed := [name for name, sha in now.items() if then.get(name) != sha]:
        raise ConfigError(f"the {changed[0]} rows are not those that {out} began with; restore them, or start a new run")


def check_space(model: PreTrainedModel, out: Path, keep: Keep | None) -> None:
    """Refuse to start what could not be saved: the model, and its checkpoints where all weights are kept in them."""
    home = next(p for p in (out, *out.absolute().parents) if p.exists())
    kept = 12 * (keep.newest + 1) if keep is not None and keep.every is not None else 0
    sizes = (
        p.numel() * (p.element_size() + kept if p.is_floating_point() else 4) for p in model.parameters()
    )  # NF4 in bf16
    needed = int(1.1 * sum(sizes)) + 10**7
    free = shutil.disk_usage(home).free
    if free < needed:
        raise ConfigError(
            f"{home} has {free / 1e9:.1f} GB left, the run needs {needed / 1e9:.1f} GB; free some, change --out, "
            "or keep no checkpoints (--keep.every None)"
        )
    if not os.access(home, os.W_OK):
        raise ConfigError(f"{home} cannot be written to; change --out")


def write_outcome(outcome: Outcome, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """Importance, model, scorer, and last of all the results. Every process has to call it, the first writes."""
    if is_first():
        write_importance(outcome, out)
    with atomic_folder(out / "model") if is_first() else nullcontext(out) as aside:
        save(outcome.model, tokenizer, aside)
    if is_first():
        if outcome.scorer is not None:
            save_scorer(outcome.scorer, out / "scorer.safetensors")
        write_results(out / "results.json", outcome.results)


def write_importance(outcome: Outcome, out: Path) -> None:
    """importance.jsonl: how much each token of the forget rows mattered, and the answers before and after."""
    before, after = (outcome.records[when]["forget"] for when in ("before", "after"))
    write_lines(out / "importance.jsonl", importance_lines(after, [r.generated for r in before]))


def write_records(path: Path, sets: dict[str, list[Record]]) -> None:
    """One line a record, with its set."""
    path.parent.mkdir(exist_ok=True)
    write_lines(path, ({"set": name, **asdict(r)} for name, records in sets.items() for r in records))


def read_records(path: Path) -> dict[str, list[Record]] | None:
    """What `write_records` wrote; None where nothing is."""
    if not path.exists():
        return None
    sets: dict[str, list[Record]] = {}
    for number, line in enumerate(read_lines(path, RecordLine, str(path)), 1):
        row: dict[str, Any] = dict(line)
        name = row.pop("set")
        check_type(row, Record, f"{path}, line {number},")
        try:
            sets.setdefault(name, []).append(as_type(row, Record))
        except (TypeError, ValueError, DataError) as e:
            raise DataError(f"{path} holds no record in line {number} ({e}); remove the file, or run again") from e
    return sets


def importance_lines(records: Sequence[Record], before: Sequence[str | None]) -> Iterator[dict[str, Any]]:
    """One line a row: its tokens with their characters, importance and truth, and the answer before and after."""
    for r, former in zip(records, before, strict=True):
        gold = r.gold or (None,) * len(r.offsets)
        tokens = [
            {"start": a, "end": b, "importance": i, "gold": g}
            for (a, b), i, g in zip(r.offsets, r.importance or (), gold, strict=True)
        ]
        row = {"id": r.id, "question": r.question, "answer": r.answer, "tokens": tokens}
        yield row | {"before": former, "after": r.generated}


def results_of(run: Run, session: Session, records: dict[str, Records], steps: Sequence[Step], judge: str) -> RunResults:
    """What results.json holds of a run that ended: figures before and after, settings, rows and cost."""
    suite, model = session.suite, session.model.lm
    budget = run.importance.budget if isinstance(run.importance, Learns) else BUDGET
    before, after = (measure(records[when], score=suite.score) for when in ("before", "after"))
    results = {
        "schema_version": SCHEMA_VERSION,
        "suite": {**_suite_of(suite), "judge": judge},
        "before": before,
        "after": after,
        "set_metrics": {when: set_metrics_of(suite, records, when) for when in ("before", "after")},
        **quality(before, after, metric=suite.score, forget_sets=suite.forget_sets, retain_sets=suite.retain_sets),
        "importance": agreement(records["after"]["forget"], budget=budget),
        "cost": cost_of(steps),
        "model": _model_of(run.model, model, run.train.precision),
        "data": _data_of(session, run.suite, run.sources),
        "run": to_dict(run),
    }
    return cast(RunResults, results)  # plain figures are dicts


def evaluation_of(run: Run, session: Session) -> dict[str, Any]:
    """What results.json of an evaluation holds besides its figures."""
    settings = {name: value for name, value in to_dict(run).items() if name in EVALUATION_FIELDS}
    return {
        "schema_version": SCHEMA_VERSION,
        "suite": _suite_of(session.suite),
        "model": _model_of(run.model, session.model.lm, run.evaluation.precision),
        "data": _data_of(session, run.suite, run.sources),
        "run": settings,
    }


def _suite_of(suite: Suite) -> dict[str, Any]:
    return {
        "name": suite.name,
        "forget_sets": [*suite.forget_sets],
        "retain_sets": [*suite.retain_sets],
        "score": suite.score,
    }


def _model_of(name: str, model: PreTrainedModel, precision: str) -> dict[str, Any]:
    parameters = sum(map(size, model.parameters()))
    return {"name": name, "class": type(model).__name__, "parameters": parameters, "precision": precision}


def _data_of(session: Session, suite: str | None, sources: Mapping[str, str | None]) -> dict[str, Any]:
    return {
        name: {
            "source": suite or sources[name] or "the model's own answers before training",
            "sha256": digest(encoded),
            "rows": len(encoded),
            "cut": sum(map(session.encoder.is_cut, encoded)),
            "tokens": sum(len(r.ids) - r.start for r in encoded),
        }
        for name, encoded in session.rows.items()
    }


def set_metrics_of(suite: Suite, records: dict[str, Records], when: str) -> dict[str, Any]:
    """The suite's set metrics, by name."""
    sets = {"forget_sets": suite.forget_sets, "retain_sets": suite.retain_sets}
    found = Evidence(records=records[when], retrained=records.get("retrained"), **sets)
    return measure_sets(found, suite.set_metrics)


def cost_of(steps: Sequence[Step]) -> dict[str, float | int]:
    """Seconds of the steps, the scorer's share of them, and the most memory held during them."""
    total = sum(s.seconds for s in steps)
    return {
        "seconds_per_step": statistics.median(s.seconds for s in steps),
        "cpu_seconds_per_step": statistics.median(s.cpu_seconds for s in steps),
        "peak_memory_bytes": max(s.memory for s in steps),
        "scorer_share": sum(s.scorer_seconds for s in steps) / total if total else 0.0,
        "steps": len(steps),
        "seconds": total,
    }


def digest(encoded: Sequence[Encoded]) -> str:
    """sha256 of the rows' content, whatever file form they came in."""
    return digest_rows([e.example for e in encoded])


def digest_rows(examples: Sequence[Example]) -> str:
    """The same of rows that are not encoded yet."""
    rows = [
        [e.prompt, e.answer, [[s.start, s.end, s.keep] for s in e.spans], *([e.paraphrases] if e.paraphrases else [])]
        for e in examples
    ]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()
