"""How often an audit calls a leak in a model that was never trained on the rows: many seeds of such a model, on a small
world, against the same controls. At a level of 5 % for the whole audit, at most so many should.

    python benchmarks/false_alarms.py OUT [AUDITS]
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
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

SETTINGS = AuditSettings(
    ways=("plain", "affirmed", "reversed"),
    samples=16,
    formats=("nf4", "q4_0"),
    benign_steps=(60,),
    benign_lr=1e-2,
    half_lrs=(1e-3,),
    half_epochs=5,
    strengths=(1.0,),
    windows=2,
    random_directions=0,
    new_tokens=40,
    refuser_steps=100,
    refuser_lr=1e-2,
    resamples=1000,
    precision="fp32",
)
STEPS, BATCH, RATE = 150, 12, 5e-3


def tokenizer_of(world: World) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the rows that models are trained on."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([f"{e.question} {e.answer}" for e in world.fine_tuning_rows], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")


def make(folder: Path, tokenizer: PreTrainedTokenizerFast, rows: tuple[Example, ...], seed: int) -> Path:
    """A Llama of two layers trained on the rows from nothing."""
    torch.manual_seed(seed)
    shape = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    lm = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=len(tokenizer), max_position_embeddings=512))
    encoded = encode_all(make_encoder(tokenizer, Data()), rows)
    how = Train(epochs=STEPS * BATCH, batch=BATCH, lr=RATE, gamma=0.0)
    fine_tune_steps(TokenModel(lm), encoded, steps=STEPS, settings=how, seed=seed)
    save(lm, tokenizer, folder)
    return folder


def main(out: Path, audits: int) -> None:
    """One line an audit, then the share of leaks, of the whole and by attack (before Holm's correction)."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    world = make_world(people=5, forget=2, holdout=4, rows_per_fact=1)
    tokenizer = tokenizer_of(world)
    original = make(out / "original", tokenizer, world.fine_tuning_rows, 0)
    never = make(out / "never", tokenizer, world.retain, 1)
    rows = {"forget": world.forget, "retain": world.retain, "holdout": world.holdout}
    leaks, alarms = 0, dict.fromkeys(SETTINGS.attacks, 0)
    for seed in range(2, audits + 2):
        second, folder = make(out / "second", tokenizer, world.retain, seed), out / "audit"
        for old in (*folder.glob("cells/*.audited.*"), *folder.glob("depth-audited.*"), folder / "inputs.json"):
            old.unlink(missing_ok=True)
        folder.mkdir(exist_ok=True)
        inputs = Inputs(audited=str(second), original=str(original), retrained=str(never), **rows)
        said = conduct(inputs, SETTINGS, folder, Contained())
        leaks += said["verdict"] == "LEAK"
        for name, attack in said["attacks"].items():
            alarms[name] += attack["p"] is not None and attack["p"] <= 0.05
        verdicts = {name: attack["verdict"] for name, attack in said["attacks"].items()}
        print(json.dumps({"seed": seed, "verdict": said["verdict"], "why": said["why"], **verdicts}), flush=True)
        shutil.rmtree(second)
    print(f"LEAK in {leaks} of {audits} audits; p ≤ .05 by attack: {alarms}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 40)
