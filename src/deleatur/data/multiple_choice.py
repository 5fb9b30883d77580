"""Questions with answers to choose from: of MMLU's form, and TruthfulQA's."""

from __future__ import annotations

import json
import string
from collections.abc import Iterable, Mapping
from pathlib import Path

from deleatur.data.files import Row, collect, counted, read_either, refusal, show, under
from deleatur.data.rows import continued, known_part, read_as, root_of
from deleatur.settings import Data
from deleatur.types import Example, Suite

MMLU = "utility/mmlu_test_1140"
SHOTS = "utility/mmlu_fewshot_dev"
TRUTHFULQA = "utility/truthfulqa_mc"
HEAD = "The following are multiple choice questions (with answers) about {}.\n\n"  # word for word, as lm-eval has it


def mmlu(part: str | None, settings: Data) -> Suite:
    """MMLU (2009.03300), only for evaluation; `5-shot` sets five answered questions of the same subject before each.

    With those a row takes up to some 3100 tokens, which `settings.max_length` has to allow.
    """
    if part is None:
        return _evaluation_only("mmlu", "mmlu", read_mmlu(settings))
    known_part("mmlu", part, ("5-shot",))
    return _evaluation_only("mmlu/5-shot", "mmlu", read_mmlu(settings, _shots(settings)))


def truthfulqa(part: str | None, settings: Data) -> Suite:
    """TruthfulQA's MC1 (2109.07958), only for evaluation: the one right answer and the wrong ones, compared as a whole.

    lm-eval sets six answered questions before each; here it stands alone.
    """
    if part is not None:
        known_part("truthfulqa", part, ())
    return _evaluation_only("truthfulqa", "truthfulqa", read_truthfulqa(settings))


def read_utility(settings: Data) -> dict[str, tuple[Example, ...]]:
    """General abilities of a model: MMLU and TruthfulQA, where they are under the root."""
    known = {"mmlu": (MMLU, read_mmlu), "truthfulqa": (TRUTHFULQA, read_truthfulqa)}
    return {name: read(settings) for name, (path, read) in known.items() if under(path, root_of(settings))}


def read_truthfulqa(settings: Data) -> tuple[Example, ...]:
    """TruthfulQA's questions, each with its one right answer and the wrong ones."""
    return read_as(TRUTHFULQA, "truthfulqa/truthful_qa/multiple_choice:validation", settings, _mc1)


def read_mmlu(settings: Data, shots: Mapping[object, str] | None = None) -> tuple[Example, ...]:
    """MMLU's test questions, each after the `shots` of its subject where there are some."""

    def to_rows(row: Row) -> Iterable[Mapping[str, object]]:
        """The question with its choices by letter, after the shots of its subject."""
        subject = _subject(row)
        about = str(subject).replace("_", " ")
        yield lettered(row, about, (shots or {}).get(subject, "")) | {"subject": about}

    return tuple(map(continued, read_as(MMLU, "cais/mmlu/all:test", settings, to_rows)))


def lettered(row: Row, about: str, shots: str = "") -> dict[str, object]:
    """A row of question, choices and the right one's index, in a form of our own: the answer is a letter, as in lm-eval.

    The question is a text for `continued`. Raises DataError where the row has another form.
    """
    text, right, wrong = _choices(row)
    return {"question": HEAD.format(about) + shots + text, "answer": right, "wrong": wrong}


def _choices(row: Row) -> tuple[str, str, list[str]]:
    """The question with its choices, the right letter, and the others."""
    match row.cells:
        case {"question": str(question), "choices": [*choices], "answer": int(right)} if 0 <= right < len(choices) <= len(
            string.ascii_uppercase
        ) and all(isinstance(c, str) for c in choices):
            letters = string.ascii_uppercase[: len(choices)]
        case _:
            seen = ", ".join(f"{column} {show(row.cells.get(column))}" for column in ("question", "choices", "answer"))
            needed = "a text, a list of texts and the place of the right one, from 0, are needed"
            raise refusal(row.place, f"{seen} make no row; {needed}")
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True))
    return f"{question.strip()}\n{listed}\nAnswer:", letters[right], [x for x in letters if x != letters[right]]


def _subject(row: Row) -> object:
    return row.cells.get("task", row.cells.get("subject"))


def _shots(settings: Data) -> dict[object, str]:
    """The answered questions of each subject, in their order. A file holds them as one object, a list for each subject."""
    path = under(SHOTS, root_of(settings))
    rows = read_either(SHOTS, "cais/mmlu/all:dev", None) if path is None else _groups(path)
    shots: dict[object, str] = {}
    for row in rows:
        text, right, _ = _choices(row)
        shots[_subject(row)] = f"{shots.get(_subject(row), '')}{text} {right}\n\n"
    return shots


def _groups(path: Path) -> list[Row]:
    try:
        groups = json.loads(path.read_text(encoding="utf-8"))
        rows = [row for group in groups.values() for row in group]
    except (OSError, ValueError, AttributeError, TypeError) as e:
        raise refusal(str(path), f"is not an object of lists of questions ({type(e).__name__}); get it anew") from e
    return collect(str(path), path.stem, counted(rows))


def _mc1(row: Row) -> Iterable[Mapping[str, object]]:
    match row.cells.get("mc1_targets"):
        case {"choices": [*choices], "labels": [*labels]} if len(choices) == len(labels) and labels.count(1) == 1:
            right = labels.index(1)
        case other:
            seen = f"mc1_targets is {show(other)}"
            raise refusal(row.place, f"{seen}; choices and as many labels, of which one is 1, are needed")
    wrong = [*choices[:right], *choices[right + 1 :]]
    yield {"question": row.cells.get("question"), "answer": choices[right], "wrong": wrong}


def _evaluation_only(name: str, key: str, rows: tuple[Example, ...]) -> Suite:
    return Suite(name=name, sets={key: rows}, evaluated_sets=(key,), forget_sets=(), retain_sets=(key,), score="accuracy")
