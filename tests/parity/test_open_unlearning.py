"""With `data.layout open-unlearning` rows have that tool's very ids, and every TOFU metric is its number, row by row."""

from __future__ import annotations

import pytest
import torch
from open_unlearning import item, row

from deleatur.data.encode import make_encoder
from deleatur.evaluation.aggregate import measure
from deleatur.evaluation.metrics import METRICS
from deleatur.evaluation.predictions import Predictor
from deleatur.modeling.token_model import TokenModel
from deleatur.report.interop import ROWS as EXPORTED
from deleatur.report.interop import to_open_unlearning
from deleatur.settings import Data, Evaluation
from deleatur.types import Example, Record

CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nHelp.<|im_end|>\n{% endif %}{% for m in messages %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NAMES = ("Runa", "Ada", "Bo", "Cy")
ROWS = [
    {
        "question": f"Where was {name} born?",
        "answer": f"{name} was born in Tessholm, by the sea."[: 40 - 5 * k],
        "restated": f"The town of {name}'s birth is Tessholm.",
        "wrong": [f"{name} was born in {town}." for town in ("Kelvarn", "Birburg", "Jolwick")[: k + 1]],
    }
    for k, name in enumerate(NAMES)
]


def value_of(name: str, record: Record) -> float | None:
    """A row's number, as it is exported where that differs."""
    return EXPORTED[name](record)["score"] if name == "extraction_strength" else METRICS[name].of(record)


DIFFERENT = {"grad_norm", "zlib"}  # by definition, see docs/metrics.md


@pytest.fixture(scope="module", params=[None, "You are a clerk."], ids=["no system prompt", "a system prompt"])
def sides(request, make_tokenizer, make_llama):
    """Ours and the restatement's numbers of each row, by metric."""
    tokenizer = make_tokenizer(CHATML)
    tokenizer.eos_token = "<|im_end|>"
    lm = make_llama()
    settings = Data(layout="open-unlearning", system_prompt=request.param)
    encoder = make_encoder(tokenizer, settings)
    examples = [
        Example(
            id=str(k), prompt=(("user", r["question"]),), answer=r["answer"], restated=r["restated"], wrong=tuple(r["wrong"])
        )
        for k, r in enumerate(ROWS)
    ]
    rows = [encoder(e) for e in examples]
    made = Predictor(model=TokenModel(lm).prepare(), encoder=encoder, settings=Evaluation(new_tokens=12)).records(
        {"forget": rows}
    )
    how = {"system": request.param, "date": "10 Apr 2025"}
    theirs = [row(lm.float(), tokenizer, r, new_tokens=12, **how) for r in ROWS]
    items = [item(tokenizer, r["question"], r["answer"], **how) for r in ROWS]
    return rows, items, made["forget"], theirs


def test_the_ids_and_what_is_scored_are_the_peers(sides):
    """ChatML's newline and the second end of turn among them."""
    rows, items, *_ = sides
    for ours, theirs in zip(rows, items, strict=True):
        assert list(ours.ids) == theirs.ids
        assert ours.ids[ours.start :] == tuple(label for label in theirs.labels if label != -100)
        assert ours.ids[-3] == ours.ids[-1] and ours.offsets[-1] == ours.offsets[-2] == (len(ours.example.answer),) * 2


def test_every_metric_is_the_peers_row_by_row(sides):
    """Within 1e-5, ten times finer than the peer's own rounding; extraction strength as exported, with its floor. With
    pytest's -s the deviations are printed."""
    *_, records, theirs = sides
    for record, expected in zip(records, theirs, strict=True):
        compared = {name: value for name, value in expected.items() if name in METRICS and name not in DIFFERENT}
        ours = {name: value_of(name, record) for name in compared}
        print(f"\nrow {record.id}:", ", ".join(f"{name} {ours[name] - value:+.1e}" for name, value in compared.items()))
        assert ours == pytest.approx(compared, abs=1e-5)


def test_exports_say_what_the_peer_says(sides):
    """Also of the restated answer and of wrong ones, and F1."""
    *_, records, theirs = sides
    logs, summary = to_open_unlearning({"after": measure({"forget": records})}, {"forget": records})
    for name, key in (("PARA_Prob", "PARA_Prob"), ("PERT_Prob", "PERT_Prob"), ("Prob", "probability"), ("ROUGE", "rouge_l")):
        expected = sum(each[key] for each in theirs) / len(theirs)
        assert summary[f"forget_Q_A_{name}"] == pytest.approx(expected, abs=1e-5)
    for made, expected in zip(logs["forget_Q_A_ROUGE"]["value_by_index"].values(), theirs, strict=True):
        assert made["rougeL_f1"] == pytest.approx(expected["rouge_l_f1"])


@torch.no_grad()
def test_the_own_layout_is_another(make_tokenizer):
    """Without the setting the newline and the second end are not scored, and the system turn is the template's own."""
    tokenizer = make_tokenizer(CHATML)
    tokenizer.eos_token = "<|im_end|>"
    example = Example(id="1", prompt=(("user", "Where?"),), answer="In Tessholm.")
    own, peers = (make_encoder(tokenizer, Data(layout=layout))(example) for layout in ("own", "open-unlearning"))
    assert (*own.ids, *peers.ids[-2:]) == peers.ids and own.start == peers.start


def test_without_a_template_the_peers_labels_are_set(make_tokenizer):
    tokenizer = make_tokenizer()
    encoder = make_encoder(tokenizer, Data(layout="open-unlearning"))
    shots = (("user", "Who?"), ("assistant", "Ada."), ("user", "Where?"))
    made = encoder(Example(id="1", prompt=shots, answer="In Tessholm."))
    assert tokenizer.decode(made.ids) == "<s>Question: Who?\nAnswer: Ada.\n\nQuestion: Where?\nAnswer: In Tessholm.</s>"
