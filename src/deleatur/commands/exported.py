"""Models exported from a ledger's runs: the ledger has their folders, and later requests are checked in them too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from deleatur.commands.recheck import Checked, recheck
from deleatur.errors import DeleaturError
from deleatur.progress import Progress
from deleatur.run_folder.file_types import Request
from deleatur.run_folder.ledger import change_ledger, finished, place_in, place_of, read_ledger
from deleatur.settings import Evaluation
from deleatur.training.memory import release_memory


class ExportedFile(TypedDict):
    """A form of an exported model and what it knows of each request that is done; or why it was not checked."""

    model: str
    requests: list[Checked]
    unchecked: str | None


def files_of(folder: Path) -> dict[str, Path]:
    """The forms of the model in an exported folder, by file name: its safetensors, which load as the folder, and GGUF."""
    gguf = {path.name: path for path in sorted(folder.glob("*.gguf"))}
    return gguf if gguf and not any(folder.glob("*.safetensors")) else {"model.safetensors": folder} | gguf


def enter_export(ledger: Path, run: Path, folder: Path) -> None:
    """Enter an exported folder into the line of the request whose run it is from; into the newest where none is."""

    def change(requests: list[Request]) -> None:
        """Add the folder to one line, once."""
        own = [r for r in requests if r["run"] and place_of(ledger, r["run"]).resolve() == run.resolve()]
        for request in (own or finished(requests) or requests)[-1:]:
            request["exported"] = list(dict.fromkeys([*request.get("exported", []), place_in(ledger, folder)]))

    change_ledger(ledger, change)


def check_exported(ledger: Path, settings: Evaluation, progress: Progress) -> list[ExportedFile]:
    """What every exported file knows of every request that is done."""
    requests = read_ledger(ledger)
    done = [r for r in requests if r["state"] == "done"]
    if not done:
        return []
    folders = dict.fromkeys(place_of(ledger, place) for r in requests for place in r.get("exported", []))
    return [found for folder in folders for found in _check(folder, done, ledger, settings, progress)]


def _check(
    folder: Path, done: Sequence[Request], ledger: Path, settings: Evaluation, progress: Progress
) -> list[ExportedFile]:
    if not folder.is_dir():
        return [ExportedFile(model=str(folder), requests=[], unchecked="it is not there any more")]
    found: list[ExportedFile] = []
    for name, path in files_of(folder).items():
        progress.phase(f"Checking {len(done)} requests in {folder / name}")
        try:
            checked, unchecked = recheck(str(path), done, ledger, settings, progress)[0], None
        except DeleaturError as e:
            checked, unchecked = [], str(e)
        release_memory()
        found.append(ExportedFile(model=str(folder / name), requests=checked, unchecked=unchecked))
    return found
