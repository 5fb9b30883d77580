"""A finished run as a model for others: safetensors with a model card, and GGUF, pushed to the hub on request."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from deleatur import __version__
from deleatur.commands.options import Export
from deleatur.commands.standing import standing_of
from deleatur.errors import ConfigError, ModelError, why
from deleatur.io.atomic import atomic_folder
from deleatur.io.lock import try_lock
from deleatur.modeling.checks import check_finite
from deleatur.modeling.gguf import plan_gguf, write_gguf
from deleatur.modeling.loading import load, save
from deleatur.progress import Progress
from deleatur.report.card import model_card
from deleatur.run_folder.schema import read_folder

HUB = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def export(command: Export, progress: Progress = Progress()) -> Path:
    """Write a finished run's model to a new folder, atomically; returns the folder.

    Adapters are merged. Nothing is in the folder of what the rows say, unless they are to be named. Raises DeleaturError
    where the run is not finished, the folder holds something, GGUF has no place for the model, the hub does not take it, or
    a ledger of requests is against it, which each written form of the model is checked by.
    """
    run, dest = Path(command.run), Path(command.dest)
    check_free(dest)
    if command.push is not None and not HUB.fullmatch(command.push):
        raise ConfigError(f"--push is {command.push!r}, but must be owner/name")
    found = read_folder(run)
    standing = standing_of(command, run)
    standing.require(standing.lacks, progress)
    base = found.results["model"]["name"]
    model, tokenizer = load(str(run / "model"), precision=found.results["model"].get("precision", "fp32"))
    check_finite(model, ModelError, str(run / "model"))
    plan = plan_gguf(model, tokenizer) if command.gguf else None
    licence = command.license or licence_of(base)
    progress.phase(f"Writing {dest}")
    with alone(dest), atomic_folder(dest) as part:
        save(model, tokenizer, part)
        if plan is not None:
            write_gguf(plan, model, tokenizer, part / "model.gguf", licence=licence)
        lines = standing.check(part, progress)
        card = model_card(found, version=__version__, licence=licence, named=command.name_rows, requests=lines)
        (part / "README.md").write_text(card, encoding="utf-8")
        standing.enter(run, dest)  # before the folder is there: what others may get is in the ledger
    if command.push is not None:
        progress.phase(f"Pushing {dest} to {command.push}")
        push(dest, command.push)
    return dest


def check_free(dest: Path) -> None:
    """Refuse a place where something is."""
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise ConfigError(f"{dest} exists; give another folder")


@contextmanager
def alone(dest: Path) -> Iterator[None]:
    """Hold the place of a new folder, so that two exports never mix their files. Raises ConfigError where another has it."""
    dest.parent.mkdir(parents=True, exist_ok=True)
    with try_lock(dest.with_name(f"{dest.name}.lock")) as acquired:
        if not acquired:
            raise ConfigError(f"another export is writing {dest}; let it end, or give another folder")
        check_free(dest)  # another may have ended meanwhile
        yield


def push(folder: Path, name: str) -> None:
    """Put a folder's files on the hub as the model `name`, made private where it is new, with the user's own login."""
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Export of a deleatur run")
    except Exception as e:  # the hub and the network behind it each raise what they like
        raise ConfigError(
            f"{folder} was written, but not uploaded to {name} ({why(e)}); try: hf upload {name} {folder}"
        ) from e


def licence_of(base: str) -> str | None:
    """The base model's licence from the card next to it or in the hub's cache, without network; None where there is none."""
    from huggingface_hub import try_to_load_from_cache

    place = Path(base) / "README.md"
    if not place.is_file():
        cached = try_to_load_from_cache(base, "README.md") if HUB.fullmatch(base) else None
        place = Path(cached) if isinstance(cached, str) else None
    text = "" if place is None else place.read_text(encoding="utf-8", errors="replace")
    head = re.match(r"---\s*\n(.*?\n)---\s*$", text, re.S | re.M)
    try:
        found = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError:
        return None
    licence = found.get("license") if isinstance(found, dict) else None
    return licence if isinstance(licence, str) else None
