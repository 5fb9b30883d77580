"""Records → metrics → the numbers of results.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from deleatur.errors import ConfigError
from deleatur.evaluation.metrics import METRICS, SET_METRICS
from deleatur.evaluation.metrics.coherence import incoherent
from deleatur.evaluation.metrics.revealed import revealed
from deleatur.evaluation.metrics.table import Evidence, MetricValue, mean
from deleatur.evaluation.metrics.trade_off import loss_of, trade_off

if TYPE_CHECKING:
    from deleatur.types import Record

Figures = dict[str, dict[str, MetricValue]]  # set → metric → value, n, se
UNFORGOTTEN = "unforgotten"  # share of answers that say the fact, or are incoherent


def measure(records: Mapping[str, Sequence[Record]], *, score: str | None = None) -> Figures:
    """Every metric's mean on every set, with its standard error; a metric that applies to no row of a set is left out.

    With the name of a suite's `score` each set also gets UNFORGOTTEN.
    """
    out: Figures = {}
    for name, rows in records.items():
        values = {metric: [v for r in rows if (v := m.of(r)) is not None] for metric, m in METRICS.items()}
        out[name] = {metric: mean(found) for metric, found in values.items() if found}
        if score is not None:
            out[name] |= score_figures(rows, score)
    return out


def score_figures(records: Sequence[Record], score: str) -> dict[str, MetricValue]:
    """A set's score and UNFORGOTTEN: the larger of the score and `incoherent`, row by row; empty where no row has it."""
    both = [(value, incoherent(r) or 0.0) for r in records if (value := METRICS[score].of(r)) is not None]
    if not both:
        return {}
    return {score: mean([value for value, _ in both]), UNFORGOTTEN: mean([max(pair) for pair in both])}


def measure_sets(evidence: Evidence, names: Sequence[str]) -> dict[str, MetricValue | dict[str, str]]:
    """Set metrics by name; {"lacks": a sentence} where something is missing. Raises ConfigError on other names."""
    if unknown := [name for name in names if name not in SET_METRICS]:
        raise ConfigError(f"{unknown[0]} is not a set metric; there are {', '.join(SET_METRICS)}")
    found = {name: SET_METRICS[name].of(evidence) for name in names}
    return {name: {"lacks": figure} if isinstance(figure, str) else figure for name, figure in found.items()}


def quality(
    before: Figures,
    after: Figures,
    *,
    metric: str = "revealed",
    forget_sets: Sequence[str] = ("forget",),
    retain_sets: Sequence[str] = ("retain",),
) -> dict[str, float | None]:
    """FQ, RD and UQ of one metric, a side's sets pooled as the mean of their values; None where one of the sets lacks it.

    An answer counts as forgotten only where it neither says the fact nor is incoherent: the forget score after
    is UNFORGOTTEN where `after` has it; `fq_raw` is FQ without that condition. RD counts drift both ways, `rd_loss` loss
    alone. Plain texts have no question, so they have no `revealed`.
    """
    fair = UNFORGOTTEN if all(UNFORGOTTEN in after.get(name, {}) for name in forget_sets) else metric
    f0, r0 = (_pooled(before, metric, names) for names in (forget_sets, retain_sets))
    f, raw, r = _pooled(after, fair, forget_sets), _pooled(after, metric, forget_sets), _pooled(after, metric, retain_sets)
    if f0 is None or f is None or raw is None or r0 is None or r is None:
        return dict.fromkeys(("fq", "rd", "uq", "fq_raw", "rd_loss"))
    fq, rd, uq = trade_off((f0, f), (r0, r))
    return {"fq": fq, "rd": rd, "uq": uq, "fq_raw": trade_off((f0, raw), (r0, r))[0], "rd_loss": loss_of((r0, r))}


def lacking_coherence(records: Mapping[str, Sequence[Record]]) -> dict[str, str]:
    """{"no_coherence": why no generated answer could be called coherent or not}; empty where that was measured, or where
    nothing was asked."""
    answered = [r for rows in records.values() for r in rows if r.question]
    if not answered or any(r.start_tokens is not None for r in answered):
        return {}
    return {
        "no_coherence": "the model before training was not available to score the answers (--evaluation.start names one)"
    }


def answer_notes(records: Mapping[str, Sequence[Record]], new_tokens: int, when: str = "") -> list[str]:
    """Sentences on answers of which the end was not seen, and on reasoning that no metric reads; none where all is well."""
    counts = {name: (sum(bool(r.cut) for r in rows), sum(r.cut is not None for r in rows)) for name, rows in records.items()}
    cut = [f"{n} of {total} answers on {name}" for name, (n, total) in counts.items() if n]
    beyond = sum(r.beyond for rows in records.values() for r in rows)
    left_out = f"; {beyond} of them are left out of revealed, for their fact comes later" if beyond else ""
    notes = [
        f"{when}{', '.join(cut)} were cut at {new_tokens} tokens (evaluation.new_tokens): what comes later was not seen"
        f"{left_out}"
    ]
    thought = [r.reasoning_cut for rows in records.values() for r in rows if r.reasoning is not None]
    note = (
        f"{when}{len(thought)} answers stand behind the model's own reasoning, which is in the records and which no metric "
        f"reads; in {sum(thought)} of them it was cut at data.reasoning_tokens"
    )
    return (notes if cut else []) + ([note] if thought else []) + _undecided(records, when)


def _undecided(records: Mapping[str, Sequence[Record]], when: str) -> list[str]:
    """A sentence on answers that may say the fact and may not."""
    answered = {
        name: [r for r in rows if r.question and r.generated.strip() and not r.beyond] for name, rows in records.items()
    }
    counts = {name: (sum(revealed(r) is None for r in rows), len(rows)) for name, rows in answered.items()}
    open_ = ", ".join(f"{n} of {of} answers on {name}" for name, (n, of) in counts.items() if n)
    return (
        [f"{when}{open_} are left out of revealed: by words alone they may say the fact and may not; {REMEDY}"]
        if open_
        else []
    )


REMEDY = "mark the fact's characters (spans), or let a judge read them (judge.kind)"


def _pooled(figures: Figures, metric: str, names: Sequence[str]) -> float | None:
    found = [figures.get(name, {}).get(metric) for name in names]
    values = [float(figure["value"]) for figure in found if figure is not None]
    return sum(values) / len(values) if values and len(values) == len(found) else None
