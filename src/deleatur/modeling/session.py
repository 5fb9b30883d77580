"""The objects that one command works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deleatur.data.encode import Encoder
from deleatur.modeling.start_pass import StartPass
from deleatur.modeling.token_model import TokenModel
from deleatur.progress import Progress
from deleatur.types import Encoded, Suite


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A model with the encoded rows of a suite."""

    model: TokenModel
    encoder: Encoder
    suite: Suite
    rows: Mapping[str, list[Encoded]]  # by set; forget and retain among them where it is trained on
    progress: Progress = Progress()
    folder: Path | None = None  # the run's, where finished work is kept; without one nothing is written
    notes: tuple[str, ...] = ()  # sentences on where its rows are from
    start: StartPass | None = None  # what the start model made of rows, where several trainings begin with it
