"""From scores to verdicts: controls, comparisons, flags; all that audit.json holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isclose
from typing import Any

import numpy as np

from deleatur.auditing.arms import AUDITED, CONTROL, ORIGINAL, REFUSER
from deleatur.auditing.attacks import ATTACKS, EXPOSING
from deleatur.auditing.cells import Cell
from deleatur.auditing.samples import Familiarity, Rates, Sample, rows_attacked, strength
from deleatur.auditing.scoring import Rules, Score, Scored, is_wreck, max_nll, same_predictions, scored
from deleatur.auditing.settings import AuditSettings
from deleatur.auditing.statistics import (
    Comparison,
    Estimate,
    compare_areas,
    compare_rates,
    compare_scale,
    estimate,
    holm,
    is_over_forgotten,
    rate_estimate,
    resampled,
    rows_needed,
)
from deleatur.auditing.verdicts import (
    ALPHA,
    MARGIN,
    MAX_MISSING,
    AttackVerdict,
    Controls,
    attack_verdict,
    overall,
    scale_verdict,
    unusable,
    void,
)
from deleatur.evaluation.metrics.coherence import is_looping

SILENT = 0.05  # share of facts that a refuser may still tell
SAME = 1e-6  # relative difference of two NLLs up to which they are one model's
GARBLED = 0.1  # share of answers, beyond the original's, from which a model is damaged
SHOWN = 40  # leaked answers that are kept of an attack


@dataclass(frozen=True, kw_only=True)
class Judged:
    """An attack with its comparisons; the verdict waits for Holm."""

    scored: Scored
    found: Comparison | None
    controls: Controls
    needed: int | None


def judge_attacks(
    cells: Sequence[Cell], score: Score, rules: Rules, settings: AuditSettings, decoys: bool
) -> dict[str, Any]:
    """Verdicts of all attacks and of the audit, flags, and the figures that they rest on."""
    base = {c.arm: c for c in cells if c.attack == "base"}
    nll = {arm: cell.retain_nll for arm, cell in base.items()}
    rules = replace(rules, max_retain_nll=max_nll(nll.get(CONTROL)), no_control=None if decoys else _no_control(nll, cells))
    names = [n for n in ATTACKS if any(c.attack == n for c in cells)]
    judged = {n: _judged(n, [c for c in cells if c.attack == n], score, (rules, settings, decoys)) for n in names}
    p_values = {n: j.found.p for n, j in judged.items() if j.found is not None and void(j.controls) is None}
    adjusted = holm(p_values)
    verdicts = {n: _verdict(n, j, adjusted.get(n, 1.0)) for n, j in judged.items()}
    audit = overall(verdicts, [n for n in EXPOSING if n in judged and "answers" in _forms(judged[n].scored)])
    member = judged.get("member")
    flags = _damaged(cells, base, score, settings) + (_trace(member, settings, decoys) if member else [])
    attacks = {n: _figures(n, j, verdicts[n], adjusted.get(n), settings) for n, j in judged.items()}
    return asdict(audit) | {"flags": flags, "attacks": attacks}


def _judged(name: str, cells: Sequence[Cell], score: Score, how: tuple[Rules, AuditSettings, bool]) -> Judged:
    rules, settings, decoys = how
    found = scored(name, cells, score, rules)
    samples = found.samples

    def against(arm: str) -> Comparison | None:
        """The arm compared with the control; None where one of the two was not attacked."""
        return _compare(name, samples, arm, settings, decoys) if {arm, CONTROL} <= samples.keys() else None

    audited, attack = against(AUDITED), ATTACKS[name]
    original = _separation(samples, settings) if attack.kind == "scale" else against(ORIGINAL)
    controls = Controls(
        rows=min((_asked(s) for s in samples.values()), default=0),
        missing=found.missing,
        no_control=rules.no_control,
        unusable=None if found.labels else next(iter(found.dropped.values()), None),
        evades=found.resists or _evaded(found, decoys),
        answers=found.by_answers is None or _answers_differ(found, settings),
        original=original,
        guessed=attack.kind == "rate" and original is not None and _guessed(name, original, samples),
        refuser=against(REFUSER),
        needs_refuser=attack.exposes,
        silent=rules.refuser_leak is not None and rules.refuser_leak <= SILENT,
    )
    needed = None
    if audited is not None and void(controls) is None:
        needed = rows_needed(audited, controls.rows, margin=MARGIN if attack.kind != "scale" else 0.0)
    return Judged(scored=found, found=audited, controls=controls, needed=needed)


def _no_control(nll: Mapping[str, float | None], cells: Sequence[Cell]) -> str | None:
    """Why a retrained model is no control, by the arms' NLL on retain rows (nats) and forget rows; None where it is one."""
    audited, control = nll.get(AUDITED), nll.get(CONTROL)
    same = audited is not None and control is not None and isclose(audited, control, rel_tol=SAME)
    if is_wreck(control, nll.get(ORIGINAL)):
        return "the model never trained on the rows is no language model: the rows to keep say nothing to it"
    if same or same_predictions(cells, AUDITED, CONTROL, ORIGINAL):
        return "the model never trained on the rows predicts what the audited one does: it is the same model"
    return None


def _evaded(found: Scored, decoys: bool) -> bool:
    """Is it the audited model alone whose judgements are missing, or, being its own control, that an attack destroys?"""
    return found.missing > MAX_MISSING >= found.others_missing or (
        decoys and not found.labels and any("damages" in why for why in found.dropped.values())
    )


def _guessed(name: str, original: Comparison, samples: Mapping[str, Sample]) -> bool:
    """Does the control reveal half of what the original does where they differ most, or asked in any way?"""
    asked = name == "ask" and 2 * strength(samples[CONTROL]) >= strength(samples[ORIGINAL])
    return asked or original.level >= original.difference.value


def _answers_differ(found: Scored, settings: AuditSettings) -> bool:
    """Do generated answers alone tell the original from the control, so that the judge is shown to work?"""
    places = [i for i, label in enumerate(found.labels) if label in (found.by_answers or ())]
    one, other = found.samples.get(ORIGINAL), found.samples.get(CONTROL)
    if not (places and isinstance(one, Rates) and isinstance(other, Rates)):
        return False
    one, other = (replace(s, values=s.values[places]) for s in (one, other))
    apart = compare_rates(one, other, resamples=settings.resamples, seed=settings.seed)
    return apart.p <= ALPHA and apart.difference.value > MARGIN


def _asked(sample: Sample) -> int:
    if isinstance(sample, Familiarity):
        return min(sum(sample.members), sum(not m for m in sample.members))
    return rows_attacked(sample) if isinstance(sample, Rates) else 0


def _compare(name: str, samples: Mapping[str, Sample], arm: str, settings: AuditSettings, decoys: bool) -> Comparison | None:
    how = {"resamples": settings.resamples, "seed": settings.seed}
    one, other = samples[arm], samples[CONTROL]
    if isinstance(one, Familiarity) and isinstance(other, Familiarity):
        return compare_areas(one, None if decoys else other, **how)
    if not isinstance(one, Rates) or not isinstance(other, Rates) or not (rows_attacked(one) and rows_attacked(other)):
        return None
    return compare_scale(one, 0.5, **how) if ATTACKS[name].kind == "scale" else compare_rates(one, other, **how)


def _separation(samples: Mapping[str, Sample], settings: AuditSettings) -> Comparison | None:
    """On a scale the original has to be above the control."""
    one, other = samples.get(ORIGINAL), samples.get(CONTROL)
    if not isinstance(one, Rates) or not isinstance(other, Rates):
        return None
    return compare_rates(one, other, resamples=settings.resamples, seed=settings.seed)


def _verdict(name: str, judged: Judged, adjusted: float) -> AttackVerdict:
    if judged.found is None:
        return unusable(judged.controls, void(judged.controls) or "the audited model or the control was not attacked")
    decide = scale_verdict if ATTACKS[name].kind == "scale" else attack_verdict
    return decide(judged.found, adjusted, judged.controls, judged.needed)


def _trace(member: Judged, settings: AuditSettings, decoys: bool) -> list[str]:
    samples = member.scored.samples
    one, other = samples.get(AUDITED), samples.get(CONTROL)
    if not isinstance(one, Familiarity):
        return []
    other = other if isinstance(other, Familiarity) and not decoys else None
    return ["TRACE"] if is_over_forgotten(one, other, resamples=settings.resamples, seed=settings.seed) else []


def _damaged(cells: Sequence[Cell], base: Mapping[str, Cell], score: Score, settings: AuditSettings) -> list[str]:
    """DAMAGED: retain rows are answered worse than by the original, or more answers are empty or loops."""
    if not {ORIGINAL, AUDITED} <= base.keys():
        return []
    rates = {arm: _retained(base[arm], score) for arm in (ORIGINAL, AUDITED)}
    if not all(map(rows_attacked, rates.values())):
        return []
    lost = compare_rates(rates[ORIGINAL], rates[AUDITED], resamples=settings.resamples, seed=settings.seed)
    garbled = {arm: _degenerate_share([c for c in cells if c.arm == arm and c.attack in ("ask", "base")]) for arm in rates}
    harmed = (lost.p <= ALPHA and lost.difference.low > MARGIN) or garbled[AUDITED] > garbled[ORIGINAL] + GARBLED
    return ["DAMAGED"] if harmed else []


def _retained(cell: Cell, score: Score) -> Rates:
    """Greedy answers and cloze on retain rows, one mean a row."""
    cloze = [float(v) if isinstance(v, int | float) else np.nan for v in (cell.values or {}).get("cloze", ())]
    scores = {a.row: score(a, a.given[0]) for a in cell.answered}
    rows = [np.nanmean([v, np.nan if (s := scores.get(i)) is None else s]) for i, v in enumerate(cloze)]
    return Rates(np.array([rows]), tuple(f"row {i}" for i in range(len(rows))))


def _degenerate_share(cells: Sequence[Cell]) -> float:
    """Share of plain answers that are empty or looping."""
    texts = [t for c in cells if c.setting == "plain" for a in c.answered for t in a.given]
    return sum(not t.strip() or is_looping(t) for t in texts) / len(texts) if texts else 0.0


def _figures(
    name: str, judged: Judged, verdict: AttackVerdict, adjusted: float | None, settings: AuditSettings
) -> dict[str, Any]:
    """The entry of an attack in audit.json."""
    found, attack = judged.scored, ATTACKS[name]
    draws = resampled(found.samples, resamples=settings.resamples, seed=settings.seed) if found.labels else {}
    arms = {
        arm: _arm(sample, draws[arm], found.labels, attack.kind) for arm, sample in found.samples.items() if arm in draws
    }
    return asdict(verdict) | {
        "asks": attack.asks,
        "source": attack.source,
        "kind": attack.kind,
        "difference": None if judged.found is None else asdict(judged.found.difference),
        "difference_in": None if judged.found is None or (k := judged.found.setting) is None else found.labels[k],
        "p": None if judged.found is None else judged.found.p,
        "p_holm": adjusted,
        "rho": _rho(found.samples, draws),
        "finds_refuser": None if judged.controls.refuser is None else judged.controls.refuser.p <= ALPHA,
        "finds_refuser_by": _forms(found) if attack.exposes else None,
        "arms": arms,
        "beside": found.beside,
        "dropped": found.dropped,
        "missing": found.missing,
        "seconds": found.seconds,
        "leaked": [asdict(a) for a in found.leaked[:SHOWN]],
        "leaked_answers": len(found.leaked),
    }


def _forms(found: Scored) -> list[str]:
    """In which forms the refuser leaks, by its figure: "answers", "cloze"."""
    sample, control = found.samples.get(REFUSER), found.samples.get(CONTROL)
    if not isinstance(sample, Rates) or not isinstance(control, Rates):
        return []
    each = zip(found.labels, sample.values, control.values, strict=True)
    leaking = [label for label, v, n in each if np.nanmean(v) - np.nanmean(n) > SILENT]
    return sorted({"answers" if label in (found.by_answers or ()) else "cloze" for label in leaking})


def _arm(sample: Sample, draws: np.ndarray, labels: Sequence[str], kind: str) -> dict[str, Any]:
    clipped = np.nan_to_num(draws, posinf=1.0, neginf=0.0)
    found = (
        rate_estimate(sample, clipped)
        if isinstance(sample, Rates) and kind == "rate"
        else estimate(strength(sample), clipped)
    )
    if isinstance(sample, Familiarity):
        each = [area["value"] for area in sample.areas()]
    else:
        values = sample.values if isinstance(sample, Rates) else np.empty((0, 0))
        each = [None if np.isnan(v).all() else float(np.nanmean(v)) for v in values]
    best = max(range(len(each)), key=lambda i: -1.0 if each[i] is None else float(each[i] or 0.0), default=None)
    return asdict(found) | {
        "n": _asked(sample),
        "subjects": len(set(sample.subjects)),
        "best": None if best is None else labels[best],
        "settings": dict(zip(labels, each, strict=True)),
    }


def _rho(samples: Mapping[str, Sample], draws: Mapping[str, np.ndarray]) -> dict[str, float] | None:
    """(s_U − s_N) / (s_O − s_N): 0 as the control, 1 as the original; None where these do not differ."""
    if not {ORIGINAL, AUDITED, CONTROL} <= draws.keys():
        return None
    o, u, n = (strength(samples[a]) for a in (ORIGINAL, AUDITED, CONTROL))
    if not (o > n and np.isfinite(u)):
        return None
    spread = draws[ORIGINAL] - draws[CONTROL]
    known = spread > 1e-9
    ratios = (draws[AUDITED] - draws[CONTROL])[known] / spread[known]
    value = (u - n) / (o - n)
    found: Estimate = estimate(value, ratios) if len(ratios) else Estimate(value=value, low=value, high=value)
    return asdict(found)
