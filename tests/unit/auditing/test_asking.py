"""How a model is asked, and what is read off its answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from deleatur.auditing.asking import Generator, Question, cloze, leak_at, piece_tokens, pieces, probability_within
from deleatur.data.encode import Encoder, make_encoder
from deleatur.data.world import World
from deleatur.evaluation.predictions import Predictor, TokenPredictions, ends
from deleatur.evaluation.reasoning import with_reasoning
from deleatur.modeling.generation import greedy, sample
from deleatur.modeling.token_model import TokenModel
from deleatur.settings import Data, Evaluation
from deleatur.types import Encoded, Example, Span

OPEN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


@pytest.fixture(scope="module")
def generator(make_llama: Callable[..., object], plain: Encoder) -> Generator:
    return Generator(model=TokenModel(make_llama()), encoder=plain, new_tokens=6, batch=4)  # pyright: ignore


def test_the_facts_are_the_spans_that_must_go() -> None:
    example = Example(id="1", prompt=(("user", "Where?"),), answer="Ada lives in Paris.", spans=(Span(start=13, end=18),))
    assert [example.answer[a:b] for a, b in pieces(example)] == ["Paris"]


def test_without_spans_they_are_the_words_that_the_question_does_not_say() -> None:
    example = Example(id="1", prompt=(("user", "Where does Ada live?"),), answer="Ada is in the town of Paris.")
    assert [example.answer[a:b] for a, b in pieces(example)] == ["town", "Paris"]


def test_cloze_wants_every_token_of_a_fact(forget_rows: list[Encoded]) -> None:
    row = forget_rows[0]
    (places,) = piece_tokens(row)
    assert len(places) > 1
    said = TokenPredictions((-1.0,) * len(row.offsets), (True,) * len(row.offsets), (), (), None)
    missed = said._replace(hit=tuple(k != places[-1] for k in range(len(row.offsets))))
    assert cloze([row, row], [said, missed]) == [1.0, 0.0]


def test_the_exact_chance_grows_with_the_draws(forget_rows: list[Encoded]) -> None:
    """P = e^−1 for each of m tokens: 1 − (1 − e^−m)^k."""
    row = forget_rows[0]
    (places,) = piece_tokens(row)
    said = [TokenPredictions((-1.0,) * len(row.offsets), (), (), (), None)]
    p = math.exp(-len(places))
    for k in (1, 8, 64):
        assert probability_within([row], said, k)[0] == pytest.approx(1 - (1 - p) ** k)


@pytest.mark.parametrize(("hits", "n", "k", "chance"), [(0, 8, 8, 0.0), (1, 8, 8, 1.0), (1, 8, 1, 1 / 8), (2, 4, 2, 5 / 6)])
def test_leak_at_k_is_the_chance_that_k_of_the_answers_hold_a_leak(hits: int, n: int, k: int, chance: float) -> None:
    """Two of four leak: one pair of six holds none."""
    assert leak_at(hits, n, k) == pytest.approx(chance)


def test_a_lead_is_put_after_the_question_and_into_the_answer(generator: Generator, world: World) -> None:
    question = Question(row=0, example=world.forget[0])
    led = replace(question, lead="Sure, it is")
    prompt, longer = generator.prompt(question), generator.prompt(led)
    decode = generator.encoder.tokenizer.decode
    assert decode(longer).startswith(decode(prompt))
    assert decode(longer).endswith("Sure, it is")
    assert generator.answer([led])[0].startswith("Sure, it is")


def test_equal_questions_get_equal_answers(generator: Generator, world: World) -> None:
    question = Question(row=0, example=world.forget[0])
    first, second = generator.answer([question, replace(question, row=1)])
    assert first == second


def test_draws_follow_the_seed_and_differ_among_themselves(generator: Generator, world: World) -> None:
    questions = [Question(row=i, example=e) for i, e in enumerate(world.forget[:2])]
    drawn = generator.draw(questions, 6, seed=1)
    assert drawn == generator.draw(questions, 6, seed=1)
    assert drawn != generator.draw(questions, 6, seed=2)
    assert all(len(set(texts)) > 1 for texts in drawn)


@pytest.mark.parametrize("packs", [True, False])
def test_tokens_are_drawn_by_their_probability(make_llama: Callable[..., object], packs: bool) -> None:
    """The first token of 1000 draws after one prompt: every frequency within .06 of the model's own probability."""
    model = TokenModel(make_llama())  # pyright: ignore
    model.decoder.packs = packs
    prompt = (5, 9, 40)
    with torch.no_grad():
        p = model.lm(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    generator = torch.Generator().manual_seed(0)
    drawn = [ids for _ in range(20) for ids in sample(model, [prompt] * 50, ends=[1], new_tokens=1, generator=generator)]
    seen = torch.bincount(torch.tensor([ids[0] for ids in drawn]), minlength=len(p)) / len(drawn)
    assert float((seen - p).abs().max()) < 0.06


def test_what_the_model_thinks_first_is_not_part_of_its_answer(
    make_tokenizer: Callable[..., PreTrainedTokenizerFast], make_llama: Callable[..., LlamaForCausalLM]
) -> None:
    """The template opens a block for reasoning: the model's own stands in the prompt, and the answer begins behind it, also
    where it begins with words that it is given, and in every sample."""
    encoder = make_encoder(make_tokenizer(OPEN), Data(reasoning_tokens=6))
    generator = Generator(model=TokenModel(make_llama()).prepare(), encoder=encoder, new_tokens=6, batch=4)
    rows = [Example(id=str(k), prompt=(("user", f"Where was writer {k} born?"),), answer=f"In town {k}.") for k in range(2)]
    predictor = Predictor(model=generator.model, encoder=encoder, settings=Evaluation())
    thought = with_reasoning(predictor, {"asked": [encoder(e) for e in rows]})[0]["asked"]
    questions = [Question(row=k, example=e) for k, e in enumerate(rows)]
    prompts = [row.ids[: row.start] for row in thought]
    assert all(row.example.reasoning for row in thought)
    said = greedy(generator.model, prompts, ends=ends(encoder), new_tokens=6)
    assert generator.answer(questions) == [encoder.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in said]
    led = [generator.prompt(q) for q in generator.reasoned([replace(q, lead="In") for q in questions])]
    assert [ids[: len(prompt)] for ids, prompt in zip(led, prompts, strict=True)] == prompts
    drawn = sample(generator.model, prompts, ends=ends(encoder), new_tokens=6, generator=torch.Generator().manual_seed(1))
    texts = [[encoder.tokenizer.decode(ids, skip_special_tokens=True).strip()] for ids in drawn]
    assert generator.draw(questions, 1, 1) == texts


@pytest.mark.parametrize("ending", [" </s>", "\n\n<|im_end|>", "", "\n"])
def test_nothing_of_an_ending_stands_behind_a_lead(
    ending: str, make_tokenizer: Callable[..., PreTrainedTokenizerFast], generator: Generator
) -> None:
    turns = "{% for m in messages %}<|im_start|>{{ m.content }}{% if m.role == 'assistant' %}ENDING{% endif %}{% endfor %}"
    template = turns.replace("ENDING", ending) + "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    encoder = make_encoder(make_tokenizer(template), Data())
    asked = Question(row=0, example=Example(id="1", prompt=(("user", "Who?"),), answer="Ada."), lead="Sure, it is")
    assert encoder.tokenizer.decode(replace(generator, encoder=encoder).prompt(asked)).endswith("Sure, it is")
