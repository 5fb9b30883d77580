"""Every importance but the learned one restated in plain loops, and the largest deviation of ours on random tokens.

`python tests/parity/importances_table.py` prints the table.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np
import torch

from deleatur.importance import ETW, SEUL, SULLM, WGA, Contrast, SatImp, Spans, SUNgram, TokenUnlearn, Uniform
from deleatur.protocols import Prepares
from deleatur.types import Encoded, Example, Likelihood, Span, Start, TokenOutputs

SHAPES = ((3, 1, 5), (1,), (7, 257))
SEEDS = (0, 1)
WORDS, IDS = 53, 4  # the logits' vocabulary; few ids, so that n-grams are met again
Values = Sequence[float | Fraction]


@dataclass(frozen=True)
class Said:
    """A model that says something random of every row, and the same when it is asked again."""

    seed: int
    kept: dict[tuple[Encoded, str | None], Likelihood] = field(default_factory=dict)

    def __call__(self, rows: Sequence[Encoded], name: str | None) -> list[Likelihood]:
        return [self.kept.setdefault((row, name), self._draw(len(row.offsets))) for row in rows]

    def _draw(self, n: int) -> Likelihood:
        generator = torch.Generator().manual_seed(1000 * self.seed + len(self.kept))
        return Likelihood(nll=6 * torch.rand(n, generator=generator), entropy=3 * torch.rand(n, generator=generator))


def random_row(rng: random.Random, scored: int, name: str) -> Encoded:
    """A prompt of 1 to 4 ids, an answer of which every token but the last, the end, is one to three characters."""
    ends = [0]
    for _ in range(scored - 1):
        ends.append(ends[-1] + rng.randint(1, 3))
    size, start = ends[-1], rng.randint(1, 4)
    cuts = [sorted(rng.choices(range(size + 1), k=2)) for _ in range(3)]
    spans = tuple(Span(start=a, end=b, keep=i == 2) for i, (a, b) in enumerate(cuts))
    return Encoded(
        example=Example(id=name, prompt=(("user", "?"),), answer="x" * size, spans=spans),
        ids=tuple(rng.randrange(IDS) for _ in range(start + scored)),
        start=start,
        offsets=(*pairwise(ends), (size, size)),
    )


def random_tokens(lengths: Sequence[int], seed: int) -> tuple[TokenOutputs, Start]:
    """Outputs of no model for as many sequences as there are lengths, and a start that knows their rows in another order."""
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    n, rows = sum(lengths), tuple(random_row(rng, m, f"{seed}-{i}") for i, m in enumerate(lengths))
    tokens = TokenOutputs(
        nll=6 * torch.rand(n, generator=generator),
        hidden=torch.randn(n, 3, generator=generator),
        sequence=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
        rows=rows,
        logits=3 * torch.randn(n, WORDS, generator=generator),
    )
    retain = [random_row(rng, m, f"retain-{m}") for m in (2, 11, 1, 40)]
    turned = rows[::-1]

    def similarity(nearest: int, most: int) -> list[torch.Tensor]:
        return [torch.tensor(alike(row, nearest, most)) for row in turned]

    return tokens, Start(forget=turned, retain=retain, likelihood=Said(seed), similarity=similarity)


def alike(row: Encoded, nearest: int, most: int) -> list[float]:
    """A likeness of each token to retain tokens, in [−1, 1], for `test_contrast.py` has the real one."""
    rng = random.Random(f"{row.example.id} {nearest} {most}")
    return [rng.uniform(-1, 1) for _ in row.offsets]


def satimp(settings: SatImp, tokens: TokenOutputs, start: Start) -> Values:
    p = [math.exp(-nll) for nll in tokens.nll.tolist()]
    return [x**settings.beta1 * (1 - x) ** settings.beta2 for x in p]


def etw(settings: ETW, tokens: TokenOutputs, start: Start) -> Values:
    """n·H / ΣH within each sequence."""
    entropies = []
    for z in tokens.logits.double().numpy():
        p = np.exp(z) / np.exp(z).sum()
        entropies.append(-sum(x * math.log(x) for x in p))
    out = []
    for b in range(len(tokens.rows)):
        mine = [h for h, s in zip(entropies, tokens.sequence.tolist(), strict=True) if s == b]
        out += [len(mine) * h / math.fsum(mine) for h in mine]
    return out


def seul(settings: SEUL, tokens: TokenOutputs, start: Start) -> Values:
    """log p below the mean plus k deviations; whatever lies between two chosen ones at most gap + 1 apart is filled."""
    out = []
    for row in tokens.rows:
        surprise = start.likelihood([row], None)[0].nll.tolist()
        chosen = [i for i, x in enumerate(standing(surprise)) if x > -settings.k]
        filled = {i for a, b in pairwise(chosen) if b - a - 1 <= settings.gap for i in range(a, b)}
        out += [float(i in filled or i in chosen) for i in range(len(surprise))]
    return out


def su_llm(settings: SULLM, tokens: TokenOutputs, start: Start) -> Values:
    out = []
    for row in tokens.rows:
        now, before = (start.likelihood([row], name)[0].nll.tolist() for name in (None, settings.base))
        out += widened([abs(math.exp(-a) - math.exp(-b)) for a, b in zip(now, before, strict=True)], settings)
    return out


def su_ngram(settings: SUNgram, tokens: TokenOutputs, start: Start) -> Values:
    """p of a token: of all places with the same n − 1 ids before them (or, near a start, the same beginning), the share at
    which the token follows."""

    def p(rows: Sequence[Encoded], ids: Sequence[int], i: int) -> Fraction:
        met = [
            other.ids[j] == ids[i]
            for other in rows
            for j in range(len(other.ids))
            if other.ids[max(0, j - settings.n + 1) : j] == ids[max(0, i - settings.n + 1) : i]
        ]
        return Fraction(sum(met), len(met)) if met else Fraction(0)

    out = []
    for row in tokens.rows:
        places = range(row.start, len(row.ids))
        out += widened([abs(p(start.forget, row.ids, i) - p(start.retain, row.ids, i)) for i in places], settings)
    return out


def spans(settings: Spans, tokens: TokenOutputs, start: Start) -> Values:
    """1 for a token one of whose characters is in a span to forget."""
    out = []
    for row in tokens.rows:
        marked = {c for s in row.example.spans if not s.keep for c in range(s.start, s.end)}
        out += [float(any(c in marked for c in range(a, b))) for a, b in row.offsets]
    return out


def tokenunlearn(settings: TokenUnlearn, tokens: TokenOutputs, start: Start) -> Values:
    """Two signals, each from 0 to 1 within the answer; then the values themselves, or 1 for the largest."""
    out = []
    for row in tokens.rows:
        blanked = Encoded(
            example=row.example,
            ids=tuple(row.ids[-1] if i < row.start else x for i, x in enumerate(row.ids)),
            start=row.start,
            offsets=row.offsets,
        )
        (seen,), (unseen,) = start.likelihood([row], None), start.likelihood([blanked], None)
        context = stretched([abs(b - a) for a, b in zip(seen.nll.tolist(), unseen.nll.tolist(), strict=True)])
        openness = stretched(seen.entropy.tolist())
        mixed = [settings.mix * a + (1 - settings.mix) * b for a, b in zip(context, openness, strict=True)]
        if settings.share is not None:
            count = max(1, round(settings.share * len(mixed)))
            best = sorted(range(len(mixed)), key=lambda i: (-mixed[i], i))[:count]
            mixed = [float(i in best) for i in range(len(mixed))]
        out += mixed
    return out


def standing(values: Values) -> list[float]:
    """How many standard deviations each value lies above the mean; where all are equal, none lies above any mark."""
    mean = sum(values) / len(values)
    away = [float(v - mean) for v in values]
    deviation = math.sqrt(math.fsum(d * d for d in away) / len(away))
    return [d / deviation for d in away] if deviation else [-math.inf] * len(away)


def widened(values: Values, settings: SULLM | SUNgram) -> list[float]:
    """1 for what is above the mean plus k deviations, and for its neighbours."""
    chosen = [i for i, x in enumerate(standing(values)) if x > settings.k]
    return [float(any(abs(i - j) <= settings.widen for j in chosen)) for i in range(len(values))]


def stretched(values: Sequence[float]) -> list[float]:
    """From 0 to 1; all 0 where there is nothing to stretch."""
    low, high = min(values), max(values)
    return [(v - low) / (high - low) if high > low else 0.0 for v in values]


FORMULAS: dict[str, tuple[Callable[..., Values], Sequence[object]]] = {  # name → formula, and settings to compare with
    "uniform": (lambda settings, tokens, start: [1.0] * len(tokens.nll), [Uniform()]),
    "wga": (
        lambda settings, tokens, start: [math.exp(-nll) ** settings.beta for nll in tokens.nll.tolist()],
        [WGA(), WGA(beta=0.0), WGA(beta=0.37), WGA(beta=7.37)],
    ),
    "satimp": (satimp, [SatImp(), SatImp(beta1=0.3, beta2=0.1), SatImp(beta1=0.0, beta2=2.5)]),
    "etw": (etw, [ETW()]),
    "tokenunlearn": (tokenunlearn, [TokenUnlearn(mix=m, share=s) for m in (0, 0.3, 1) for s in (None, 0.2)]),
    "seul": (seul, [SEUL(), SEUL(k=-0.4, gap=0), SEUL(k=0.3, gap=1), SEUL(k=-1.1, gap=9)]),
    "su-llm": (su_llm, [SULLM(base="before"), SULLM(base="before", k=0.7, widen=0), SULLM(base="before", k=-0.3, widen=1)]),
    "su-ngram": (su_ngram, [SUNgram(), *(SUNgram(n=n, k=k, widen=w) for n in (1, 2, 4) for k in (0, 0.3) for w in (0, 1))]),
    "contrast": (
        lambda settings, tokens, start: [
            1 - min(max(x, 0.0), 1.0) for row in tokens.rows for x in alike(row, settings.nearest, settings.rows)
        ],
        [Contrast(), Contrast(nearest=1, rows=3)],
    ),
    "spans": (spans, [Spans()]),
}  # fmt: skip


@cache
def deviation(name: str, lengths: Sequence[int], seed: int) -> float:
    """The largest difference of any token's importance from the formula's; 0 for no tokens."""
    formula, cases = FORMULAS[name]
    found = [0.0]
    for settings in cases:
        tokens, start = random_tokens(lengths, seed)
        ours = (settings.prepare(start) if isinstance(settings, Prepares) else settings)(tokens).tolist()
        found += [abs(a - float(b)) for a, b in zip(ours, formula(settings, tokens, start), strict=True)]
    return float(np.max(found))  # not a number, if any is


def main() -> None:
    """Print the table."""
    print(f"{'importance':<14}{'largest deviation':>18}")
    for name in FORMULAS:
        print(f"{name:<14}{max(deviation(name, lengths, seed) for lengths in SHAPES for seed in SEEDS):>18.1e}")


if __name__ == "__main__":
    main()
