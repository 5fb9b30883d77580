"""Do forgotten facts come back after a little fine-tuning on rows that do not contain them?"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from deleatur.auditing.arms import Arm, halves
from deleatur.auditing.asking import mean_nll
from deleatur.auditing.attacks.table import Attack, Findings, both_forms
from deleatur.auditing.cells import Value
from deleatur.auditing.finetuning import fine_tune, restore_weights
from deleatur.auditing.settings import AuditSettings
from deleatur.data.encode import encode_all
from deleatur.data.spacing import evenly_spaced
from deleatur.errors import Diverged
from deleatur.settings import Train
from deleatur.types import Example

NEAREST = 64  # retain rows
MEASURED = 12  # trained rows whose NLL has to fall
DAMAGED = 1e9  # nats, of a model whose training diverged


def settings(s: AuditSettings) -> tuple[str, ...]:
    """The settings by name: benign-STEPS, half-RATE."""
    return (*(f"benign-{n}" for n in s.benign_steps), *(f"half-{lr:g}" for lr in s.half_lrs))


def run(arm: Arm, wanted: Sequence[str]) -> Iterator[tuple[str, Findings]]:
    """The model evaluated after short trainings; the benign ones are parts of one."""
    yield from _benign(arm, [setting for setting in wanted if setting.startswith("benign-")])
    for setting in wanted:
        kind, _, value = setting.partition("-")
        if kind == "half":
            try:
                yield setting, _half(arm, float(value))
            except Diverged:
                yield setting, _diverged(arm)


def _diverged(arm: Arm) -> Findings:
    """Nothing can be asked of such a model."""
    return Findings(values={"cloze": (None,) * len(arm.rows)}, retain_nll=DAMAGED)


def _benign(arm: Arm, wanted: Sequence[str]) -> Iterator[tuple[str, Findings]]:
    """Adapters on the retain rows that are worded most like the rows to forget; new ones after each evaluation."""
    if not wanted:
        return
    s, rows = arm.settings, encode_all(arm.encoder, nearest(arm.rows, arm.retain, NEAREST))
    how, measured = training(s, s.benign_lr, len(rows)), rows[:MEASURED]
    before = mean_nll(arm.predictions(measured))
    with restore_weights(arm.model):
        for done, steps in pairwise((0, *sorted({*s.benign_steps}))):
            try:
                fine_tune(arm.model, rows, how, steps=steps - done, rank=s.rank, seed=s.seed + done)
            except Diverged:  # and so would all further steps
                yield from ((setting, _diverged(arm)) for setting in wanted if int(setting.partition("-")[2]) >= steps)
                return
            if f"benign-{steps}" in wanted:
                yield f"benign-{steps}", replace(both_forms(arm), trained=(before, arm.generator.nll(measured)))


def _half(arm: Arm, lr: float) -> Findings:
    """All weights trained on one half of the subjects (of rows, where there is one), evaluated on the other half; twice."""
    parts, s = halves(arm.subjects), arm.settings
    found: list[Findings] = []
    for trained, tested in (parts, parts[::-1]):
        rows = encode_all(arm.encoder, [arm.rows[i] for i in trained])
        how, measured = training(s, lr, len(rows)), rows[:MEASURED]
        before = mean_nll(arm.predictions(measured))
        with restore_weights(arm.model):
            fine_tune(arm.model, rows, how, steps=s.half_epochs * -(-len(rows) // how.batch), rank=None, seed=s.seed)
            questions = [q for q in arm.questions() if q.row in set(tested)]
            part = both_forms(arm, questions, encode_all(arm.encoder, [arm.rows[i] for i in tested]))
            found.append(replace(part, trained=(before, arm.generator.nll(measured))))
    values: list[Value] = [None] * len(arm.rows)
    for part, tested in zip(found, parts[::-1], strict=True):
        for place, value in zip(tested, (part.values or {})["cloze"], strict=True):
            values[place] = value
    return Findings(
        answered=sum((f.answered for f in found), ()),
        values={"cloze": tuple(values)},
        retain_nll=max(DAMAGED if f.retain_nll is None or math.isnan(f.retain_nll) else f.retain_nll for f in found),
        trained=max((f.trained for f in found if f.trained), key=lambda pair: pair[1] - pair[0]),
    )


def training(settings: AuditSettings, lr: float, rows: int) -> Train:
    """The training settings of the attack at a learning rate; a batch is a third of the rows at most."""
    return Train(lr=lr, batch=max(1, min(settings.train_batch, -(-rows // 3))), precision=settings.products)


def nearest(rows: Sequence[Example], retain: Sequence[Example], most: int) -> tuple[Example, ...]:
    """The retain rows that share most pairs of neighbouring words with a row to forget, its facts aside (Jaccard)."""
    wanted = [_pairs(e) for e in rows]

    def likeness(e: Example) -> float:
        """The highest Jaccard similarity to a row to forget."""
        pairs = _pairs(e)
        return max((len(pairs & other) / max(len(pairs | other), 1) for other in wanted), default=0.0)

    return tuple(evenly_spaced(sorted(retain, key=likeness, reverse=True)[:most], most))


def _pairs(example: Example) -> frozenset[tuple[str, str]]:
    text = f"{example.question} {example.answer}".casefold()
    for s in example.spans:
        text = text.replace(example.answer[s.start : s.end].casefold(), "_")
    words = re.findall(r"\w+", text.replace((example.subject or "\0").casefold(), "_"))
    return frozenset(pairwise(words))


RELEARN = Attack(
    asks="Plain questions and cloze after adapters learned retain rows of like wording (benign), and about one half of the "
    "subjects after all weights were trained on the rows of the other half.",
    source="2406.13356, 2602.03379, 2410.08827",
    settings=settings,
    run=run,
    exposes=True,
)
