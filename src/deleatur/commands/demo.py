"""The demo: a real model is fine-tuned on a made-up world, then forgets two of its people."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from deleatur.commands.evaluation import evaluate
from deleatur.commands.options import Demo
from deleatur.commands.unlearn import execute
from deleatur.config.recipes import OURS, RECIPES, Recipe, check_recipe
from deleatur.config.run_config import Run, from_yaml, to_dict
from deleatur.data.batches import fine_tuning_batches
from deleatur.data.encode import encode_all, make_encoder
from deleatur.data.files import printable
from deleatur.data.world import World, make_world
from deleatur.distributed.processes import start
from deleatur.errors import ConfigError, resume_hint
from deleatur.evaluation.aggregate import Figures
from deleatur.importance import Uniform
from deleatur.io.atomic import atomic_folder
from deleatur.io.lock import folder_lock
from deleatur.losses import GradientDifference
from deleatur.modeling.loading import load, save
from deleatur.modeling.patches import exact_matmul
from deleatur.modeling.token_model import TokenModel
from deleatur.progress import Progress, Step
from deleatur.protocols import Learns
from deleatur.run_folder.file_types import RecordLine
from deleatur.run_folder.schema import read_lines, write_json, write_lines
from deleatur.settings import Data, Evaluation, Keep, Train
from deleatur.training.checkpoint import Checkpoints
from deleatur.training.loop import Method, fit
from deleatur.types import Example

FINE_TUNING = Train(epochs=5, batch=8, lr=3e-4, gamma=0.0, precision="bf16")
BUDGET = 0.4  # names and values are that share of the world's answer tokens


def run_demo(demo: Demo, progress: Progress = Progress()) -> Figures | None:
    """Fine-tune, forget, and leave the run in `demo.out`; a former demo's files are reused. Returns the reference's.

    `progress` gets what a newcomer wants to know, and not the phases of the commands that the demo runs.
    """
    with resume_hint("the same command"):
        return _run_demo(demo, progress)


def _run_demo(demo: Demo, progress: Progress) -> Figures | None:
    out = Path(demo.out)
    run = demo_run(demo, progress)
    begun = (out / "run.yaml").exists()
    if begun and to_dict(replace(from_yaml(out / "run.yaml"), out=demo.out)) != to_dict(run):
        raise ConfigError(f"{out} holds a run with other settings; remove it or give --out a new folder")
    if (out / "report.html").exists():  # the last that a run writes
        progress.phase(f"{out} already holds this run; remove the folder to do it again")
    else:
        execute(run, demo_progress(demo, out, progress), resume=begun)
    return measure_reference(demo, run, progress) if demo.reference else None


def demo_progress(demo: Demo, out: Path, progress: Progress) -> Progress:
    """The run's bars, and between them what the model now knows and what it has to forget."""
    world = _world(demo)
    forget, retain = (list(dict.fromkeys(row.subject for row in rows)) for rows in (world.forget, world.retain))

    def begin(step: Step, steps: int) -> None:
        if step.step == 1:  # the answers before training are on disk
            progress.phase(f"Asked “{world.forget[0].question}” it says: {_first_answer(out)}")
            progress.phase(f"Now it forgets {' and '.join(map(str, forget))}, and must keep the {len(retain)} others.")
        progress.step(step, steps)

    progress.phase("The model is asked about all of them, and about people it never heard of.")
    return replace(progress, phase=lambda text: None, step=begin)


def _first_answer(out: Path) -> str:
    """The model's answer to the first forget row before unlearning."""
    path = out / "records" / "before.jsonl"
    return printable(
        next((row["generated"] for row in read_lines(path, RecordLine, str(path)) if row["set"] == "forget"), "")
    )


def demo_run(demo: Demo, progress: Progress = Progress()) -> Run:
    """The run that forgets; the world's rows and the model fine-tuned on them are made, or found in the cache."""
    check_recipe(demo.recipe)
    world = _world(demo)
    model = _fine_tuned(demo, world.fine_tuning_rows, progress)
    rows = model / "rows"
    write_world(world, rows)
    recipe = RECIPES[demo.recipe]
    importance = recipe.importance
    if isinstance(importance, Learns):
        importance = importance.with_budget(BUDGET)
    return recipe.run(
        model=str(model),
        forget=str(rows / "forget.jsonl"),
        retain=str(rows / "retain.jsonl"),
        holdout=str(rows / "holdout.jsonl"),
        out=demo.out,
        seed=demo.seed,
        importance=importance,
        train=replace(recipe.train if recipe.loss.requires.divergence else as_ours(recipe), batch=4, precision="bf16"),
        evaluation=Evaluation(rows=48, new_tokens=40),
    )


def as_ours(recipe: Recipe) -> Train:
    """The demo's own rates and weights, the same for every published method: theirs are for larger models and batches."""
    return replace(recipe.train, lr=OURS.lr, gamma=OURS.gamma, alpha=OURS.alpha)


def measure_reference(demo: Demo, run: Run, progress: Progress) -> Figures:
    """The evaluation of a model fine-tuned on everything but the forgotten people; kept in the run folder."""
    model = _fine_tuned(demo, _world(demo).retain, progress)
    figures = evaluate(replace(run, model=str(model)), progress)
    write_json(Path(demo.out) / "reference.json", figures)
    return figures


def _world(demo: Demo) -> World:
    return make_world(people=demo.people, forget=demo.forgotten, seed=demo.seed)


def _fine_tuned(demo: Demo, rows: Sequence[Example], progress: Progress) -> Path:
    cache = Path(demo.cache)
    cache.mkdir(parents=True, exist_ok=True)
    with folder_lock(cache):
        return fine_tuned_model(
            demo.model, rows, cache, replace(FINE_TUNING, epochs=demo.fine_tune_epochs), seed=demo.seed, progress=progress
        )


def fine_tuned_model(
    name: str, rows: Sequence[Example], folder: Path, settings: Train, *, seed: int, progress: Progress = Progress()
) -> Path:
    """A folder with the model fine-tuned on the rows, made once for everything that goes into it; returns its path.

    An interrupted fine-tuning resumes from its newest checkpoint when it is called again.
    """
    key = json.dumps(
        [name, seed, settings.epochs, settings.batch, settings.lr, settings.precision, [(r.prompt, r.answer) for r in rows]]
    )
    folder = folder / f"fine-tuned-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if (folder / "model.safetensors").exists():
        progress.phase(f"The fine-tuned model is there: {folder}")
        return folder
    torch.manual_seed(seed)
    exact_matmul()
    model, tokenizer = load(name, precision=settings.precision)
    encoded = encode_all(make_encoder(tokenizer, Data()), rows)
    count = settings.epochs * -(-len(encoded) // settings.batch)
    progress.phase(f"The model learns {len(rows)} rows about {len({r.subject for r in rows})} subjects: {count} steps.")
    kept = Checkpoints(folder.with_suffix(".checkpoints"), every=Keep().every, keep=Keep().newest)
    with resume_hint("the same command"), kept.handle_signals():
        fit(
            TokenModel(model.to(start().device)).prepare(),  # pyright: ignore[reportArgumentType]
            fine_tuning_batches(encoded, epochs=settings.epochs, batch=settings.batch, seed=seed),
            Method(loss=GradientDifference(), importance=Uniform(), settings=settings),
            steps=count,
            on_step=lambda step: progress.step(step, count),
            checkpoints=kept,
        )
    with atomic_folder(folder) as aside:
        save(model, tokenizer, aside)
    shutil.rmtree(kept.folder, ignore_errors=True)
    return folder


def write_world(world: World, folder: Path) -> None:
    """forget.jsonl, retain.jsonl and holdout.jsonl, as a user would have them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("forget", world.forget), ("retain", world.retain), ("holdout", world.holdout)):
        write_lines(folder / f"{name}.jsonl", map(row_of, rows))


def row_of(example: Example) -> dict[str, object]:
    """The example in the question/answer form."""
    return {
        "id": example.id,
        "subject": example.subject,
        "question": example.question,
        "answer": example.answer,
        "paraphrases": list(example.paraphrases),
        "spans": [[s.start, s.end] for s in example.spans],
        "alternates": list(example.alternates),
    }
