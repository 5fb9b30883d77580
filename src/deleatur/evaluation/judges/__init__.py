"""Does a generated answer reveal the fact? Judges, each with a name that is given with its numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from deleatur.evaluation.judges.contained import Contained
from deleatur.evaluation.judges.cosine import cosine
from deleatur.evaluation.judges.endpoint import endpoint
from deleatur.settings import Judge
from deleatur.types import Record


@runtime_checkable
class JudgeProtocol(Protocol):
    """One verdict a record, in order: how far it reveals the fact, in [0, 1]; None where nothing was generated."""

    @property
    def name(self) -> str:
        """The judge's name, which is given with its numbers."""
        ...

    def __call__(self, records: Sequence[Record]) -> list[float | None]: ...


JUDGES: dict[str, Callable[[Judge, Path | None], JudgeProtocol]] = {
    "contained": lambda settings, cache: Contained(),
    "cosine": lambda settings, cache: cosine(settings),
    "endpoint": endpoint,
}


def make_judge(settings: Judge, cache: Path | None = None) -> JudgeProtocol:
    """The judge that the settings name, ready: a model is loaded, an endpoint has answered. Raises ModelError otherwise.

    `cache` is a folder, the run's, in which an endpoint's verdicts are kept, so that none is requested twice.
    """
    return JUDGES[settings.kind](settings, cache)
