"""Metrics: pure functions of one record, or of sets of records. Importing this does not import torch."""

from deleatur.evaluation.metrics.accuracy import accuracy, accuracy_normalised
from deleatur.evaluation.metrics.coherence import incoherent
from deleatur.evaluation.metrics.every_way import j_avg, j_w
from deleatur.evaluation.metrics.familiarity import grad_norm, min_k, min_k_plus, zlib_loss
from deleatur.evaluation.metrics.fluency import fluency, repetitiveness
from deleatur.evaluation.metrics.membership import (
    mia_grad_norm,
    mia_loss,
    mia_min_k,
    mia_min_k_plus,
    mia_reference,
    mia_zlib,
    privleak,
)
from deleatur.evaluation.metrics.memorisation import exact_memorisation, extraction_strength
from deleatur.evaluation.metrics.nearness import other_nll, specific_nll
from deleatur.evaluation.metrics.probability import loss, normalised_probability, probability
from deleatur.evaluation.metrics.revealed import cut, judged, revealed
from deleatur.evaluation.metrics.rouge import rouge_1, rouge_l
from deleatur.evaluation.metrics.table import Metric, RunMetric, SetMetric
from deleatur.evaluation.metrics.truth import forget_quality, truth_ratio, truth_ratio_kept
from deleatur.evaluation.metrics.utility import model_utility

TOFU, OPEN_UNLEARNING, ATWU = "TOFU, 2401.06121", "OpenUnlearning, 2506.12618", "2606.06320"

METRICS: dict[str, Metric] = {
    "revealed": Metric(
        of=revealed,
        reads="answer",
        forget="lower",
        meaning="share of the fact's pieces that the greedy answer says: spans word for word, else its words in any form",
        source="ours",
    ),
    "judged": Metric(
        of=judged,
        reads="answer",
        forget="lower",
        meaning="does the greedy answer say the fact, by the run's judge",
        source=ATWU,
    ),
    "probability": Metric(
        of=probability, forget="lower", meaning="of the reference answer: geometric mean over its tokens", source=TOFU
    ),
    "normalised_probability": Metric(
        of=normalised_probability,
        forget="lower",
        meaning="probability over its sum with those of the wrong answers",
        source=TOFU,
    ),
    "truth_ratio": Metric(
        of=truth_ratio,
        forget="higher",
        meaning="min(r, 1/r), r the probability of wrong answers over that of the right one: 1 = no difference",
        source=OPEN_UNLEARNING,
    ),
    "truth_ratio_kept": Metric(
        of=truth_ratio_kept,
        forget="lower",
        meaning="max(0, 1 − r), the form for rows to keep: 1 = the right answer alone is likely",
        source=OPEN_UNLEARNING,
    ),
    "rouge_1": Metric(
        of=rouge_1,
        reads="answer",
        forget="lower",
        meaning="share of the reference answer's words in the greedy one",
        source="Lin 2004",
    ),
    "rouge_l": Metric(
        of=rouge_l,
        reads="answer",
        forget="lower",
        meaning="share of the reference answer's words in the greedy one, in order",
        source=TOFU,
    ),
    "extraction_strength": Metric(
        of=extraction_strength,
        forget="lower",
        meaning="share of the answer that first choices complete to its end; OpenUnlearning's floor is 1/length, ours 0",
        source="2505.16831",
    ),
    "exact_memorisation": Metric(
        of=exact_memorisation,
        forget="lower",
        meaning="share of the answer's tokens that are first choices",
        source="2205.10770",
    ),
    "loss": Metric(of=loss, forget="higher", meaning="mean NLL of the answer", source="1709.01604", unit="nats"),
    "min_k": Metric(
        of=min_k,
        forget="higher",
        meaning="mean NLL of the answer's 40 % least likely tokens",
        source="2310.16789",
        unit="nats",
    ),
    "min_k_plus": Metric(
        of=min_k_plus,
        forget="higher",
        meaning="the same in standard deviations under the model's own distribution",
        source="2404.02936",
        unit="deviations",
    ),
    "zlib": Metric(
        of=zlib_loss,
        forget="higher",
        meaning="mean NLL over the answer's length packed by zlib",
        source="2012.07805",
        unit="nats a byte",
    ),
    "grad_norm": Metric(
        of=grad_norm, forget="higher", meaning="norm of the mean NLL's gradient", source="2402.17012", unit="nats"
    ),
    "incoherent": Metric(
        of=incoherent,
        reads="answer",
        forget="lower",
        everywhere=True,
        meaning="is the greedy answer incoherent: empty, looping, or to the start model hardly likelier than shuffled",
        source="ours",
    ),
    "cut": Metric(
        of=cut,
        reads="answer",
        forget="as before",
        meaning="was the greedy answer cut at the limit of tokens (evaluation.new_tokens) before its end",
        source="ours",
    ),
    "repetitiveness": Metric(
        of=repetitiveness,
        reads="answer",
        forget="as before",
        meaning="⅔ and 4⁄3 of the entropy of the greedy answer's word pairs and triples: low = repetitive",
        source=ATWU,
        unit="bits",
    ),
    "fluency": Metric(
        of=fluency, reads="answer", forget="as before", meaning="half of it", source="RWKU, 2406.10890", unit="bits"
    ),
    "accuracy": Metric(
        of=accuracy, forget="lower", meaning="is the right answer likelier than every wrong one", source="lm-eval, acc"
    ),
    "accuracy_normalised": Metric(
        of=accuracy_normalised,
        forget="lower",
        meaning="the same per token; lm-eval's acc_norm is per character",
        source="ours",
    ),
}
"""Metrics of a row by name; `METRICS[name].of(record)` is the number.

Args:
    record: What a model did with one example.

Returns:
    A float in `unit` (a share in [0, 1] where that is empty), or None where the metric does not apply to the row.

Examples:
    >>> import deleatur
    >>> from deleatur.types import Record
    >>> row = {"id": "1", "question": "Where?", "answer": "In Rome.", "generated": "In Rome."}
    >>> record = Record(**row, logp=(-1.0, -3.0), hit=(True, False), ends=False)
    >>> deleatur.METRICS["loss"].of(record), round(deleatur.METRICS["probability"].of(record), 3)
    (2.0, 0.135)
"""

NEAR = "the retrained model's, near .5"
SET_METRICS: dict[str, SetMetric] = {
    "model_utility": SetMetric(
        of=model_utility,
        target="as before",
        meaning="harmonic mean of probability, rouge_l and truth_ratio_kept on each of retain_perturbed, real_authors and "
        "world_facts (probability normalised on the last two)",
        source=TOFU,
    ),
    "forget_quality": SetMetric(
        of=forget_quality,
        target="above .05",
        meaning="p-value: could forget rows' r come from the retrained model? (two-sample Kolmogorov-Smirnov)",
        source=TOFU,
    ),
    "privleak": SetMetric(
        of=privleak,
        target="0",
        meaning="distance of mia_min_k from the retrained model's, percent; negative = forget rows leak",
        source="MUSE, 2407.06460",
    ),
    "mia_loss": SetMetric(of=mia_loss, target=NEAR, meaning="AUC of the attack by loss", source="1709.01604"),
    "mia_min_k": SetMetric(of=mia_min_k, target=NEAR, meaning="AUC of the attack by min_k", source="2310.16789"),
    "mia_min_k_plus": SetMetric(
        of=mia_min_k_plus, target=NEAR, meaning="AUC of the attack by min_k_plus", source="2404.02936"
    ),
    "mia_zlib": SetMetric(of=mia_zlib, target=NEAR, meaning="AUC of the attack by zlib", source="2012.07805"),
    "mia_grad_norm": SetMetric(of=mia_grad_norm, target=NEAR, meaning="AUC of the attack by grad_norm", source="2402.17012"),
    "mia_reference": SetMetric(
        of=mia_reference, target=".5", meaning="AUC of the attack by loss minus the retrained model's", source="2506.12618"
    ),
    "specific_nll": SetMetric(
        of=specific_nll,
        target="0",
        meaning="NLL of what is specific to forget rows minus that of unseen rows, nats; below 0 = known, above = beyond",
        source="ours",
    ),
    "other_nll": SetMetric(
        of=other_nll,
        target="0",
        meaning="the same of all other tokens; above 0 = the words around are damaged",
        source="ours",
    ),
    "j_w": SetMetric(
        of=j_w,
        target="0",
        meaning="forget rows given away by the worst answer to any variant (paraphrases, shots); judged, else revealed",
        source=ATWU,
    ),
    "j_avg": SetMetric(
        of=j_avg,
        target="as before",
        meaning="retain rows answered, mean over the variants without shots; judged, else revealed",
        source=ATWU,
    ),
}

RUN_METRICS: dict[str, RunMetric] = {
    "fq": RunMetric(
        target="100",
        meaning="percent of the score on sets to forget that is gone, 100·(F0 − F)/F0; F counts an "
        "incoherent answer as not forgotten",
        source="2606.06320, and ours",
    ),
    "fq_raw": RunMetric(target="100", meaning="fq with F the plain score, whether answers are coherent or not", source=ATWU),
    "rd": RunMetric(
        target="0",
        meaning="percent by which the score on sets to keep drifted, down or up, 100·abs(R0 − R)/R0",
        source="2606.06320, and ours",
    ),
    "rd_loss": RunMetric(
        target="0",
        meaning="percent of that score that was lost, 100·max(0, (R0 − R)/R0); a gain counts as none",
        source=ATWU,
    ),
    "uq": RunMetric(target="100", meaning="harmonic mean of fq and 100 − rd", source=ATWU),
    "roc_auc": RunMetric(
        target="1, chance .5",
        meaning="how often a token in a span has more importance than one that is in none",
        source=ATWU,
    ),
    "average_precision": RunMetric(
        target="1, chance gold_share", meaning="precision of importance over all thresholds", source="scikit-learn"
    ),
    "precision_at_budget": RunMetric(
        target="1, chance gold_share", meaning="share in spans of the budget's share of highest importance", source="ours"
    ),
}
