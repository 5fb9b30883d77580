"""A run folder's content without the rows' texts: numbers, hashes, and importance by token as blank blocks."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from deleatur.run_folder.file_types import RunResults
from deleatur.run_folder.schema import Folder

BLOCK = "■■"
WITHHELD = "withheld"
NAMING = (
    "forget",
    "retain",
    "holdout",
    "held",
    "subject",
    "suite",
    "out",
    "data.root",
    "data.system_prompt",
)  # settings whose value may name who is forgotten


def redact(folder: Folder) -> Folder:
    """The same figures. A row keeps its tokens' importance and not their length; its id becomes its number.

    Sources of rows go by their SHA-256, which `data` has; a model in a folder goes by the folder's last name.
    """
    return replace(
        folder,
        name=_hash(folder.results["data"].get("forget")),
        results=redact_results(folder.results),
        importance=[_blocks(row, number) for number, row in enumerate(folder.importance, 1)],
        before=[_record(row) for row in folder.before],
        after=[_record(row) for row in folder.after],
    )


def _hash(data: Mapping[str, Any] | None) -> str:
    return str((data or {}).get("sha256", WITHHELD))[:12]


def redact_results(results: RunResults) -> RunResults:
    """What results.json holds, without what may name who is forgotten."""
    data = {name: part and part | {"source": WITHHELD} for name, part in results["data"].items()}
    model = results["model"] | {"name": place_last(results["model"]["name"])}
    return cast(RunResults, {**results, "data": data, "model": model, "run": _settings(results["run"])})


def _settings(run: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in run.items():
        if isinstance(value, dict):
            out[key] = _settings(value, f"{prefix}{key}.")
        elif prefix + key in NAMING and value:
            out[key] = WITHHELD
        else:
            out[key] = place_last(value) if isinstance(value, str) else value
    return out


def place_last(name: str) -> str:
    """A path by its last part; a name on the hub, and any other text, as it is."""
    is_path = name.startswith((".", "/", "~")) or (name.count("/") > 1 and "://" not in name)
    return Path(name).name if is_path else name


def _blocks(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    """One block for each token that has characters."""
    words = [t for t in row["tokens"] if t["start"] < t["end"]]
    ends = [t for t in row["tokens"] if t["start"] == t["end"] == len(row["answer"])]
    answer, step = " ".join([BLOCK] * len(words)), len(BLOCK) + 1
    tokens = [t | {"start": k * step, "end": k * step + len(BLOCK)} for k, t in enumerate(words)]
    tokens += [t | {"start": len(answer), "end": len(answer)} for t in ends]
    return {"id": str(number), "question": "", "answer": answer, "before": "", "after": "", "tokens": tokens}


def _record(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "id": "", "question": "", "answer": "", "generated": ""}
