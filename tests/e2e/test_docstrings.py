"""The examples in docstrings run as they stand, on a tiny model, and every public class, function and table has one."""

from __future__ import annotations

import ast
import doctest
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import deleatur
from deleatur import importance, losses
from deleatur.data.encode import encode_all, make_encoder
from deleatur.data.rows import rows_from
from deleatur.modeling.reference import start_of
from deleatur.modeling.start_pass import StartPass
from deleatur.modeling.token_model import TokenModel
from deleatur.settings import Data
from deleatur.types import Divergence, Reference

SOURCE = Path(deleatur.__file__).parent
OTHERS = (
    *("Run", "AuditSettings", "ForgetLoss", "Requirements", "TokenOutputs", "Progress"),
    *("linear_nll", "packed_attention"),
)


def docstrings(body: list[ast.stmt], name: str = "") -> Iterator[tuple[str, str]]:
    """Names and docstrings, also those that stand below a variable."""
    for node in body:
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield name, text
            case ast.ClassDef() | ast.FunctionDef():
                yield from docstrings(node.body, node.name)
            case ast.AnnAssign(target=ast.Name(id=target)):
                name = target


EXAMPLES = {
    name: text
    for path in sorted(SOURCE.rglob("*.py"))
    if ">>> " in (code := path.read_text(encoding="utf-8"))
    for name, text in docstrings(ast.parse(code).body)
    if ">>> " in text
}


@pytest.fixture(scope="module")
def folder(home, tmp_path_factory) -> Path:
    """What the examples find: rows, and the tiny model by two names."""
    place = tmp_path_factory.mktemp("examples")
    for name in ("forget", "retain", "holdout"):
        shutil.copy(home.file(name), place)
    for name in ("tiny", "unlearned"):
        shutil.copytree(home.model, place / name)
    return place


@pytest.fixture(scope="module")
def shared(folder, make_tokens) -> dict[str, Any]:
    """A model and rows, the outputs of no model for three sequences, and a start model."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder / "tiny"), AutoTokenizer.from_pretrained(folder / "tiny")
    rows = {n: [json.loads(line) for line in (folder / f"{n}.jsonl").open(encoding="utf-8")] for n in ("forget", "retain")}
    tokens = make_tokens((3, 1, 5), logits=True, layer=4)
    divergence = Divergence(torch.rand(9), torch.rand(9))
    tokens = replace(tokens, divergence=divergence, preferred=make_tokens((2, 2, 2), seed=1))
    encoder = make_encoder(tokenizer, Data())
    encoded = {name: encode_all(encoder, rows_from(part, name=name)) for name, part in rows.items()}
    return rows | {
        "torch": torch,
        "deleatur": deleatur,
        "model": model,
        "tokenizer": tokenizer,
        "tokens": tokens,
        "importance": torch.ones(9),
        "reference": Reference(nll=lambda t: t.nll.detach(), logits=lambda t: t.logits.detach()),
        "start": start_of(
            StartPass(TokenModel(AutoModelForCausalLM.from_pretrained(folder / "tiny")), batch=8), encoded, precision="fp32"
        ),
    }


def test_every_public_name_has_an_example():
    methods = [name for module in (losses, importance) for name in module.__all__ if not name.startswith("Any")]
    assert not {*deleatur.__all__, *methods, *OTHERS} - {"__version__"} - EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_as_it_stands(name, shared, folder, monkeypatch):
    monkeypatch.chdir(folder)
    test = doctest.DocTestParser().get_doctest(EXAMPLES[name], dict(shared), name, None, None)
    said: list[str] = []
    failed = doctest.DocTestRunner(verbose=False).run(test, out=said.append).failed
    assert not failed, "".join(said)
