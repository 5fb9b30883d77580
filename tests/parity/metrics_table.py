"""Each metric as its paper or the peers' code has it: from padded logits with labels of −100, or from plain counts.

Run as a script, it prints as a Markdown table how far ours, in float32 through the records, is from that in float64.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import torch
from nltk.stem.porter import PorterStemmer
from nltk.tokenize import NLTKWordTokenizer
from scipy.stats import hmean
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, one_hot

from deleatur.evaluation.metrics import METRICS, SET_METRICS
from deleatur.evaluation.metrics.table import Evidence
from deleatur.modeling.chunked_nll import token_statistics
from deleatur.types import Record

V = 37
KINDS = ("half", "all", "none", "tie before", "tie behind", "certain")  # how the labels stand among the logits
LENGTHS = (1, 2, 3, 7, 257)  # labelled tokens, the end of turn among them where there is one
TEXTS = (
    ("Runa Feldt was born in Tessholm.", "She was born in Tessholm, by the sea."),
    ("Many admired her eleven novels", "novels novels novels novels novels novels"),
    ("In 1971.", ""),
    ("Glass.", "Glass"),
    (
        "A prize, the Feldt medal, for poems about weavers.",
        "The medal was a prize for her poem (of weavers): a prize it was, a prize it was.",
    ),
)


@dataclass(frozen=True)
class Answer:
    """A sequence as others hold it, a prompt of −100 before the labels and two of padding behind them."""

    logits: Tensor  # (L, V), float64
    labels: Tensor  # (L,)


@dataclass(frozen=True)
class Case:
    answer: Answer
    restated: Answer | None
    wrong: tuple[Answer, ...]
    ends: bool
    text: str
    said: str


def make_answer(n: int, kind: str, seed: int) -> Answer:
    generator = torch.Generator().manual_seed(seed)
    prompt = 1 + seed % 4
    labels = torch.full((prompt + n + 2,), -100)
    labels[prompt : prompt + n] = torch.randint(1, V - 1, (n,), generator=generator)
    logits = 2 * torch.randn(len(labels), V, generator=generator).double()
    known = one_hot(labels.roll(-1).clamp(min=0), V).bool()  # position i predicts label i + 1
    top = logits.max(1).values + 1
    if kind == "half":
        logits = logits + 4 * known
    elif kind == "none":
        logits = logits.masked_fill(known, -9.0)
    else:
        logits = torch.where(known, top[:, None] + 60 * (kind == "certain"), logits)
    if kind.startswith("tie"):  # another token is as likely, on one side of the label or the other
        other = known.roll(-1 if kind == "tie before" else 1, 1)
        logits = torch.where(other, top[:, None], logits)
    return Answer(logits.float().double(), labels)


def make_cases(lengths: Sequence[int] = LENGTHS, kinds: Sequence[str] = KINDS, seeds: int = 3) -> Iterator[Case]:
    for count, (n, kind, ends, seed) in enumerate(product(lengths, kinds, (True, False), range(seeds))):
        text, said = TEXTS[count % len(TEXTS)]
        wrong = tuple(make_answer(1 + (n + k) % 9, "half", 100 * seed + k) for k in range(count % 5))
        restated = make_answer(1 + (3 * n) % 11, kind, seed + 50) if count % 2 else None
        yield Case(make_answer(n, kind, seed), restated, wrong, ends, text, said)


@cache
def cases() -> tuple[Case, ...]:
    return tuple(make_cases())


@cache
def record_of(case: Case, name: str = "row") -> Record:
    """As `deleatur.evaluation.predictions` makes it."""

    def said(a: Answer):
        scored = a.labels[1:] != -100
        return token_statistics(a.logits[:-1][scored].float(), a.labels[1:][scored], lambda h: h)

    def logp(a: Answer) -> tuple[float, ...]:
        return tuple((-said(a).nll).tolist())

    own = said(case.answer)
    return Record(
        id=name,
        question="What is known of her?",
        answer=case.text,
        generated=case.said,
        logp=logp(case.answer),
        hit=tuple(own.hit.tolist()),
        ends=case.ends,
        mean=tuple(own.mean.tolist()),
        deviation=tuple(own.deviation.tolist()),
        restated=None if case.restated is None else logp(case.restated),
        wrong=tuple(map(logp, case.wrong)),
    )


# of one row


def avg_loss(a: Answer) -> float:
    """OpenUnlearning's evaluate_probability: shifted, summed, over the number of labels."""
    losses = cross_entropy(a.logits[:-1], a.labels[1:], ignore_index=-100, reduction="none")
    return float(losses.sum() / (a.labels != -100).sum())


def total(a: Answer) -> float:
    return -avg_loss(a) * int((a.labels != -100).sum())


def without_end(case: Case) -> tuple[Tensor, Tensor]:
    """Log-probabilities over the vocabulary and labels of the answer's tokens; peers drop the last label as the end."""
    places = (case.answer.labels != -100).nonzero()[:, 0]
    places = places[:-1] if case.ends else places
    return log_softmax(case.answer.logits, -1)[places - 1], case.answer.labels[places]


def probability(case: Case) -> float:
    return math.exp(-avg_loss(case.answer))


def normalised_probability(case: Case) -> float | None:
    """TOFU: avg_true_prob / (avg_true_prob + Σ avg_false_prob)."""
    if not case.wrong:
        return None
    true, false = probability(case), [math.exp(-avg_loss(w)) for w in case.wrong]
    return true / sum([true, *false])


def ratio_of(case: Case) -> float | None:
    """TOFU's code: exp(mean perturbed loss − paraphrased loss), which is 1/r."""
    if not case.wrong:
        return None
    perturbed = sum(avg_loss(w) for w in case.wrong) / len(case.wrong)
    return math.exp(perturbed - avg_loss(case.restated or case.answer))


def truth_ratio(case: Case) -> float | None:
    inverse = ratio_of(case)
    return None if inverse is None else min(inverse, 1 / inverse)


def truth_ratio_kept(case: Case) -> float | None:
    inverse = ratio_of(case)
    return None if inverse is None else max(0.0, 1 - 1 / inverse)


def stems(text: str) -> list[str]:
    """rouge-score's words: lower case, a-z and 0-9 alone, those of more than three letters stemmed."""
    plain = "".join(c if c in "abcdefghijklmnopqrstuvwxyz0123456789" else " " for c in text.lower())
    return [PorterStemmer().stem(w) if len(w) > 3 else w for w in plain.split()]


def rouge_1(case: Case) -> float:
    truth, said = stems(case.text), stems(case.said)
    return sum((Counter(truth) & Counter(said)).values()) / len(truth)


def rouge_l(case: Case) -> float:
    truth, said = tuple(stems(case.text)), tuple(stems(case.said))

    @cache
    def common(i: int, j: int) -> int:
        if not i or not j:
            return 0
        return common(i - 1, j - 1) + 1 if truth[i - 1] == said[j - 1] else max(common(i - 1, j), common(i, j - 1))

    return common(len(truth), len(said)) / len(truth)


def extraction_strength(case: Case) -> float | None:
    """1 − min{k : the model, given the first k tokens, says all the others} / n; k = n is always such."""
    logp, labels = without_end(case)
    n = len(labels)
    if not n:
        return None
    return 1 - min(k for k in range(n + 1) if torch.equal(logp.argmax(-1)[k:], labels[k:])) / n


def peers_extraction_strength(case: Case) -> float:
    """OpenUnlearning's loop, which ends at k = n − 1."""
    logp, labels = without_end(case)
    k = 0
    for k in range(len(labels)):
        if torch.equal(logp.argmax(-1)[k:], labels[k:]):
            break
    return 1 - k / len(labels)


def exact_memorisation(case: Case) -> float | None:
    logp, labels = without_end(case)
    return float((logp.argmax(-1) == labels).double().mean()) if len(labels) else None


def min_k(case: Case) -> float | None:
    """OpenUnlearning's MinKProbAttack, k = .4."""
    logp, labels = without_end(case)
    values = logp.gather(1, labels[:, None])[:, 0].sort().values
    return -float(values[: max(1, int(len(values) * 0.4))].mean()) if len(values) else None


def min_k_plus(case: Case) -> float | None:
    """OpenUnlearning's MinKPlusPlusAttack, k = .4, the variance at least 1e-6."""
    logp, labels = without_end(case)
    mu = (logp.exp() * logp).sum(-1)
    sigma = (logp.exp() * logp.square()).sum(-1) - mu.square()
    values = ((logp.gather(1, labels[:, None])[:, 0] - mu) / sigma.clamp(min=1e-6).sqrt()).sort().values
    return -float(values[: max(1, int(len(values) * 0.4))].mean()) if len(values) else None


def zlib_loss(case: Case) -> float:
    return avg_loss(case.answer) / len(zlib.compress(case.text.encode("utf-8")))


def fluency(case: Case) -> float:
    """RWKU's n_gram_entropy: the mean of the weighted entropies of NLTK's n-grams."""
    weighted = weighted_entropies(case)
    return sum(weighted) / len(weighted)


def weighted_entropies(case: Case) -> list[float]:
    tokens = NLTKWordTokenizer().tokenize(case.said)
    weighted = []
    for n, weight in ((2, 2 / 3), (3, 4 / 3)):
        counts = Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
        shares = [c / sum(counts.values()) for c in counts.values()]
        weighted.append(weight * sum(-p * math.log(p) / math.log(2) for p in shares))
    return weighted


def accuracy(case: Case) -> float | None:
    """lm-eval: the choice with the highest log-likelihood; here no choice stands before the right one, the restated one."""
    scores = [*map(total, case.wrong), total(case.restated or case.answer)]
    return float(scores.index(max(scores)) == len(case.wrong)) if case.wrong else None


def accuracy_normalised(case: Case) -> float | None:
    scores = [*(-avg_loss(w) for w in case.wrong), -avg_loss(case.restated or case.answer)]
    return float(scores.index(max(scores)) == len(case.wrong)) if case.wrong else None


FORMULAS: dict[str, Callable[[Case], float | None]] = {
    "probability": probability,
    "normalised_probability": normalised_probability,
    "truth_ratio": truth_ratio,
    "truth_ratio_kept": truth_ratio_kept,
    "rouge_1": rouge_1,
    "rouge_l": rouge_l,
    "extraction_strength": extraction_strength,
    "exact_memorisation": exact_memorisation,
    "loss": lambda case: avg_loss(case.answer),
    "min_k": min_k,
    "min_k_plus": min_k_plus,
    "zlib": zlib_loss,
    "repetitiveness": lambda case: sum(weighted_entropies(case)),
    "fluency": fluency,
    "accuracy": accuracy,
    "accuracy_normalised": accuracy_normalised,
}


# of whole sets


@dataclass(frozen=True)
class EvaluatedSets:
    """Cases of one model, by set."""

    sets: dict[str, list[Case]]

    def means(self, formula: Callable[[Case], float | None], name: str) -> float:
        values = [v for case in self.sets[name] if (v := formula(case)) is not None]
        return sum(values) / len(values)


@cache
def ask(seed: int, kind: str = "half") -> EvaluatedSets:
    """Twelve rows a set, but fewer in the holdout, none of length 1; in the utility sets all have wrong answers."""
    lengths = (2, 3, 5, 9)
    sets = {
        name: [
            replace(
                c,
                answer=make_answer(lengths[i % 4], kind, seed + 1000 * k + i),
                wrong=tuple(make_answer(2 + (i + j) % 5, "half", seed + 1000 * k + 10 * i + j) for j in range(3)),
            )
            for i, c in enumerate(list(make_cases(lengths, ("half",), 2))[: 9 if name == "holdout" else 12])
        ]
        for k, name in enumerate(("forget", "holdout", "retain_perturbed", "real_authors", "world_facts"))
    }
    return EvaluatedSets(sets)


def records_of(evaluated: EvaluatedSets) -> dict[str, list[Record]]:
    """Ids as a row's number in its set."""
    return {name: [record_of(c, str(i)) for i, c in enumerate(rows)] for name, rows in evaluated.sets.items()}


def auc(score: Callable[[Case], float | None], evaluated: EvaluatedSets) -> float:
    """Of all pairs of a forget and a holdout row, how often the holdout row has the higher score; a tie is half."""
    forget, holdout = ([score(case) for case in evaluated.sets[name]] for name in ("forget", "holdout"))
    wins = [1.0 if h > f else 0.5 if h == f else 0.0 for f in forget for h in holdout]
    return sum(wins) / len(wins)


def model_utility(evaluated: EvaluatedSets, retrained: EvaluatedSets) -> float:
    real = (normalised_probability, rouge_l, truth_ratio_kept)
    parts = {"retain_perturbed": (probability, rouge_l, truth_ratio_kept), "real_authors": real, "world_facts": real}
    return float(hmean([evaluated.means(f, name) for name, fs in parts.items() for f in fs]))


def forget_quality(evaluated: EvaluatedSets, retrained: EvaluatedSets) -> float:
    """P(D ≥ d) of the two-sample Kolmogorov-Smirnov statistic: one minus the share of lattice paths that stay below d."""
    ours, theirs = (sorted(ratio_of(c) for c in a.sets["forget"]) for a in (evaluated, retrained))
    m, n = len(ours), len(theirs)
    points = sorted({*ours, *theirs})
    d = max(abs(sum(x <= p for x in ours) / m - sum(x <= p for x in theirs) / n) for p in points)

    @cache
    def paths(i: int, j: int) -> int:
        if abs(i / m - j / n) > d - 1e-9:
            return 0
        return 1 if not i and not j else (paths(i - 1, j) if i else 0) + (paths(i, j - 1) if j else 0)

    return 1 - paths(m, n) / math.comb(m + n, n)


def privleak(evaluated: EvaluatedSets, retrained: EvaluatedSets) -> float:
    score, ref = 1 - auc(min_k, evaluated), 1 - auc(min_k, retrained)
    return (score - ref) / (ref + 1e-10) * 100


def mia_reference(evaluated: EvaluatedSets, retrained: EvaluatedSets) -> float:
    theirs = {id(c): t for name in evaluated.sets for c, t in zip(evaluated.sets[name], retrained.sets[name], strict=True)}
    return auc(lambda case: avg_loss(case.answer) - avg_loss(theirs[id(case)].answer), evaluated)


WHOLE_FORMULAS: dict[str, Callable[[EvaluatedSets, EvaluatedSets], float]] = {
    "model_utility": model_utility,
    "forget_quality": forget_quality,
    "privleak": privleak,
    "mia_loss": lambda evaluated, _: auc(lambda case: avg_loss(case.answer), evaluated),
    "mia_min_k": lambda evaluated, _: auc(min_k, evaluated),
    "mia_min_k_plus": lambda evaluated, _: auc(min_k_plus, evaluated),
    "mia_zlib": lambda evaluated, _: auc(zlib_loss, evaluated),
    "mia_reference": mia_reference,
}


def deviation(name: str, case: Case) -> float:
    """Of ours from the formula; both or neither are None."""
    ours, theirs = METRICS[name].of(record_of(case)), FORMULAS[name](case)
    if ours is None or theirs is None:
        return 0.0 if ours is theirs else math.inf
    return abs(ours - theirs)


def whole_deviation(name: str, seed: int) -> float:
    evaluated, retrained = ask(seed), ask(seed + 1)
    found = SET_METRICS[name].of(Evidence(records=records_of(evaluated), retrained=records_of(retrained)))
    return abs(found["value"] - WHOLE_FORMULAS[name](evaluated, retrained)) if isinstance(found, dict) else math.inf


def main() -> None:
    print("| metric | largest deviation |\n|---|---|")
    for name in FORMULAS:
        print(f"| {name} | {max(deviation(name, case) for case in cases()):.1e} |")
    for name in WHOLE_FORMULAS:
        print(f"| {name} | {max(whole_deviation(name, seed) for seed in range(5)):.1e} |")


if __name__ == "__main__":
    main()
