"""Rows made of rows: their questions paraphrased, answered ones before them, and other answers to them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from deleatur.data.encode import Encoder, encode_all
from deleatur.types import Encoded, Example


def variants(
    encoder: Encoder,
    sets: Mapping[str, Sequence[Encoded]],
    *,
    shots: int = 0,
    from_rows: Sequence[Encoded] = (),
    forget_sets: Sequence[str] = (),
) -> dict[str, Sequence[Encoded]]:
    """The sets; for each whose rows have paraphrased questions a set `<name>_paraphrased` of those; and with `shots` for
    each of `forget_sets` a set `<name>_shots`, in which so many of `from_rows` stand answered before each question."""
    out: dict[str, Sequence[Encoded]] = {}
    for name, encoded in sets.items():
        out[name] = encoded
        if questions := [e for row in encoded for e in _paraphrased(row.example)]:
            out[f"{name}_paraphrased"] = encode_all(encoder, questions)
    turns = [(*row.example.prompt, ("assistant", row.example.answer)) for row in from_rows if _is_chat(row.example)]
    for name in [n for n in out if n.removesuffix("_paraphrased") in forget_sets] if shots and turns else []:
        rng = random.Random(name)
        questions = [row.example for row in out[name] if _is_chat(row.example)]
        shown = [sum(rng.sample(turns, min(shots, len(turns))), ()) for _ in questions]
        bare = [replace(e, prompt=_behind(s, e), restated=None, wrong=()) for e, s in zip(questions, shown, strict=True)]
        out[f"{name}_shots"] = encode_all(encoder, bare)
    return {name: rows for name, rows in out.items() if rows}


def other_answers(example: Example) -> list[Example]:
    """The row with its restated answer, where it has one, and with each wrong answer."""
    answers = [*([] if example.restated is None else [example.restated]), *example.wrong]
    return [replace(example, answer=answer, spans=(), restated=None, wrong=()) for answer in answers]


def _is_chat(example: Example) -> bool:
    return bool(example.prompt) and example.prompt[0][0] != "text"


def _behind(shown: Sequence[tuple[str, str]], example: Example) -> tuple[tuple[str, str], ...]:
    """The example's turns after answered ones; its own system turn comes first, and there is no other."""
    system = example.prompt[:1] if example.prompt[0][0] == "system" else ()
    return (*system, *(turn for turn in shown if turn[0] != "system"), *example.prompt[len(system) :])


def _paraphrased(example: Example) -> Iterable[Example]:
    for k, question in enumerate(example.paraphrases):
        turns = (*example.prompt[:-1], ("user", question))
        yield replace(example, id=f"{example.id}/{k}", prompt=turns, paraphrases=(), restated=None, wrong=())
