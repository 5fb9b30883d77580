"""Answers of a model to questions: generated greedily, sampled, and teacher-forced."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from deleatur.data.encode import Encoder
from deleatur.errors import ModelError
from deleatur.evaluation.metrics.pieces import STOP_WORDS
from deleatur.evaluation.predictions import Predictor, TokenPredictions, likelihood_pass
from deleatur.evaluation.reasoning import with_reasoning
from deleatur.modeling.generation import greedy, sample
from deleatur.modeling.token_model import TokenModel
from deleatur.settings import Evaluation, Precision
from deleatur.types import Encoded, Example


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question for a row's fact. `example` holds the prompt and the answer that gives the fact away; `lead` is a prefill,
    text that the answer begins with."""

    row: int
    example: Example
    lead: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Generator:
    """A model that answers, with its encoder and the longest length of an answer."""

    model: TokenModel
    encoder: Encoder
    new_tokens: int
    batch: int
    precision: Precision = "fp32"

    def computing(self) -> contextlib.AbstractContextManager[object]:
        """Inside, products are in the generator's precision. Around one call each: the weights' rounded copies stay until
        the end, and attacks change the weights in between."""
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def answer(self, questions: Sequence[Question]) -> list[str]:
        """Greedy answers; equal prompts are answered once."""
        prompts = self._prompts(questions)
        unique = sorted(set(prompts), key=len)
        answers: dict[tuple[int, ...], str] = {}
        for part in self._parts(unique):
            with self.computing():
                ids = greedy(self.model, part, ends=self.encoder.stops, new_tokens=self.new_tokens)
            answers |= dict(zip(part, map(self._text, ids), strict=True))
        return [f"{q.lead} {answers[p]}".lstrip() for q, p in zip(questions, prompts, strict=True)]

    def draw(self, questions: Sequence[Question], samples: int, seed: int) -> list[list[str]]:
        """So many answers to each, drawn at temperature 1."""
        generator = torch.Generator().manual_seed(seed)
        prompts = [prompt for prompt in self._prompts(questions) for _ in range(samples)]
        answers: list[str] = []
        for part in self._parts(prompts):
            how = {"ends": self.encoder.stops, "new_tokens": self.new_tokens}
            with self.computing():
                answers += map(self._text, sample(self.model, part, generator=generator, **how))
        return [answers[i : i + samples] for i in range(0, len(answers), samples)]

    def reasoned(self, questions: Sequence[Question]) -> list[Question]:
        """The questions with the model's own reasoning, greedy, where the chat template opens a block for that.

        Only the answer after it is judged.
        """
        if not self.encoder.reasons:
            return list(questions)
        predictor = Predictor(model=self.model, encoder=self.encoder, settings=Evaluation(batch=self.batch))
        with self.computing():
            rows = with_reasoning(predictor, {"asked": [self.encoder(q.example) for q in questions]})[0]["asked"]
        return [replace(q, example=row.example) for q, row in zip(questions, rows, strict=True)]

    def _prompts(self, questions: Sequence[Question]) -> list[tuple[int, ...]]:
        """Raises ModelError where the model cannot read one with its answer."""
        prompts = [self.prompt(q) for q in self.reasoned(questions)]
        longest, room = max(map(len, prompts), default=0), getattr(self.model.lm.config, "max_position_embeddings", None)
        if room and longest + self.new_tokens > room:
            raise ModelError(
                f"a prompt has {longest} tokens and its answer up to {self.new_tokens}, but the model reads {room} in all; "
                "lower audit.new_tokens, or leave out ways to ask with long prompts (audit.ways)"
            )
        return prompts

    def prompt(self, question: Question) -> tuple[int, ...]:
        """Token ids of the prompt, and of the prefill where there is one."""
        example = question.example
        if not question.lead:
            made = self.encoder(example)
            return made.ids[: made.start]
        made = self.encoder(_bare(example, question.lead))
        closing = sum(a == b == len(question.lead) for a, b in made.offsets)
        return made.ids[: len(made.ids) - closing]

    def predictions(self, rows: Sequence[Encoded]) -> list[TokenPredictions]:
        """Predictions of each row's answer tokens, teacher-forced."""
        self.model.eval()
        with self.computing():
            return likelihood_pass(self.model, list(rows), self.batch)

    def nll(self, rows: Sequence[Encoded]) -> float:
        """Mean over all rows' answer tokens, nats."""
        return mean_nll(self.predictions(rows))

    def _parts(self, prompts: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
        size = (4 if self.model.packs else 2) * self.batch
        return [list(prompts[i : i + size]) for i in range(0, len(prompts), size)]

    def _text(self, ids: Sequence[int]) -> str:
        return self.encoder.answer_of(ids)[0]


def mean_nll(predictions: Sequence[TokenPredictions]) -> float:
    """Mean over all rows' answer tokens, nats."""
    found = [p for row in predictions for p in row.logp]
    return -sum(found) / len(found) if found else math.nan


def _bare(example: Example, answer: str) -> Example:
    return Example(id=example.id, prompt=example.prompt, answer=answer, reasoning=example.reasoning)


def pieces(example: Example) -> list[tuple[int, int]]:
    """Characters of the answer that are its fact: the spans to forget, or the content words; without those that the
    question says already, unless all are of that kind."""
    found = [(s.start, s.end) for s in example.spans if not s.keep]
    if not found:
        words = [m.span() for m in re.finditer(r"\w+", example.answer)]
        found = [(a, b) for a, b in words if example.answer[a:b].casefold() not in STOP_WORDS] or words
    question = example.question.casefold()
    return [(a, b) for a, b in found if example.answer[a:b].casefold() not in question] or found


def piece_tokens(row: Encoded) -> list[list[int]]:
    """The places, among the row's scored tokens, of each piece's tokens; pieces that were cut off are left out."""
    found = ([k for k, (a, b) in enumerate(row.offsets) if a < end and start < b] for start, end in pieces(row.example))
    return [places for places in found if places]


def cloze(rows: Sequence[Encoded], predictions: Sequence[TokenPredictions]) -> list[float]:
    """Share of each row's pieces that the model completes by its first choices when it is given the answer up to there."""
    pairs = zip(rows, predictions, strict=True)
    return [_mean([float(all(p.hit[k] for k in places)) for places in piece_tokens(row)]) for row, p in pairs]


def probability_within(rows: Sequence[Encoded], predictions: Sequence[TokenPredictions], draws: int) -> list[float]:
    """Chance that so many draws contain a piece, the answer up to there given: 1 − (1 − P)^k, a mean over the pieces."""
    out = []
    for row, p in zip(rows, predictions, strict=True):
        chances = [math.exp(min(sum(p.logp[k] for k in places), 0.0)) for places in piece_tokens(row)]
        out.append(_mean([-math.expm1(draws * math.log1p(-min(c, 1 - 1e-12))) for c in chances]))
    return out


def leak_at(hits: int, n: int, k: int) -> float:
    """Chance that k of n answers, of which `hits` leak, contain one that does: 1 − C(n − c, k) / C(n, k) (2511.04934)."""
    return 1 - math.comb(n - hits, k) / math.comb(n, k)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
