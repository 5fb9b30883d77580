"""Tiny models of a world: one that was trained on everything, some never trained on the people to forget, one of noise."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from deleatur.auditing.arms import Inputs
from deleatur.auditing.conduct import conduct
from deleatur.auditing.finetuning import fine_tune_steps
from deleatur.auditing.settings import AuditSettings
from deleatur.data.encode import encode_all, make_encoder
from deleatur.data.world import World, make_world
from deleatur.evaluation.judges.contained import Contained
from deleatur.modeling.loading import save
from deleatur.modeling.token_model import TokenModel
from deleatur.settings import Data, Train
from deleatur.types import Example

SMALL = AuditSettings(
    attacks=("ask", "draw", "compress", "relearn", "member", "nearer", "depth"),
    ways=("plain",),
    samples=8,
    formats=("nf4",),
    benign_steps=(60,),
    benign_lr=1e-2,
    half_lrs=(),
    new_tokens=40,
    refuser_steps=100,
    refuser_lr=1e-2,
    resamples=500,
    precision="fp32",
)


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """A folder with models, the rows, and an audit whose controls are done."""

    folder: Path
    world: World
    small: AuditSettings = SMALL

    def inputs(self, audited: str, **changed: Any) -> Inputs:
        given = {
            "audited": str(self.folder / audited),
            "original": str(self.folder / "original"),
            "retrained": str(self.folder / "never"),
        }
        rows = {"forget": self.world.forget, "retain": self.world.retain, "holdout": self.world.holdout}
        return Inputs(**(given | rows | changed))

    def audit(self, audited: str, out: Path, judge: Any = None, **settings: Any) -> dict[str, Any]:
        """An audit of one of the models, with the controls' cells as they are."""
        if not out.exists():
            shutil.copytree(self.folder / "audit", out)
            (out / "inputs.json").unlink()
            for cell in out.glob("cells/*.audited.*"):
                cell.unlink()
            (out / "depth-audited.safetensors").unlink()
        return conduct(self.inputs(audited), replace(SMALL, **settings), out, judge or Contained())


def make(
    folder: Path, tokenizer: PreTrainedTokenizerFast, rows: tuple[Example, ...], *, seed: int, steps: int = 150
) -> None:
    """A Llama of two layers trained on the rows from nothing, and saved."""
    torch.manual_seed(seed)
    shape = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    lm = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=len(tokenizer), max_position_embeddings=512))
    encoded = encode_all(make_encoder(tokenizer, Data()), rows)
    if steps:
        how = Train(epochs=steps * 12, batch=12, lr=5e-3, gamma=0.0)
        fine_tune_steps(TokenModel(lm), encoded, steps=steps, settings=how, seed=seed)
    save(lm, tokenizer, folder)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory, make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> Workplace:
    """The models "original", "never", "second" (another seed of that) and "noise", and an audit of "second"."""
    folder, tokenizer = tmp_path_factory.mktemp("audit"), make_tokenizer()
    world = make_world(people=5, forget=2, holdout=4, rows_per_fact=1)
    make(folder / "original", tokenizer, world.fine_tuning_rows, seed=0)
    make(folder / "never", tokenizer, world.retain, seed=1)
    make(folder / "second", tokenizer, world.retain, seed=2)
    make(folder / "noise", tokenizer, world.retain, seed=3, steps=0)
    place = Workplace(folder=folder, world=world)
    (folder / "audit").mkdir()
    conduct(place.inputs("second"), SMALL, folder / "audit", Contained())
    return place


@pytest.fixture(scope="session")
def of_second(workplace: Workplace) -> dict[str, Any]:
    """What the audit of a model says that was never trained on the rows."""
    return json.loads((workplace.folder / "audit" / "audit.json").read_text())


@pytest.fixture(scope="session")
def original_audit(workplace: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an audit of the original itself."""
    out = tmp_path_factory.mktemp("original") / "audit"
    workplace.audit("original", out)
    return out
