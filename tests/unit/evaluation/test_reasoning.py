"""The model's own reasoning stands before the answers that its chat template sets behind it."""

from __future__ import annotations

import pytest
import torch

from deleatur.data.encode import encode_all, make_encoder
from deleatur.errors import ModelError
from deleatur.evaluation.aggregate import answer_notes
from deleatur.evaluation.predictions import Predictor
from deleatur.evaluation.reasoning import with_reasoning
from deleatur.modeling.token_model import TokenModel
from deleatur.settings import Data, Evaluation
from deleatur.types import Example

OPEN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
ROWS = [Example(id=str(k), prompt=(("user", f"Where was writer {k} born?"),), answer=f"In town {k}.") for k in range(3)]
TEXT = Example(id="t", prompt=(), answer="The writer was born in a small town.")


@pytest.fixture
def encoder(make_tokenizer):
    return make_encoder(make_tokenizer(OPEN), Data(reasoning_tokens=6))


def predicts(lm, encoder) -> Predictor:
    return Predictor(model=TokenModel(lm).prepare(), encoder=encoder, settings=Evaluation(new_tokens=4))


def test_it_is_what_the_model_says_after_the_open_block(encoder, make_llama):
    """Greedy by hand, six tokens at most, then the block is closed and the answer comes, which alone is scored."""
    lm = make_llama()
    predictor = predicts(lm, encoder)
    rows = encode_all(encoder, [*ROWS, TEXT])
    sets, notes = with_reasoning(predictor, {"forget": rows})
    *asked, text = sets["forget"]
    assert text == rows[-1]
    for row in asked:
        prompt, said = encoder.before_reasoning(row.example), []
        while len(said) < 6 and not (said and said[-1] in (1, 3)):
            said.append(int(lm(input_ids=torch.tensor([[*prompt, *said]])).logits[0, -1].argmax()))
        reasoning = encoder.tokenizer.decode(said, skip_special_tokens=True).rstrip() + "\n"
        assert row.example.reasoning == reasoning
        assert encoder.tokenizer.decode(row.ids[: row.start]).endswith(f"<think>\n{reasoning}</think>\n\n")
        assert encoder.tokenizer.decode(row.ids[row.start :]) == f"{row.example.answer}<|im_end|>"
    assert "up to 6 tokens" in notes[0] and "rows it was cut there" in notes[0]
    made = predictor.records(sets)["forget"]
    cut = sum(row.example.reasoning_cut for row in asked)
    assert f"in {cut} of them it was cut at data.reasoning_tokens" in answer_notes({"forget": made}, 4)[-1]
    assert [r.reasoning_cut for r in made] == [row.example.reasoning_cut for row in sets["forget"]]
    assert [r.reasoning for r in made] == [row.example.reasoning for row in sets["forget"]]
    assert [r.cut is None for r in made] == [False, False, False, True]


def test_rows_stay_as_they_are_where_the_template_opens_no_block(chat, make_llama):
    rows = encode_all(chat, ROWS)
    assert with_reasoning(predicts(make_llama(), chat), {"forget": rows}) == ({"forget": rows}, ())


def test_a_model_that_has_no_room_for_it_is_refused_with_what_to_do(encoder, make_llama):
    lm = make_llama()
    rows = encode_all(encoder, ROWS)
    lm.config.max_position_embeddings = max(len(row.ids) for row in rows)
    with pytest.raises(ModelError, match=r"leaves none for the reasoning .*; set data.max_length to"):
        with_reasoning(predicts(lm, encoder), {"forget": rows})
