"""TOFU's model utility, from nine numbers."""

from __future__ import annotations

from deleatur.evaluation.metrics.probability import normalised_probability, probability
from deleatur.evaluation.metrics.rouge import rouge_l
from deleatur.evaluation.metrics.table import Evidence, MetricValue
from deleatur.evaluation.metrics.truth import truth_ratio_kept

PARTS = {
    "retain_perturbed": (probability, rouge_l, truth_ratio_kept),
    "real_authors": (normalised_probability, rouge_l, truth_ratio_kept),
    "world_facts": (normalised_probability, rouge_l, truth_ratio_kept),
}


def model_utility(evidence: Evidence) -> MetricValue | str:
    """Harmonic mean of three means on each of three sets, in [0, 1]; 0 where one of the nine is (TOFU, 2401.06121).

    Probability (on real authors and world facts against the wrong answers), ROUGE-L recall, and the truth ratio's utility
    form.
    """
    if missing := [name for name in PARTS if not evidence.records.get(name)]:
        return f"needs TOFU's sets; missing: {', '.join(missing)}"
    parts = {
        (name, f.__name__): [v for r in evidence.records[name] if (v := f(r)) is not None]
        for name, functions in PARTS.items()
        for f in functions
    }
    if empty := [f"{metric} on {name}" for (name, metric), values in parts.items() if not values]:
        return f"needs questions with wrong answers; no row has {empty[0]}"
    means = [sum(values) / len(values) for values in parts.values()]
    value = len(means) / sum(1 / m for m in means) if all(means) else 0.0
    return {"value": value, "n": sum(len(evidence.records[name]) for name in PARTS)}
