"""Two deletion requests, both done, on a tiny model that knows the rows: what tests of requests begin with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from killing import carry_out
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from deleatur.data.batches import fine_tuning_batches
from deleatur.data.encode import encode_all, make_encoder
from deleatur.importance import Uniform
from deleatur.losses import GradientDifference
from deleatur.modeling.token_model import TokenModel
from deleatur.settings import Data, Train
from deleatur.training.loop import Method, fit

EPOCHS = 80

METHOD = ("--recipe", "erase-spans", "--train.lr", "1.5e-3", "--train.epochs", "20", "--train.batch", "3")
WAYS = (*METHOD, "--evaluation.new-tokens", "24", "--keep.every", "None")


def lines(ledger: Path) -> list[dict]:
    return [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines()]


def write_files(home, folder: Path) -> None:
    """Rows of the two people who ask, and of the one who stays."""
    retain = home.file("retain").read_text(encoding="utf-8").splitlines(True)
    shutil.copy(home.file("forget"), folder / "first.jsonl")
    (folder / "second.jsonl").write_text("".join(retain[:6]), encoding="utf-8")
    (folder / "keep.jsonl").write_text("".join(retain[6:]), encoding="utf-8")


@pytest.fixture(scope="session")
def fine_tuned_model(home, tmp_path_factory) -> Path:
    """A model of width 64 that has the world's 18 rows by heart, in 80 steps."""
    tokenizer = AutoTokenizer.from_pretrained(home.model)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=2, vocab_size=len(tokenizer)))
    rows = encode_all(make_encoder(tokenizer, Data()), home.world.fine_tuning_rows)
    fit(
        TokenModel(model).prepare(),
        fine_tuning_batches(rows, epochs=EPOCHS, batch=18, seed=0),
        Method(
            loss=GradientDifference(),
            importance=Uniform(),
            settings=Train(epochs=EPOCHS, batch=18, lr=6e-3, gamma=0.0),
        ),
        steps=EPOCHS,
    )
    folder = tmp_path_factory.mktemp("fine-tuned") / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def done(home, fine_tuned_model, tmp_path_factory) -> Path:
    """A folder with a ledger of two requests, both done. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("requests")
    write_files(home, folder)
    ledger = ("--ledger", str(folder / "requests.jsonl"))
    for name in ("first", "second"):
        rows = ("--forget", str(folder / f"{name}.jsonl"), "--retain", str(folder / "keep.jsonl"))
        assert carry_out(("request", "add", *ledger, *rows), folder / "log") == 0
    code = carry_out(("request", "run", *ledger, "--all", "--model", str(fine_tuned_model), *WAYS), folder / "log")
    assert code == 0, (folder / "log").read_text()
    return folder


@pytest.fixture
def copied(done, tmp_path, call) -> Path:
    """A copy to be changed, in the current folder."""
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    return tmp_path
