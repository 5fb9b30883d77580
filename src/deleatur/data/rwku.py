"""RWKU: what a model knows of famous people (Jin et al., 2406.10890)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from deleatur.data.files import Row, refusal, show, show_all
from deleatur.data.multiple_choice import read_utility
from deleatur.data.rows import read_as
from deleatur.settings import Data
from deleatur.types import Example, Suite

TEN = (  # whom 2606.06320 unlearns at once
    "Beyoncé",
    "Blake Lively",
    "Bruce Springsteen",
    "Catherine, Princess of Wales",
    "Daniel Day-Lewis",
    "Donald Trump",
    "Dr. Dre",
    "Elon Musk",
    "Jennifer Lopez",
    "Jeff Goldblum",
)
FORGET_SETS = ("forget_level1", "forget_level2", "forget_level3")
RETAIN_SETS = ("neighbor_level1", "neighbor_level2")
CLOZE = "Say what belongs in the blank of this sentence, and nothing else.\n"
QUESTION = "Answer this question in a few words.\n"
SET_METRIC_NAMES = ("mia_loss", "mia_min_k", "mia_min_k_plus", "mia_zlib", "mia_grad_norm")
Filter = Callable[[Row], Iterable[Mapping[str, object]]]


def suite(part: str | None, settings: Data) -> Suite:
    """One subject, several with commas between, or `all` for the ten of 2606.06320.

    Forget rows are the texts about the subjects that Phi-3 wrote itself. The benchmark has no retain texts: retain rows are
    those about all other subjects in the same file. `retain_mia` are texts about other people, without those that name a
    subject. Answers are meant to be short, 30 tokens in the paper. Its utility sets are evaluated where they are under the
    root: general ability (`mmlu`) and truthfulness (`truthfulqa`); the others are lm-eval's (`--tasks bbh triviaqa`).
    """
    everyone = _read("train_positive_phi3", "train_positive_phi3:train", settings, _text)
    subjects = _subjects(part, dict.fromkeys(e.subject for e in everyone if e.subject))

    def about(row: Row) -> bool:
        """Is the row about a subject to forget?"""
        return row.cells.get("subject") in subjects

    sets = {
        "forget": tuple(e for e in everyone if e.subject in subjects),
        "retain": tuple(e for e in everyone if e.subject not in subjects),
    }
    for name in (*FORGET_SETS, *RETAIN_SETS):
        sets[name] = _read(name, f"{name}:test", settings, lambda row: _question_row(row) if about(row) else ())
    sets["forget_mia"] = _read("forget_mia", "mia_forget:test", settings, lambda row: _text(row) if about(row) else ())
    sets["retain_mia"] = _read("retain_mia", "mia_retain:test", settings, lambda row: _other(row, subjects))
    sets |= read_utility(settings)
    evaluated = tuple(name for name in sets if name != "retain")
    return Suite(
        name=f"rwku/{part}",
        sets=sets,
        evaluated_sets=evaluated,
        forget_sets=FORGET_SETS,
        retain_sets=RETAIN_SETS,
        score="rouge_l",
        set_metrics=SET_METRIC_NAMES,
    )


def _read(local: str, hub: str, settings: Data, to_rows: Filter) -> tuple[Example, ...]:
    return read_as(f"rwku/{local}", f"jinzhuoran/RWKU/{hub}", settings, to_rows)


def _subjects(part: str | None, known: Collection[str]) -> tuple[str, ...]:
    """The names in a list of them; a name may hold a comma itself."""
    found: list[str] = []
    left = ", ".join(TEN) if part == "all" else (part or "").strip()
    while left:
        fits = [name for name in known if left == name or left.startswith(f"{name},")]
        if not fits:
            raise refusal("rwku", f"{show(left)} begins with no subject; there are {show_all(sorted(known))}")
        found.append(max(fits, key=len))
        left = left[len(found[-1]) + 1 :].strip()
    if not found:
        raise refusal("rwku", f"a subject is needed, as in rwku/Elon Musk, or all; there are {show_all(sorted(known))}")
    return tuple(found)


def _text(row: Row) -> Iterable[Mapping[str, object]]:
    yield {"text": row.cells.get("text"), "subject": row.cells.get("subject")}


def _other(row: Row, subjects: tuple[str, ...]) -> Iterable[Mapping[str, object]]:
    text = row.cells.get("text")  # its subject is not whom it is about, but whose forgetting it was drawn for
    if not any(name in str(text) for name in subjects):
        yield {"text": text}


def _question_row(row: Row) -> Iterable[Mapping[str, object]]:
    wording = CLOZE if row.cells.get("type") == "cloze" else QUESTION
    query = row.cells.get("query")
    yield {
        "question": wording + query if isinstance(query, str) and query.strip() else query,
        "answer": row.cells.get("answer"),
        "subject": row.cells.get("subject"),
    }
