"""LUME: made-up stories and personal data, and real biographies (Ramakrishna et al., 2502.15097)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from deleatur.data.files import Row
from deleatur.data.rows import continued, known_part, read_as
from deleatur.settings import Data
from deleatur.types import Example, Suite

HUB = "llmunlearningsemeval2025organization/semeval25-unlearning-dataset-public"
SENTENCES = re.compile(r"sc\d*$")  # ends the id of a row whose output goes on with its input


def suite(part: str | None, settings: Data) -> Suite:
    """All tasks, or `1` stories, `2` personal data, `3` biographies.

    Rows of an id in scN are texts that go on, the others are questions. The whole is on GitHub (amazon-science/
    lume-llm-unlearning), to be laid under the root as `lume`; the hub has what SemEval-2025 task 4 gave for training.
    """
    task = None if part is None else f"Task{known_part('lume', part, ('1', '2', '3'))}"
    sets = {name: _read(name, task, settings) for name in ("forget", "retain")}
    name = "lume" if part is None else f"lume/{part}"
    return Suite(name=name, sets=sets, evaluated_sets=("forget", "retain"), score="rouge_l")


def _read(name: str, task: str | None, settings: Data) -> tuple[Example, ...]:
    def to_rows(row: Row) -> Iterable[Mapping[str, object]]:
        """The row, where it is of the task."""
        cells = row.cells
        if task is None or cells.get("task") == task:
            yield {"id": cells.get("id"), "question": cells.get("input"), "answer": cells.get("output")}

    examples = read_as(f"lume/{name}", f"{HUB}:{name}_train", settings, to_rows)
    return tuple(continued(e) if SENTENCES.search(e.id) else e for e in examples)
