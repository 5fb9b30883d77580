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
        meaning="is the greedy answer incoherent: empty, a loop, or to the start model hardly likelier than shuffled",
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
        meaning="forget rows given away by the worst answer to any variant (other words, shots); judged, else revealed",
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
    "fq_raw": RunMetric(target="100", meaning="fq with F the bare score, whatever the answers have become", source=ATWU),
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


def metrics_markdown() -> str:
    """The page docs/metrics.md: the tables, and how to read them."""
    rows = [("metric", "unit", "on forget rows", "meaning", "source")]
    rows += [(name, m.unit or "share", m.forget, m.meaning, m.source) for name, m in METRICS.items()]
    wholes = [("figure", "target", "meaning", "source")]
    wholes += [(name, w.target, w.meaning, w.source) for name, w in SET_METRICS.items()]
    runs = [("figure", "target", "meaning", "source")]
    runs += [(name, r.target, r.meaning, r.source) for name, r in RUN_METRICS.items()]
    return PAGE.format(rows=_markdown(rows), wholes=_markdown(wholes), runs=_markdown(runs))


def _markdown(rows: list[tuple[str, ...]]) -> str:
    lines = [rows[0], ("---",) * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


PAGE = """# Metrics

What `deleatur metrics --markdown` prints, from the code's own tables. Definitions with their edge cases stand in the
docstrings; `python tests/parity/metrics_table.py` compares each with a plain restatement of the published one.

## Of one row

In `results.json`, `before` and `after` give for each set and metric the mean over the rows to which the metric applies
(`value`), their number (`n`) and the standard error (`se`). A metric that applies to no row of a set is left out there.

{rows}

## Set metrics

In `results.json`, `set_metrics` gives `value`, `n` and what else belongs to it; where something is missing, `lacks` says
what. An AUC is the share of pairs of a forget row and an unseen row in which the forget row is the more
familiar: 1 = all are distinguished, .5 = none, 0 = all again, since forget rows have become the less familiar. `low` and
`high` are its 95 % interval (DeLong), `against` counts the other rows, `deviation` is the distance from the AUC on the
retrained model (`retrained`) or from .5, whichever side it is on. `se` of `specific_nll` and `other_nll` takes rows, not
tokens, for what was drawn; `forget` and `unseen` are the two means, and with a retrained model rows are compared with
themselves.

{wholes}

## Of a run

FQ, RD and UQ compare `after` with `before`, on the metric and the sets that `suite` names in `results.json`; null where
the start is 0 or was not evaluated. `unforgotten`, beside the metrics of each set, is the larger of that metric and
`incoherent`, row by row: F of FQ. RD counts a rise as well, since a run that trains retain rows in has not left the model
as it was; a paper's RD is `rd_loss`. The others stand in `importance`, over the forget rows that have spans; without
spans it is empty.

{runs}

## Where peers' numbers differ

- `revealed` without spans needs no list of languages. Two words are the same where only the ending differs (four
  letters in common at least, numbers whole, Korean by syllables); in scripts without blanks segments of two syllables
  or four letters count, Chinese characters in any of their variants (OpenCC's tables); what the question has does
  not. Where names or numbers of the fact are replaced by others, the words around them count for nothing. It is None,
  and a note counts these answers, where words alone can't tell: a changed stem or prefix (*Turku*, *Turussa*;
  *kitabu*, *vitabu*), another script (*القاهرة*, *Cairo*), a short answer without names that is said in part beside
  other words, another year beside a name that stays. On 26,596 pairs of two facts in 18 languages (cities, years,
  teachers, goods, alone and in the same sentence) it was above 0 in 4 (*Đà Nẵng*, *Đà Lạt*) and None in 1.9 %, three
  quarters of which are German years (*im Jahr 1948*, *im Jahr 1984*). Of 1,500 pairs of sentences on other people in
  the demo's world 2.3 % are above 0, most for a part of a name, and 2.1 % are None. Near names with one stem
  (*Niger*, *Nigeria*) count as said, and numbers in words are no numbers; give spans where that matters.
- The end of turn counts in `loss`, `probability` and what is made of them, and not in `extraction_strength`,
  `exact_memorisation`, `min_k` and `min_k_plus`: as in OpenUnlearning, which drops the last token of a plain text too,
  though that is no end of turn. RWKU and MUSE count every token.
- `extraction_strength` is 0 where the last token is wrong; OpenUnlearning gives 1/length there.
- r, of which `truth_ratio` is made, averages the wrong answers geometrically, as OpenUnlearning and TOFU's code do. TOFU's
  formula has the arithmetic mean, and its code calls 1/r the truth ratio; utility and p-value stay the same.
- `grad_norm` is the norm of the whole gradient; OpenUnlearning averages the norms of single tensors, without the
  end of turn. `zlib` packs the answer alone; OpenUnlearning packs all that is scored. Neither is exported under its names.
- Token ids: ours end with the end of turn; OpenUnlearning scores the template's whole rendering (ChatML's newline too) and
  an eos behind it where that is not last, under a system prompt of its configuration. `--data.layout open-unlearning` and
  `--data.system-prompt` give its very ids, and then every TOFU metric is its number
  (`tests/parity/test_open_unlearning.py`). `compare` says where layouts differ.
- Exports have OpenUnlearning's floor of extraction strength, and its figures of the restated answer (PARA) and of the
  wrong ones (PERT).
- The peers evaluate all rows of a suite, and so does the default; where `evaluation.rows` leaves some out, `n` says of how
  many.
- Texts made for attacks take the place of forget rows and holdout where they are: `forget_mia` of MUSE and RWKU,
  `retain_mia` of RWKU. RWKU's model knows both sides: there .5 says that forget texts are as familiar as others it knows.
- `forget_quality`, `privleak` and `mia_reference` without a retrained model (`--evaluation.retrained`) are not given, and
  `lacks` says so; OpenUnlearning then compares `privleak` with .5.
- `repetitiveness` and `fluency` take runs of letters and digits and single marks for words; RWKU takes NLTK's, which split
  contractions otherwise.
- `accuracy` takes a tie for a wrong answer; lm-eval gives it to the choice that stands first. On rows with a restated
  answer (TOFU's forget rows) that one is compared, since the wrong ones were made of it: the original wording against them
  would be right for a random model too.
"""
