"""The first 50 steps of every recipe on a tiny model: `python tests/golden/trajectories.py [RECIPE …]` writes them anew.

A line is a step: its loss and the norm of its gradient. They are compared with TOLERANCE at each step, relative to the
trajectory's largest value, and with a tenth of it on average: another processor may round differently, another method not.
The model is fine-tuned on the world first, since what is not known cannot be forgotten.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from deleatur.commands.inputs import rows_suite
from deleatur.config.recipes import RECIPES
from deleatur.data.batches import fine_tuning_batches
from deleatur.data.encode import Encoder, encode_all, make_encoder
from deleatur.data.world import make_world
from deleatur.importance import SULLM, Uniform
from deleatur.losses import RMU, GradientDifference
from deleatur.modeling.session import Session
from deleatur.modeling.token_model import TokenModel
from deleatur.settings import Data, Evaluation, Guard, Train
from deleatur.training.loop import Method, fit
from deleatur.training.train import train

HERE = Path(__file__).parent
STEPS, TOLERANCE = 50, 3e-3


def trajectory(name: str, base: Path) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step; `base` is a folder for the model before fine-tuning."""
    world = make_world(people=6, forget=2, rows_per_fact=2)  # 24 rows to forget: 5 steps of 5 an epoch
    encoder = make_encoder(_tokenizer(), Data())
    rows = {"forget": encode_all(encoder, world.forget), "retain": encode_all(encoder, world.retain)}
    recipe = RECIPES[name]
    run = recipe.run(
        model="tiny",
        forget="forget",
        retain="retain",
        train=replace(recipe.train, lr=3e-4, epochs=10, batch=5, only=None),
        evaluation=Evaluation(batch=8),
        guard=Guard(retain=None, probe=None, stop=None),
    )
    if isinstance(run.loss, RMU):
        run = replace(run, loss=replace(run.loss, layer=0))
    if isinstance(run.importance, SULLM):
        _save(base, encoder)
        run = replace(run, importance=replace(run.importance, base=str(base)))
    lm = _model(0)
    lm.load_state_dict(_fine_tuned())
    torch.manual_seed(0)
    session = Session(model=TokenModel(lm).prepare(), encoder=encoder, suite=rows_suite({}), rows=rows)
    return [(s.loss, s.grad_norm) for s in train(session, run, {}).steps]


def read(name: str) -> list[tuple[float, float]]:
    """A trajectory as it was written."""
    lines = (HERE / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [(float(a), float(b)) for a, b in (line.split() for line in lines if not line.startswith("#"))]


def residuals(ours: list[tuple[float, float]], golden: list[tuple[float, float]]) -> list[float]:
    """|difference| of each number, relative to the largest of its kind in the golden trajectory."""
    scales = [max(abs(step[i]) for step in golden) for i in (0, 1)]
    return [abs(a[i] - b[i]) / scales[i] for a, b in zip(ours, golden, strict=True) for i in (0, 1)]


@cache
def _fine_tuned() -> dict[str, torch.Tensor]:
    """Weights of a tiny model fine-tuned on the world's rows: it gives their tokens nine tenths of the probability."""
    encoder, world = make_encoder(_tokenizer(), Data()), make_world(people=6, forget=2, rows_per_fact=2)
    encoded, lm = encode_all(encoder, world.fine_tuning_rows), _model(0)
    fit(
        TokenModel(lm).prepare(),
        fine_tuning_batches(encoded, epochs=20, batch=12, seed=0),
        Method(loss=GradientDifference(), importance=Uniform(), settings=Train(lr=1e-2)),
        steps=120,
        on_step=lambda step: print(step.retain_nll) if __name__ == "__main__" and step.step == 120 else None,
    )
    return lm.state_dict()


def _model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=2, vocab_size=401, initializer_range=0.2))


def _tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=401, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    texts = [f"{e.question} {e.answer}" for e in make_world(people=6, forget=2).fine_tuning_rows]
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")


def _save(folder: Path, encoder: Encoder) -> None:
    _model(1).save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with TemporaryDirectory() as base:
        for recipe in sys.argv[1:] or RECIPES:
            made = trajectory(recipe, Path(base))
            lines = [f"{loss:.8g} {norm:.8g}" for loss, norm in made]
            header = f"# {recipe}: loss, gradient norm of {len(made)} steps; tolerance {TOLERANCE:g}"
            (HERE / f"{recipe}.txt").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
            print(f"{recipe}: loss {made[0][0]:.4g} → {made[-1][0]:.4g}")
