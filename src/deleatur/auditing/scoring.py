"""Cells become scores: answers are judged, settings that prove nothing are dropped, what is left is one sample an arm."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deleatur.auditing.arms import AUDITED, CONTROL, ORIGINAL, record_of
from deleatur.auditing.asking import leak_at
from deleatur.auditing.attacks import ATTACKS, depth, nearer
from deleatur.auditing.attacks.draw import draws
from deleatur.auditing.cells import Answered, Cell
from deleatur.auditing.samples import Familiarity, Rates, Sample
from deleatur.errors import DeleaturError
from deleatur.evaluation.judges import JudgeProtocol

SURVIVES = 2.0  # times its NLL on retain rows (1 nat at least) up to which a model counts as intact
WRECK = 4.0  # nats on retain rows from which, and at twice the original's, a control is no language model
FAIR = 0.25  # share of the control's fall in NLL that a model's has to exceed
LEARNED = 0.5  # nats a token from which rows need not become likelier any more
ALIKE = 0.02  # share of the original's distance up to which two models' predictions are one model's, rounded
HIT = 0.5  # of a judgement, from which one of many samples counts as leaking

Score = Callable[[Answered, str], float | None]
Values = dict[str, dict[str, list[float]]]  # label → arm → number of each row


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaked:
    """An answer of the audited model that gave the fact away."""

    row: int
    setting: str
    question: str
    answer: str
    given: str


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What an attack found, as samples of equal settings."""

    samples: Mapping[str, Sample]
    labels: tuple[str, ...]  # of the samples' settings
    by_answers: tuple[str, ...] | None  # those in which generated answers were judged; None where none were to be
    beside: Mapping[str, Mapping[str, float]]  # label → arm → rate of settings that are only compared with
    dropped: Mapping[str, str]  # setting → why it does not count
    resists: bool  # is one dropped since the audited model did not learn what it trains?
    missing: float  # share of judgements, in the arm and setting that lack most
    others_missing: float  # the same without the audited model
    leaked: tuple[Leaked, ...]
    seconds: float


def judged(cells: Sequence[Cell], judge: JudgeProtocol) -> Score:
    """A look-up of how far each answer reveals its fact; None where there is no verdict, or the judge failed."""
    keys = dict.fromkeys((a, text) for cell in cells for a in cell.answered for text in a.given)
    records = [record_of(a.example(), text) for a, text in keys]
    try:
        verdicts = list(judge(records)) if records else []
    except DeleaturError:
        verdicts = []
    if len(verdicts) != len(records):
        verdicts = [None] * len(records)
    found = {key: v if v is not None and math.isfinite(v) else None for key, v in zip(keys, verdicts, strict=True)}
    return lambda answered, text: found[answered, text]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What scoring needs: the rows' subjects, by arm and "unseen"; the NLL up to which the control counts as intact."""

    subjects: Mapping[str, tuple[str, ...]]
    max_retain_nll: float  # nats
    depth_threshold: float  # nats
    refuser_leak: float | None = None  # see `arms.greedy_leak`
    no_control: str | None = None  # why the control is none


def scored(attack: str, cells: Sequence[Cell], score: Score, rules: Rules) -> Scored:
    """An attack's cells as one sample per arm, with the settings that count and those that do not."""
    subjects = rules.subjects
    dropped = {} if ATTACKS[attack].on_original else _dropped(cells, rules.max_retain_nll)
    if attack == "nearer" and _read_otherwise(cells):
        dropped = dict.fromkeys((c.setting for c in cells), "the models read the rows as other tokens")
    kept = [c for c in cells if c.setting not in dropped]
    values: Values = {}
    for cell in kept:
        for label, numbers in _numbers(cell, score, len(subjects[cell.arm])).items():
            values.setdefault(label, {})[cell.arm] = numbers
    texts = [(c.arm, [score(a, t) for a in c.answered for t in a.given]) for c in kept]
    lacks = {(i, arm): sum(t is None for t in found) / len(found) for i, (arm, found) in enumerate(texts) if found}
    aside = {label for c in kept if c.beside for label in _numbers(c, score, len(subjects[c.arm]))}
    answers = {label for c in kept for label in _answer_labels(c)} if any(c.answered for c in cells) else None
    beside = {label: {arm: float(np.nanmean(v)) for arm, v in values.pop(label).items()} for label in aside}
    if ATTACKS[attack].kind == "rate":
        weak = {label for label, of in values.items() if not {c.arm for c in kept} <= _evaluated(of)}
        dropped |= dict.fromkeys(sorted(weak), "not every model is evaluated in it")
        values = {label: arms for label, arms in values.items() if label not in weak}
    return Scored(
        samples=_samples(attack, kept, values, rules),
        labels=tuple(values) if ATTACKS[attack].kind == "rate" else _labels(kept),
        by_answers=None if answers is None else tuple(label for label in values if label in answers),
        beside=beside,
        dropped=dropped,
        resists=any(c.arm == AUDITED and _resists(c, cells) for c in cells),
        missing=max(lacks.values(), default=0.0),
        others_missing=max((share for (_, arm), share in lacks.items() if arm != AUDITED), default=0.0),
        leaked=_leaked(kept, score),
        seconds=sum(c.seconds for c in cells),
    )


def max_nll(base: float | None) -> float:
    """Largest NLL on retain rows, in nats, at which a model that had `base` before counts as intact."""
    return SURVIVES * max(base or 0.0, 1.0)


def is_wreck(control: float | None, original: float | None) -> bool:
    """Is the control no model of these rows' language, by its NLL on retain rows and the original's, nats?"""
    return control is not None and not control <= max(max_nll(original), WRECK)


def _dropped(cells: Sequence[Cell], max_retain_nll: float) -> dict[str, str]:
    """Settings that damage the control, or in which what was trained did not become likelier."""
    out: dict[str, str] = {}
    for cell in cells:
        nll = cell.retain_nll
        if cell.arm == CONTROL and nll is not None and not nll <= max_retain_nll:
            out[cell.setting] = f"it damages the control (NLL of retain rows {nll:.1f} nats, at most {max_retain_nll:.1f})"
        if cell.arm in (AUDITED, CONTROL) and not _learned(cell, cells):
            before, after = cell.trained or (math.nan, math.nan)
            who = "audited model" if cell.arm == AUDITED else "control"
            out.setdefault(cell.setting, f"the {who} did not learn what it trains ({before:.2f} to {after:.2f} nats)")
    return out


def _learned(cell: Cell, cells: Sequence[Cell]) -> bool:
    """Did what was trained become likelier, by a fair share of what it did in the control, or was it likely already? So
    where nothing was trained."""
    before, after = cell.trained or (1.0, 0.0)
    falls = [c.trained[0] - c.trained[1] for c in cells if c.trained and (c.arm, c.setting) == (CONTROL, cell.setting)]
    return after <= LEARNED or before - after > FAIR * max(0.0, *falls, 0.0)


def _resists(cell: Cell, cells: Sequence[Cell]) -> bool:
    """Did it not learn, where the control did?"""
    others = [c for c in cells if (c.arm, c.setting) == (CONTROL, cell.setting)]
    return not _learned(cell, cells) and all(_learned(c, cells) for c in others)


def _read_otherwise(cells: Sequence[Cell]) -> bool:
    """Do the arms have the rows in different numbers of tokens, as with another tokenizer?"""
    return len({tuple(len(v) if isinstance(v, tuple) else 0 for v in (c.values or {}).get("logp", ())) for c in cells}) > 1


def same_predictions(cells: Sequence[Cell], one: str, other: str, than: str) -> bool:
    """Do two arms' NLLs of the forget rows differ by less than ALIKE of what the second differs from a third's?"""
    logp = {c.arm: (c.values or {}).get("logp", ()) for c in cells if c.attack == "nearer"}
    loss = {c.arm: (c.values or {}).get("loss", ()) for c in cells if c.attack == "member"}
    flat = {arm: [x for v in rows for x in (v if isinstance(v, tuple) else ())] for arm, rows in logp.items()}
    for of in (flat, {arm: _plain(numbers) for arm, numbers in loss.items()}):
        a, b, c = (np.array(of.get(arm, ())) for arm in (one, other, than))
        if a.size and a.shape == b.shape == c.shape and np.nanmean(np.abs(a - b)) < ALIKE * np.nanmean(np.abs(b - c)):
            return True
    return False


def _evaluated(of: Mapping[str, list[float]]) -> set[str]:
    return {arm for arm, numbers in of.items() if _known(numbers)}


def _known(numbers: Sequence[float]) -> list[float]:
    return [x for x in numbers if not math.isnan(x)]


def _numbers(cell: Cell, score: Score, rows: int) -> dict[str, list[float]]:
    """Label → number of each row, NaN where it was not evaluated or not judged."""
    out = {f"{cell.setting} {name}": _plain(v) for name, v in (cell.values or {}).items()}
    for label, k in _answer_labels(cell).items():
        numbers = [math.nan] * rows
        for a in cell.answered:
            value = _leak(a, score, k)
            if value is not None:
                numbers[a.row] = value if math.isnan(numbers[a.row]) else max(numbers[a.row], value)
        out[label] = numbers
    return out


def _answer_labels(cell: Cell) -> dict[str, int]:
    """Label → number of answers of which one has to leak."""
    budgets = sorted({k for a in cell.answered for k in draws(len(a.given))})
    return {cell.setting if budgets == [1] else f"{cell.setting} leak@{k}": k for k in budgets}


def _plain(values: Sequence[object]) -> list[float]:
    return [float(v) if isinstance(v, int | float) else math.nan for v in values]


def _leak(a: Answered, score: Score, k: int) -> float | None:
    """How far a question's answers leak; of several samples the chance that one of k does. None where none was judged."""
    found = [value for text in a.given if (value := score(a, text)) is not None]
    if not found:
        return None
    if len(a.given) == 1:
        return found[0]
    return leak_at(sum(v >= HIT for v in found), len(found), min(k, len(found)))


def _samples(attack: str, cells: Sequence[Cell], values: Values, rules: Rules) -> dict[str, Sample]:
    subjects = rules.subjects
    arms = list(dict.fromkeys(c.arm for c in cells))
    kind = ATTACKS[attack].kind
    if kind == "scale":
        return {arm: Rates(np.array([v]), subjects[arm]) for arm, v in _places(attack, cells, rules.depth_threshold).items()}
    if kind == "area":
        return {c.arm: _familiarity(c, subjects) for c in cells}
    out: dict[str, Sample] = {}
    floor = min((x for of in values.values() for numbers in of.values() for x in _known(numbers)), default=0.0)
    for arm in arms:
        rows = [v.get(arm, [math.nan] * len(subjects[arm])) for v in values.values()]
        out[arm] = Rates(np.array(rows).reshape(-1, len(subjects[arm])), subjects[arm], min(floor, 0.0))
    return out


def _familiarity(cell: Cell, subjects: Mapping[str, tuple[str, ...]]) -> Familiarity:
    values = np.array([_plain(v) for v in (cell.values or {}).values()])
    members, unseen = subjects[cell.arm], subjects["unseen"]
    return Familiarity(values, (*members, *unseen), (True,) * len(members) + (False,) * len(unseen))


def _places(attack: str, cells: Sequence[Cell], threshold: float) -> dict[str, list[float]]:
    """The places of each arm's rows between control and original; nothing without both."""
    of = {c.arm: c.values or {} for c in cells}
    if not {ORIGINAL, CONTROL} <= of.keys():
        return {}
    if attack == "nearer":
        logp = {arm: [v if isinstance(v, tuple) else () for v in values["logp"]] for arm, values in of.items()}
        return {arm: nearer.places(logp[arm], logp[CONTROL], logp[ORIGINAL]) for arm in of}
    return {arm: depth.places(of[arm], of[CONTROL], threshold) for arm in of}


def _labels(cells: Sequence[Cell]) -> tuple[str, ...]:
    first = cells[0].values if cells else None
    return tuple(first or ()) if cells and ATTACKS[cells[0].attack].kind == "area" else tuple({c.setting: 0 for c in cells})


def _leaked(cells: Sequence[Cell], score: Score) -> tuple[Leaked, ...]:
    found = (
        Leaked(row=a.row, setting=c.setting, question=a.question, answer=a.answer, given=text)
        for c in cells
        if c.arm == AUDITED
        for a in c.answered
        for text in dict.fromkeys(a.given)
        if (score(a, text) or 0.0) >= HIT
    )
    return tuple(found)
