"""What an attack is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from deleatur.auditing.arms import Arm
from deleatur.auditing.asking import Question, cloze
from deleatur.auditing.cells import Answered, Value
from deleatur.auditing.settings import AuditSettings
from deleatur.types import Encoded


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What a setting of an attack found on one arm."""

    answered: tuple[Answered, ...] = ()
    values: Mapping[str, tuple[Value, ...]] | None = None
    trained: tuple[float, float] | None = None
    retain_nll: float | None = None  # measured while the model was changed


@dataclass(frozen=True, kw_only=True, slots=True)
class Attack:
    """An attack: its settings, and what each finds on an arm.

    `run` takes the settings that are wanted, in their order, and yields each with what it found. `kind` says what its
    numbers are: rates of leaking rows, AUC of familiarity, or places on a scale from control to original. `needs` names
    what must be given: "holdout", "retrained". Where `exposes` holds, it works on models that stay silent, and has to
    detect the refuser. `prepare` writes what the attack needs of an arm, on whichever arm it is made: the file that
    `prepared` names. With `on_original` the settings of every arm run inside the original model, under the arm's name.
    """

    asks: str  # what is asked, in a sentence
    source: str
    settings: Callable[[AuditSettings], tuple[str, ...]]
    run: Callable[[Arm, Sequence[str]], Iterator[tuple[str, Findings]]]
    kind: Literal["rate", "area", "scale"] = "rate"
    needs: frozenset[str] = frozenset()
    exposes: bool = False
    beside: Callable[[str], bool] = lambda setting: False  # is the setting only for comparison?
    prepare: Callable[[Arm], None] = lambda arm: None
    prepared: Callable[[str], str | None] = lambda arm: None
    on_original: bool = False


def one_by_one(find: Callable[[Arm, str], Findings]) -> Callable[[Arm, Sequence[str]], Iterator[tuple[str, Findings]]]:
    """The `run` of an attack whose settings have nothing in common."""
    return lambda arm, settings: ((setting, find(arm, setting)) for setting in settings)


def both_forms(arm: Arm, questions: Sequence[Question] | None = None, rows: Sequence[Encoded] | None = None) -> Findings:
    """The model evaluated as it is now: by generated answers to the questions and by cloze over the rows."""
    questions = arm.questions() if questions is None else questions
    encoded = arm.encoded() if rows is None else rows
    predictions = arm.generator.predictions(encoded)
    return Findings(
        answered=answered(questions, [(a,) for a in arm.generator.answer(questions)]),
        values={"cloze": tuple(cloze(encoded, predictions))},
        retain_nll=arm.retain_nll(),
    )


def answered(questions: Sequence[Question], given: Sequence[Sequence[str]]) -> tuple[Answered, ...]:
    """Questions with the answers that were given."""
    return tuple(
        Answered(
            row=q.row,
            question=q.example.question,
            answer=q.example.answer,
            spans=tuple((s.start, s.end) for s in q.example.spans if not s.keep),
            given=tuple(texts),
        )
        for q, texts in zip(questions, given, strict=True)
    )
