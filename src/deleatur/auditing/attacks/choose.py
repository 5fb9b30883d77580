"""Multiple choice by likelihood: which of several facts does the model put into the answer?"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from deleatur.auditing.arms import Arm
from deleatur.auditing.attacks.table import Attack, Findings, one_by_one
from deleatur.data.encode import encode_all
from deleatur.types import Example

CHOICES = 4


def run(arm: Arm, setting: str) -> Findings:
    """Of each row: is the true answer the likeliest a token, corrected for chance, (hit − 1/m) / (1 − 1/m)?"""
    options = [_options(e, arm.rows, arm.settings.seed) for e in arm.rows]
    flat = [
        replace(e, answer=text, spans=(), restated=None, wrong=())
        for e, texts in zip(arm.rows, options, strict=True)
        for text in texts
    ]
    predictions = iter(arm.predictions(encode_all(arm.encoder, flat)))
    values: list[float | None] = []
    for texts in options:
        means = [sum(p.logp) / len(p.logp) for p in (next(predictions) for _ in texts)]
        chance = 1 / len(texts)
        values.append(None if len(texts) < 2 else (float(means[0] >= max(means)) - chance) / (1 - chance))
    return Findings(values={"choice": tuple(values)})


def _options(example: Example, rows: Sequence[Example], seed: int) -> list[str]:
    """The true answer, then wrong ones: those that the row brings, else the answer with facts of rows of other subjects."""
    given = [*dict.fromkeys((*example.wrong, *example.alternates))]
    if not given and len(example.spans) == 1:
        a, b = example.spans[0].start, example.spans[0].end
        others = [e for e in rows if len(e.spans) == 1 and e.subject != example.subject]
        facts = dict.fromkeys(e.answer[e.spans[0].start : e.spans[0].end] for e in others)
        found = random.Random(f"{seed} {example.id}").sample([*facts], min(CHOICES - 1, len(facts)))
        given = [example.answer[:a] + fact + example.answer[b:] for fact in found]
    return [example.answer, *[text for text in given if text != example.answer][: CHOICES - 1]]


CHOOSE = Attack(
    asks=f"Which of up to {CHOICES} answers is likeliest, chance taken off: the row's own wrong ones, or facts of others.",
    source="2402.16835",
    settings=lambda s: ("likelihood",),
    run=one_by_one(run),
)
