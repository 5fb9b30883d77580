"""A model's predictions on examples: one likelihood pass and one generation pass, shared by all metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch

from deleatur.data.batches import collate, in_batches
from deleatur.data.encode import Encoder
from deleatur.distributed.processes import gather, share
from deleatur.evaluation.batch_cache import BatchCache
from deleatur.evaluation.variants import other_answers
from deleatur.modeling.generation import greedy
from deleatur.modeling.token_model import TokenModel
from deleatur.protocols import Importance
from deleatur.requirements import Requirements
from deleatur.settings import Evaluation
from deleatur.types import Batch, Encoded, Example, Record

BatchProgress = Callable[[str, int, int, str], None]  # what is done, how much of it, of how much, how fast
MEMBERSHIP = ("forget", "holdout", "forget_mia", "retain_mia")
NO_CACHE = BatchCache()


class Watch(NamedTuple):
    """A pass's name, its progress callback, and the cache of finished batches."""

    what: str = "likelihood"
    progress: BatchProgress = lambda what, done, total, rate: None
    batch_cache: BatchCache = NO_CACHE


UNWATCHED = Watch()


class TokenPredictions(NamedTuple):
    """A model's predictions of one row's scored tokens."""

    logp: tuple[float, ...]  # nats
    hit: tuple[bool, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    importance: tuple[float, ...] | None

    def bare(self) -> TokenPredictions:
        """The same without first choices, means and deviations."""
        return self._replace(hit=(), mean=(), deviation=())


class Generated(NamedTuple):
    """A greedy answer, and whether it reached the limit of tokens before its end; None where nothing was generated."""

    text: str
    cut: bool | None
    tokens: int = 0


NOTHING = Generated("", None)
Text = tuple[tuple[int, ...], int]  # a row's ids, and where its answer starts


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictor:
    """Evaluates a model: settings, progress callback, and the cache of finished batches."""

    model: TokenModel
    encoder: Encoder
    settings: Evaluation
    progress: BatchProgress = lambda what, done, total, rate: None
    batch_cache: BatchCache = NO_CACHE

    def records(
        self, sets: Mapping[str, Sequence[Encoded]], *, importance: Importance | None = None, generate: bool = True
    ) -> dict[str, list[Record]]:
        """Records of every set. All sets share one likelihood pass and one generation pass, in which no text comes twice.

        Without `generate` the answers stay empty; only likelihoods are computed.
        """
        self.model.eval()
        rows = list(dict.fromkeys(row for encoded in sets.values() for row in encoded))
        others = {row: [self.encoder(e) for e in other_answers(row.example)] for row in rows}
        key = _text if importance is None else _itself  # an importance may know a row by more than its tokens
        texts = {key(row): row for row in rows} | {_text(o): o for predicted in others.values() for o in predicted}
        own_answers = {_text(row) for row in rows}  # of the other answers nothing but their likelihood is read
        predicted = dict(zip(texts, self.likelihood(list(texts.values()), importance, detailed=own_answers), strict=True))
        norms = self._gradient_norms(sets) if self.settings.grad_norm else {}
        answers = self.generate(rows) if generate else {}
        made = {
            row: make_record(
                row,
                predicted[key(row)],
                others=[predicted[_text(o)].logp for o in others[row]],
                generated=answers.get(row, NOTHING),
                grad_norm=norms.get(row),
            )
            for row in rows
        }
        return {name: [made[row] for row in encoded] for name, encoded in sets.items()}

    def likelihood(
        self,
        rows: Sequence[Encoded],
        importance: Importance | None = None,
        *,
        what: str = "likelihood",
        detailed: Collection[Text] | None = None,
    ) -> list[TokenPredictions]:
        """The model's predictions of each row, see `likelihood_pass`. `what` names the pass for progress and cache."""
        watch = Watch(what, self.progress, self.batch_cache)
        return likelihood_pass(self.model, rows, self.settings.batch, importance, detailed=detailed, watch=watch)

    def _gradient_norms(self, sets: Mapping[str, Sequence[Encoded]]) -> dict[Encoded, float]:
        """Norm of the gradient of each row's mean NLL in the trained weights, for the sets that membership is read from."""
        rows = list(dict.fromkeys(row for name in MEMBERSHIP for row in sets.get(name, ())))
        shared, norms = share(range(len(rows))), {}
        for done, place in enumerate(shared, 1):
            make = partial(_gradient_norm, self.model, rows[place])
            norms[place], _ = self.batch_cache.get_or_make("gradient norm", rows[place], make)
            self.progress("gradient norms", done, len(shared), "")
        return {rows[place]: norm for part in gather(list(norms.items())) for place, norm in part}

    def generate(self, rows: Sequence[Encoded], *, closing: str = "", most: int | None = None) -> dict[Encoded, Generated]:
        """Greedy answers, decoded; rows of equal prompt are generated once, plain texts not at all.

        With `closing`, what ends a block for reasoning, the reasoning before the answer is generated. `most` is the limit
        of tokens (default: the settings').
        """
        encoder = self.encoder
        prompts = {prompt_of(row, encoder, closing): NOTHING for row in rows if _has_question(row.example)}
        order, rate, size = share(sorted(prompts, key=len)), _Rate(), (4 if self.model.packs else 2) * self.settings.batch
        most = most or self.settings.new_tokens
        stops = sorted(ends(encoder, closing))
        what = "reasoning" if closing else "generation"
        for first in range(0, len(order), size):
            part = order[first : first + size]
            how = {"ends": stops, "new_tokens": most}
            predicted, now = self.batch_cache.get_or_make(what, (part, how), partial(greedy, self.model, part, **how))
            for prompt, ids in zip(part, predicted, strict=True):
                prompts[prompt] = _decoded(encoder, ids, closing, cut=len(ids) == most and ids[-1] not in stops)
            self.progress(what, first + len(part), len(order), rate(sum(map(len, predicted)) if now else 0))
        for part in gather([(prompt, prompts[prompt]) for prompt in order]):
            prompts |= {tuple(prompt): Generated(*found) for prompt, found in part}
        return {row: prompts[prompt_of(row, encoder, closing)] for row in rows if _has_question(row.example)}


@torch.no_grad()
def likelihood_pass(
    model: TokenModel,
    rows: Sequence[Encoded],
    size: int,
    importance: Importance | None = None,
    *,
    detailed: Collection[Text] | None = None,
    watch: Watch = UNWATCHED,
) -> list[TokenPredictions]:
    """The model's predictions of each row, `size` rows at a time.

    `detailed` holds the texts of which more is read than the likelihood of their tokens (default: all); for the others
    there are no statistics, which take half of the head's time.
    """
    what, progress, batch_cache = watch
    out: dict[int, TokenPredictions] = {}
    rate = _Rate()
    shared = share(sorted(range(len(rows)), key=lambda i: len(rows[i].ids)))
    for places, batch in in_batches([rows[i] for i in shared], size):
        made, now = batch_cache.get_or_make(what, batch.rows, partial(_predict_batch, model, batch, importance, detailed))
        out |= {
            shared[place]: TokenPredictions(*map(_tuple, predicted)) for place, predicted in zip(places, made, strict=True)
        }
        progress(what, len(out), len(shared), rate(sum(len(row.ids) for row in batch.rows) if now else 0))
    for part in gather(list(out.items())):
        out |= {place: TokenPredictions(*map(_tuple, predicted)) for place, predicted in part}
    return [out[place] for place in range(len(rows))]


def make_record(
    row: Encoded,
    predictions: TokenPredictions,
    *,
    others: Sequence[tuple[float, ...]] = (),
    generated: Generated = NOTHING,
    grad_norm: float | None = None,
) -> Record:
    """A row with its predictions; `others`: log p of its restated answer, where it has one, and of the wrong ones."""
    example = row.example
    return Record(
        id=example.id,
        question=example.question if _has_question(example) else "",
        answer=example.answer,
        generated=generated.text,
        cut=generated.cut,
        beyond=bool(generated.cut) and tokens_to_fact(row) > generated.tokens,
        reasoning=example.reasoning,
        reasoning_cut=example.reasoning_cut,
        logp=predictions.logp,
        hit=predictions.hit,
        ends=row.offsets[-1][0] == row.offsets[-1][1],
        spans=example.spans,
        offsets=row.offsets,
        importance=predictions.importance,
        gold=row.gold,
        subject=example.subject,
        mean=predictions.mean,
        deviation=predictions.deviation,
        restated=others[0] if example.restated is not None else None,
        wrong=tuple(others[example.restated is not None :]),
        restated_answer=example.restated,
        wrong_answers=example.wrong,
        grad_norm=grad_norm,
    )


def tokens_to_fact(row: Encoded) -> int:
    """How many tokens of the right answer end with its first marked fact; 0 without marks: then all of it counts."""
    marked = {k for k, gold in enumerate(row.gold or ()) if gold}
    return min((k + 1 for k in marked if k + 1 not in marked), default=0)


def _text(row: Encoded) -> Text:
    return row.ids, row.start


def _itself(row: Encoded) -> Encoded:
    return row


def _has_question(example: Example) -> bool:
    """Is there something to generate? A text has no question, and multiple choice only compares answers."""
    return bool(example.prompt) and not (example.wrong and example.prompt[0][0] == "text")


def _predict_batch(
    model: TokenModel, batch: Batch, importance: Importance | None, detailed: Collection[Text] | None
) -> list[TokenPredictions]:
    reads = Requirements() if importance is None else importance.requires
    chosen = torch.tensor([detailed is None or _text(r) in detailed for r in batch.rows], dtype=torch.bool)
    statistics = chosen[batch.sequence]
    tokens = model(batch.to(model.device), statistics=statistics, **reads.forward)
    g = torch.full_like(tokens.nll, torch.nan) if importance is None else importance(tokens)
    counts = tokens.sequence.bincount(minlength=len(batch.rows)).tolist()
    columns = (-tokens.nll, tokens.statistics.hit, tokens.statistics.mean, tokens.statistics.deviation, g)
    rows = (map(tuple, map(torch.Tensor.tolist, parts)) for parts in zip(*(c.split(counts) for c in columns), strict=True))
    made = [TokenPredictions(a, b, c, d, None if any(map(math.isnan, values)) else values) for a, b, c, d, values in rows]
    return [p if detailed is None or _text(r) in detailed else p.bare() for p, r in zip(made, batch.rows, strict=True)]


def _tuple(x: Sequence | None) -> Any:
    return None if x is None else tuple(x)


@torch.enable_grad()
def _gradient_norm(model: TokenModel, row: Encoded) -> float:
    nll = model(collate([row]).to(model.device)).nll.mean()
    grads = torch.autograd.grad(nll, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    return float(torch.stack([g.float().norm() for g in grads if g is not None]).norm())


def prompt_of(row: Encoded, encoder: Encoder, closing: str) -> tuple[int, ...]:
    """The ids before the answer; with `closing`, those before it alone, of a row that has no reasoning yet."""
    if not closing:
        return row.ids[: row.start]
    return encoder.before_reasoning(row.example)


def _decoded(encoder: Encoder, ids: list[int], closing: str, *, cut: bool) -> Generated:
    """The text without special tokens; of reasoning, as it stands, what comes before the mark that closes it."""
    if not closing:
        answer, ended = encoder.answer_of(ids)
        return Generated(answer, cut and not ended, len(ids))
    text, found, _ = str(encoder.tokenizer.decode(ids)).partition(closing.strip())
    if found:
        return Generated(text, False)
    return Generated(f"{str(encoder.tokenizer.decode(ids, skip_special_tokens=True)).rstrip()}\n", cut)


def ends(encoder: Encoder, closing: str = "") -> frozenset[int]:
    """What a generated answer ends at; reasoning also at its mark, if a token."""
    mark = encoder.tokens(closing.strip()) if closing else ()
    return encoder.stops | (frozenset(mark) if len(mark) == 1 else frozenset())


class _Rate:
    """Tokens a second since it was made, in words."""

    def __init__(self) -> None:
        self._began, self._tokens = time.perf_counter(), 0

    def __call__(self, more: int) -> str:
        self._tokens += more
        return f"{self._tokens / max(time.perf_counter() - self._began, 1e-9):.0f} tokens/s"
