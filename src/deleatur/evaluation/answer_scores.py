"""The start model's NLL of generated answers: the numbers that the metric `incoherent` reads."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from deleatur.data.encode import Encoder
from deleatur.evaluation.predictions import Predictor, TokenPredictions
from deleatur.types import Encoded, Record

WHAT = "answers scored"
SHUFFLES = 2  # other orders of an answer's tokens: one alone may by chance be nearly the answer's own


def scored_by_start(
    start: Predictor,
    sets: Mapping[str, Sequence[Encoded]],
    records: Mapping[str, Sequence[Record]],
    known: Mapping[str, Sequence[Record]] | None = None,
    *,
    own: bool = False,
) -> dict[str, list[Record]]:
    """The records, each with what `start` says of its generated answer behind the prompt that it answers, and of the same
    tokens shuffled.

    `sets` holds the encoded rows of the records, in their order. Equal answers to one prompt are scored once. The end of
    turn is not scored, so that an answer cut at the token limit is as good as a whole one. A record whose row was
    asked nothing stays as it is; an answer without text has 0 tokens. `known` holds records of these rows that the same
    start model has scored: an answer that stands there already is not scored again. With `own` the records are `start`'s
    own, so that its NLL of an answer that is the row's is in them.
    """
    nlls: dict[Encoded, float] = {}
    earlier = {name: (known or {}).get(name) or [None] * len(rows) for name, rows in sets.items()}
    orders: dict[tuple[tuple[int, ...], str], list[Encoded]] = {}
    for name, rows in sets.items():
        for row, record, was in zip(rows, records[name], earlier[name], strict=True):
            key = row.ids[: row.start], record.generated
            if record.generated and key not in orders and not _says_the_same(was, record):
                orders[key] = _in_orders(answered := _answered(start.encoder, row, record.generated))
                if own and answered.ids == row.ids[: len(answered.ids)]:
                    nlls[answered] = -fmean(record.logp[: len(answered.ids) - answered.start])
    texts = [text for text in dict.fromkeys(text for each in orders.values() for text in each) if text not in nlls]
    start.model.eval()
    passed = start.likelihood(texts, what=WHAT, detailed=())
    nlls |= dict(zip(texts, map(_nll, passed), strict=True))

    def scored(row: Encoded, record: Record, was: Record | None) -> Record:
        """The record with the start model's NLL of its answer, in order and shuffled."""
        if not record.question:
            return record
        if not record.generated:
            return replace(record, start_tokens=0)
        if was is not None and _says_the_same(was, record):
            return replace(record, start_nll=was.start_nll, shuffled_nll=was.shuffled_nll, start_tokens=was.start_tokens)
        in_order, *others = orders[row.ids[: row.start], record.generated]
        shuffled = fmean(nlls[other] for other in others)
        return replace(
            record, start_nll=nlls[in_order], shuffled_nll=shuffled, start_tokens=len(in_order.ids) - in_order.start
        )

    rows_of = {name: zip(rows, records[name], earlier[name], strict=True) for name, rows in sets.items()}
    return {name: [scored(*each) for each in rows] for name, rows in rows_of.items()}


def _says_the_same(was: Record | None, record: Record) -> bool:
    """Was the same answered there to the same prompt, and scored?"""
    if was is None or was.start_tokens is None:
        return False
    return all(getattr(was, name) == getattr(record, name) for name in ("id", "question", "reasoning", "generated"))


def _answered(encoder: Encoder, row: Encoded, answer: str) -> Encoded:
    """The row's prompt with another answer and nothing after it."""
    bare = replace(row.example, answer=answer, spans=(), restated=None, wrong=(), alternates=(), paraphrases=())
    made = encoder(bare)
    kept = max(1, len(made.offsets) - (made.offsets[-1][0] == made.offsets[-1][1]))
    return replace(made, ids=made.ids[: made.start + kept], offsets=made.offsets[:kept])


def _in_orders(answered: Encoded) -> list[Encoded]:
    """The answer as it stands, then its tokens shuffled; the same answer is always shuffled in the same ways."""
    prompt, tokens = answered.ids[: answered.start], list(answered.ids[answered.start :])
    rng, out = random.Random(answered.example.answer), [answered]
    for _ in range(SHUFFLES):
        rng.shuffle(tokens)
        out.append(replace(answered, ids=(*prompt, *tokens)))
    return out


def _nll(predictions: TokenPredictions) -> float:
    return -fmean(predictions.logp)
