"""The demo: a real model is told a made-up world, then forgets two of its people."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from accelerate import Accelerator

from deleatur.config import Run
from deleatur.data.batches import told
from deleatur.data.encode import encode_all, make_encoder
from deleatur.data.world import World, make_world
from deleatur.evaluate import Figures
from deleatur.forward import TokenModel
from deleatur.importance import Uniform
from deleatur.losses import GradientDifference
from deleatur.model import exact_matmul, load, save
from deleatur.recipes import RECIPES, Demo
from deleatur.run import Progress, evaluate
from deleatur.settings import Data, Evaluation, Train
from deleatur.train import fit
from deleatur.types import Example


def demo_run(demo: Demo, progress: Progress = Progress()) -> Run:
    """The run that forgets; the world's rows and the model that was told them are made, or found in the cache."""
    world = make_world(people=demo.people, forget=demo.forgotten, seed=demo.seed)
    model = told_model(demo, world.told, "told", progress)
    rows = model.parent / "rows"
    write_world(world, rows)
    recipe = RECIPES[demo.recipe]
    return recipe.run(
        model=str(model),
        forget=str(rows / "forget.jsonl"),
        retain=str(rows / "retain.jsonl"),
        holdout=str(rows / "holdout.jsonl"),
        out=demo.out,
        seed=demo.seed,
        train=replace(recipe.train, batch=4, precision="bf16"),
        evaluation=Evaluation(rows=48, new_tokens=40),
    )


def told_model(demo: Demo, rows: Sequence[Example], name: str, progress: Progress) -> Path:
    """A folder with the model fine-tuned on the rows, kept under a key of everything that went into it."""
    settings = Train(epochs=demo.told_epochs, batch=16, lr=3e-4, gamma=0.0, precision="bf16")
    key = json.dumps([demo.model, demo.people, demo.forgotten, demo.seed, asdict(settings), [r.answer for r in rows]])
    folder = Path(demo.cache) / f"world-{hashlib.sha256(key.encode()).hexdigest()[:12]}" / name
    if (folder / "model.safetensors").exists():
        progress.phase(f"The model that was told the world is there: {folder}")
        return folder
    torch.manual_seed(demo.seed)
    exact_matmul()
    model, tokenizer = load(demo.model, precision=settings.precision)
    encoded = encode_all(make_encoder(tokenizer, Data()), rows)
    count = settings.epochs * -(-len(encoded) // settings.batch)
    progress.phase(f"Telling the model about {len({r.subject for r in rows})} people: {count} steps")
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    fit(
        TokenModel(model.to(accelerator.device)),  # pyright: ignore[reportArgumentType]
        told(encoded, epochs=settings.epochs, batch=settings.batch, seed=demo.seed),
        steps=count,
        loss=GradientDifference(),
        importance=Uniform(),
        settings=settings,
        reference=lambda tokens: tokens.nll,
        accelerator=accelerator,
        on_step=lambda step: progress.step(step, count),
    )
    aside = folder.with_name(f"{name}.part")
    save(model, tokenizer, aside)
    aside.rename(folder)
    return folder


def write_world(world: World, folder: Path) -> None:
    """forget.jsonl, retain.jsonl and holdout.jsonl, as a user would have them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("forget", "retain", "holdout"):
        lines = (json.dumps(row_of(e), ensure_ascii=False) + "\n" for e in getattr(world, name))
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def row_of(example: Example) -> dict[str, object]:
    """The example in the question/answer form."""
    return {
        "id": example.id,
        "subject": example.subject,
        "question": example.question,
        "answer": example.answer,
        "paraphrases": list(example.paraphrases),
        "spans": [[s.start, s.end] for s in example.spans],
    }


def measure_reference(demo: Demo, run: Run, progress: Progress) -> Figures:
    """The run's questions asked of a model that was told everything but the forgotten people; kept in the run folder."""
    world = make_world(people=demo.people, forget=demo.forgotten, seed=demo.seed)
    model = told_model(demo, world.retain, "reference", progress)
    figures = evaluate(replace(run, model=str(model)), progress)
    (Path(demo.out) / "reference.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures
