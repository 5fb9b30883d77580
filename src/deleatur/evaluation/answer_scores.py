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
    start: Predictor, sets: Mapping[str, Sequence[Encoded]], records: Mapping[str, Sequence[Record]]
) -> dict[str, list[Record]]:
    """The records, each with what `start` says of its generated answer behind the prompt that it answers, and of the same
    tokens shuffled.

    `sets` holds the encoded rows of the records, in their order. Equal answers to one prompt are scored once. The end of
    turn is not scored, so that an answer cut at the token limit is as good as a whole one. A record whose row was
    asked nothing stays as it is; an answer without text has 0 tokens.
    """
    orders: dict[tuple[tuple[int, ...], str], list[Encoded]] = {}
    for name, rows in sets.items():
        for row, record in zip(rows, records[name], strict=True):
            key = row.ids[: row.start], record.generated
            if record.generated and key not in orders:
                orders[key] = _in_orders(_answered(start.encoder, row, record.generated))
    texts = list(dict.fromkeys(text for each in orders.values() for text in each))
    start.model.eval()
    passed = start.likelihood(texts, what=WHAT, detailed=())
    nlls = dict(zip(texts, map(_nll, passed), strict=True))

    def scored(row: Encoded, record: Record) -> Record:
        """The record with the start model's NLL of its answer, in order and shuffled."""
        if not record.question:
            return record
        if not record.generated:
            return replace(record, start_tokens=0)
        in_order, *others = orders[row.ids[: row.start], record.generated]
        shuffled = fmean(nlls[other] for other in others)
        return replace(
            record, start_nll=nlls[in_order], shuffled_nll=shuffled, start_tokens=len(in_order.ids) - in_order.start
        )

    return {name: [scored(*both) for both in zip(rows, records[name], strict=True)] for name, rows in sets.items()}


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
