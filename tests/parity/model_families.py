"""Tiny models of some sixty families through everything that a run does, against their own forward in plain transformers.

    python tests/parity/model_families.py             # all, 6.5 minutes of one core; the table of docs/models.md
    python tests/parity/model_families.py qwen3 rwkv  # some

A family is made with random weights, saved, and given to a run that trains every weight and to one with adapters. Compared
with the family's own forward, one row at a time, without padding, cache or mask:

- evaluate: the likelihoods and greedy answers before training
- gradient: of the summed loss of all rows, for every weight
- forget: likelihoods and answers after training, with the saved model in transformers
- LoRA: the gradient of every adapter, and all as in forget, adapters merged
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "ACCELERATE_USE_CPU": "true",
}

import torch
from families_table import FAMILIES, SMALL
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from deleatur.commands.unlearn import execute
from deleatur.config.recipes import RECIPES
from deleatur.config.run_config import Run
from deleatur.data.batches import collate
from deleatur.data.encode import encode_all, make_encoder
from deleatur.data.rows import read_rows
from deleatur.errors import DeleaturError
from deleatur.modeling.loading import add_adapters, load
from deleatur.modeling.token_model import TokenModel
from deleatur.settings import Data, Evaluation, Guard, Keep, Lora, Train
from deleatur.types import Encoded

NEW_TOKENS = 5
CLOSE = 1e-4  # of the size of what is compared
ROWS = {
    "forget": (
        ("Where was Nojul Nilmu born?", "Nojul Nilmu was born in Teburg, by the sea."),
        ("Who taught Nojul Nilmu?", "Vetril Honbor."),
        ("What does Nojul Nilmu, of the old town of Teburg, sell there on Sundays?", "Nojul Nilmu sells copper kettles."),
    ),
    "retain": (
        ("Where was Trostin Hervon born?", "Trostin Hervon was born in Jolwick."),
        ("Who taught Trostin Hervon?", "Trostin Hervon was a student of Gamor Pisdal, and of nobody else for years."),
        ("When did he die?", "In 1933."),
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What came of one family: a number per column (the largest deviation, relative), and a sentence where there is none."""

    family: str
    evaluate: float | None = None
    gradient: float | None = None
    forget: float | None = None
    lora: float | None = None
    said: str = ""
    fault: bool = False  # neither equal nor refused in a sentence


def make(family: str, vocabulary: int, folder: Path) -> None:
    """A tiny model of the family in a folder, its weights random throughout."""
    known = AutoConfig.for_model(family)
    names = {*known.to_dict(), *known.attribute_map}
    ends = {"vocab_size": vocabulary, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.2}
    settings = {name: value for name, value in (SMALL | ends).items() if name in names} | FAMILIES[family]
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings))
    with torch.no_grad():
        for p in lm.parameters():
            p.add_(torch.randn_like(p) / 20)
    lm.save_pretrained(folder)


def make_tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=401, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([text for rows in ROWS.values() for row in rows for text in row], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")


def own_model(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def own_loss(lm: PreTrainedModel, row: Encoded) -> Tensor:
    """Mean negative log-likelihood of the row's scored tokens."""
    ids = torch.tensor([row.ids])
    logits = lm(input_ids=ids, use_cache=False).logits[0, row.start - 1 : -1].float()
    return cross_entropy(logits, ids[0, row.start :])


@torch.no_grad()
def own_answer(lm: PreTrainedModel, prompt: tuple[int, ...], end: int) -> list[int]:
    said: list[int] = []
    while len(said) < NEW_TOKENS and (not said or said[-1] != end):
        said.append(int(lm(input_ids=torch.tensor([[*prompt, *said]]), use_cache=False).logits[0, -1].argmax()))
    return said


def deviation(lm: PreTrainedModel, rows: dict[str, list[Encoded]], folder: Path, when: str) -> float:
    """Between a run's records and a model's own numbers: of the losses; infinite where an answer is another one."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    lines = [json.loads(x) for x in (folder / "records" / f"{when}.jsonl").read_text(encoding="utf-8").splitlines()]
    worst = 0.0
    for (name, index), line in zip(((n, i) for n in rows for i in range(len(rows[n]))), lines, strict=True):
        row = rows[name][index]
        with torch.no_grad():
            truth = float(own_loss(lm, row))
        worst = max(worst, abs(truth + sum(line["logp"]) / len(line["logp"])) / truth)
        said = own_answer(lm, row.ids[: row.start], tokenizer.eos_token_id)
        if tokenizer.decode(said, skip_special_tokens=True).strip() != line["generated"].strip():
            worst = float("inf")
    return worst


def gradient_deviation(model: TokenModel, own: PreTrainedModel, rows: list[Encoded]) -> float:
    """Largest difference of a gradient between a TokenModel and a model with the same weights, of the largest gradient."""
    model(collate(rows)).nll.sum().backward()
    sum((own_loss(own, row) * (len(row.ids) - row.start) for row in rows), torch.zeros(())).backward()
    pairs = list(zip(model.lm.named_parameters(), own.parameters(), strict=True))
    scale = max(float(p.grad.abs().max()) for p in own.parameters() if p.grad is not None)
    gone = [n for (n, p), q in pairs if p.requires_grad and (p.grad is None) is not (q.grad is None)]
    if gone:
        return float("inf")
    return max(float((p.grad - q.grad).abs().max()) / scale for (_, p), q in pairs if p.grad is not None)


def try_family(family: str, home: Path) -> Row:
    """Everything for one family."""
    row, folder = Row(family=family), home / family
    tokenizer = make_tokenizer()
    try:
        make(family, len(tokenizer), folder)
        tokenizer.save_pretrained(folder)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)  # some families have a class of their own
    except Exception as e:
        return replace(row, said=f"transformers: {type(e).__name__}: {line(e)}", fault=True)
    encoder = make_encoder(tokenizer, Data())
    rows = {name: encode_all(encoder, read_rows(str(home / f"{name}.jsonl"), settings=Data())) for name in ROWS}
    every = [r for name in rows for r in rows[name]]
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = TokenModel(load(str(folder))[0]).prepare()
        notes = [str(w.message) for w in caught if "slower" in str(w.message)]
        row = replace(row, said="; ".join(notes))
        row = replace(row, gradient=gradient_deviation(model, own_model(folder), every))
        run = RECIPES["graddiff"].run(
            model=str(folder),
            forget=str(home / "forget.jsonl"),
            retain=str(home / "retain.jsonl"),
            out=str(folder / "run"),
            train=Train(epochs=2, batch=2, lr=1e-2),
            guard=Guard(retain=None, probe=None, stop=None),
            keep=Keep(every=None),
            evaluation=Evaluation(new_tokens=NEW_TOKENS),
        )
        execute(run)
        row = replace(row, evaluate=deviation(own_model(folder), rows, folder / "run", "before"))
        row = replace(row, forget=deviation(own_model(folder / "run" / "model"), rows, folder / "run", "after"))
        row = replace(row, lora=try_lora(run, folder, rows))
    except DeleaturError as e:
        return replace(row, said=str(e).replace(str(home) + "/", ""))
    except Exception as e:
        return replace(row, said=f"{type(e).__name__}: {line(e)}", fault=True)
    numbers = (row.evaluate, row.gradient, row.forget, row.lora)
    return replace(row, fault=any(n is None or not n < CLOSE for n in numbers))


def try_lora(run: Run, folder: Path, rows: dict[str, list[Encoded]]) -> float:
    """The larger of two deviations: of the adapters' gradients, and of what a run with adapters says and saves."""
    lm = load(str(folder))[0]
    add_adapters(lm, Lora(rank=4))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in lm.named_parameters():
            if "lora_B" in name:
                p.copy_(torch.randn_like(p) / 10)
    own = copy.deepcopy(lm)
    for module in own.modules():
        vars(module).pop("forward", None)
    off = gradient_deviation(TokenModel(lm).prepare(), own, [r for name in rows for r in rows[name]])
    execute(replace(run, lora=Lora(rank=4), out=str(folder / "lora")))
    changed = any(
        not torch.equal(p, q)
        for p, q in zip(own_model(folder).parameters(), own_model(folder / "lora" / "model").parameters(), strict=True)
    )
    after = deviation(own_model(folder / "lora" / "model"), rows, folder / "lora", "after")
    return max(off, after) if changed else float("inf")


def line(e: Exception) -> str:
    return " ".join(str(e).split())[:160]


def as_markdown(rows: Iterable[Row]) -> str:
    def cell(number: float | None) -> str:
        return "" if number is None else "equal" if number < CLOSE else f"**{number:.1g}**"

    lines = ["| family | evaluate | gradient | forget | LoRA | said |", "|---|---|---|---|---|---|"]
    for r in rows:
        cells = (
            r.family,
            *map(cell, (r.evaluate, r.gradient, r.forget, r.lora)),
            ("**fault** " if r.fault else "") + r.said,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(families: list[str]) -> int:
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as home:
        for name, pairs in ROWS.items():
            text = "".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in pairs)
            (Path(home) / f"{name}.jsonl").write_text(text, encoding="utf-8")
        for family in families or FAMILIES:
            rows.append(try_family(family, Path(home)))
            print(rows[-1], file=sys.stderr, flush=True)
    print(as_markdown(rows))
    return int(any(r.fault for r in rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", choices=[[], *FAMILIES], metavar="FAMILY")
    sys.exit(main(parser.parse_args().families))
