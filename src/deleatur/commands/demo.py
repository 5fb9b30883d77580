"""The demo: a real model is fine-tuned on a made-up world, then forgets two of its people."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from deleatur.commands.demo_scale import FineTuning, Scale, scale_of, trained_of
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
from deleatur.evaluation.answer_scores import WHAT
from deleatur.importance import Uniform
from deleatur.io.atomic import atomic_folder
from deleatur.io.lock import folder_lock
from deleatur.losses import GradientDifference
from deleatur.modeling.loading import load, save
from deleatur.modeling.model_files import read_config
from deleatur.modeling.patches import exact_matmul
from deleatur.modeling.token_model import TokenModel
from deleatur.progress import Progress, Step
from deleatur.protocols import Learns
from deleatur.run_folder.file_types import RecordLine
from deleatur.run_folder.schema import read_lines, write_json, write_lines
from deleatur.settings import Keep, Train
from deleatur.training.checkpoint import Checkpoints
from deleatur.training.loop import Method, fit
from deleatur.training.train import training_only
from deleatur.types import Example

BUDGET = 0.4  # names and values are that share of the world's answer tokens
PARTS = 6  # of a training, between which something is said


def run_demo(demo: Demo, progress: Progress = Progress()) -> dict[str, Any] | None:
    """Fine-tune, forget, and leave the run in `demo.out`; a former demo's files are reused. Returns the reference's.

    `progress` gets what a newcomer wants to know, and not the phases of the commands that the demo runs.
    """
    with resume_hint("the same command"):
        return _run_demo(demo, progress)


def _run_demo(demo: Demo, progress: Progress) -> dict[str, Any] | None:
    out = Path(demo.out)
    run = demo_run(demo, progress)
    started = (out / "run.yaml").exists()
    if started and to_dict(replace(from_yaml(out / "run.yaml"), out=demo.out)) != to_dict(run):
        raise ConfigError(f"{out} holds a run with other settings; remove it or give --out a new folder")
    if (out / "report.html").exists():  # the last that a run writes
        progress.phase(f"{out} already holds this run; remove the folder to do it again")
    else:
        execute(run, demo_progress(demo, out, progress), resume=started)
    return measure_reference(demo, run, progress) if demo.reference else None


def demo_progress(demo: Demo, out: Path, progress: Progress) -> Progress:
    """The run's bars, and between them what the model now knows and what it has to forget."""
    world = _world(demo)
    forget, retain = (list(dict.fromkeys(row.subject for row in rows)) for rows in (world.forget, world.retain))

    def tell(step: Step, steps: int) -> None:
        """Say what the model knew before the first step, and now and then its NLL."""
        if step.step == 1:  # the answers before training are on disk
            progress.phase(f"Asked “{world.forget[0].question}” it says: {_first_answer(out)}")
            progress.phase(f"Now it forgets {' and '.join(map(str, forget))}, and must keep the {len(retain)} others.")
        elif _begins_part(step.step, steps):
            nll = f"{step.forget_nll:.2f} nats a token on rows to forget, {step.retain_nll:.2f} on rows to keep"
            progress.phase(f"After step {step.step} its NLL is {nll}.")
        progress.step(step, steps)

    def evaluated(what: str, done: int, total: int, rate: str) -> None:
        """Move the bar on, and say what comes between the answers and the first step."""
        progress.evaluated(what, done, total, rate)
        if what == WHAT and done == total and not (out / "steps.jsonl").exists():
            progress.phase("Which words are new, compared with the rows to keep? These are to be forgotten.")

    progress.phase("The model is evaluated on all of them, and on people it never heard of.")
    return replace(progress, phase=lambda text: None, step=tell, evaluated=evaluated)


def fine_tuning_progress(rows: Sequence[Example], progress: Progress) -> Progress:
    """The bar of fine-tuning, and between its parts one of the rows that the model reads."""
    shown = iter(rows[:: max(1, len(rows) // PARTS - 1)])

    def tell(step: Step, steps: int) -> None:
        """Show the next row at the beginning of each part."""
        if _begins_part(step.step, steps) and (row := next(shown, None)):
            progress.phase(f"It reads: {row.question} {row.answer}")
        progress.step(step, steps)

    return replace(progress, step=tell)


def _begins_part(step: int, steps: int) -> bool:
    """Is this the first step of one of `PARTS` equal parts?"""
    return PARTS * step // steps > PARTS * (step - 1) // steps


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
    recipe, scale = RECIPES[demo.recipe], scale_of(demo)
    importance, train = recipe.importance, train_of(recipe, scale)
    config = read_config({"pretrained_model_name_or_path": str(model)}, str(model))
    layers = int(config.get_text_config().num_hidden_layers)
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
        train=replace(train, only=trained_of(train.only, layers)),
        guard=scale.guard,
        data=scale.data,
        evaluation=scale.evaluation,
    )


def train_of(recipe: Recipe, scale: Scale) -> Train:
    """The recipe's training at this scale; every published method has the demo's own rate and weights, since theirs are
    for larger models and batches."""
    settings = recipe.train if recipe.loss.requires.divergence else as_ours(recipe)
    return replace(settings.on_schedule(scale.forgetting), lr=scale.rate * settings.lr)


def as_ours(recipe: Recipe) -> Train:
    """The recipe's training with the rate and weights of the default recipe."""
    return replace(recipe.train, lr=OURS.lr, gamma=OURS.gamma, alpha=OURS.alpha)


def measure_reference(demo: Demo, run: Run, progress: Progress) -> dict[str, Any]:
    """The evaluation of a model fine-tuned on everything but the forgotten people; kept in the run folder."""
    model = _fine_tuned(demo, _world(demo).retain, progress)
    figures = evaluate(replace(run, model=str(model)), progress)
    write_json(Path(demo.out) / "reference.json", figures)
    return figures


def _world(demo: Demo) -> World:
    """The world's rows; of the small demo only those to forget are asked in other words too, each once."""
    world = make_world(people=demo.size, forget=demo.forgotten, seed=demo.seed)
    if demo.full:
        return world
    chosen = {"forget": (world.forget, 1), "retain": (world.retain, 0), "holdout": (world.holdout, 0)}
    return World(
        **{
            name: tuple(replace(row, paraphrases=row.paraphrases[:most]) for row in rows)
            for name, (rows, most) in chosen.items()
        }
    )


def _fine_tuned(demo: Demo, rows: Sequence[Example], progress: Progress) -> Path:
    cache, scale = Path(demo.cache), scale_of(demo)
    cache.mkdir(parents=True, exist_ok=True)
    settings = replace(scale.fine_tuning, epochs=demo.fine_tune_epochs or scale.fine_tuning.epochs)
    how = FineTuning(train=settings, data=scale.data, seed=demo.seed)
    with folder_lock(cache):
        return fine_tuned_model(demo.model, rows, cache, how, progress=fine_tuning_progress(rows, progress))


def fine_tuned_model(
    name: str, rows: Sequence[Example], folder: Path, how: FineTuning, *, progress: Progress = Progress()
) -> Path:
    """A folder with the model fine-tuned on the rows, made once for everything that goes into it; returns its path.

    An interrupted fine-tuning resumes from its newest checkpoint when it is called again.
    """
    settings, data, seed = how.train, how.data, how.seed
    parts = [name, seed, settings.epochs, settings.batch, settings.lr, settings.precision]
    parts += [settings.only, data.template] if settings.only or data.template != "auto" else []
    key = json.dumps([*parts, [(r.prompt, r.answer) for r in rows]])
    folder = folder / f"fine-tuned-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if (folder / "model.safetensors").exists():
        progress.phase(f"The fine-tuned model is there: {folder}")
        return folder
    torch.manual_seed(seed)
    exact_matmul()
    model, tokenizer = load(name, precision=settings.precision)
    encoded = encode_all(make_encoder(tokenizer, data), rows)
    count = settings.epochs * -(-len(encoded) // settings.batch)
    progress.phase(f"The model learns {len(rows)} rows about {len({r.subject for r in rows})} subjects: {count} steps.")
    kept = Checkpoints(folder.with_suffix(".checkpoints"), every=Keep().every, keep=Keep().newest)
    network = TokenModel(model).to(start().device).prepare()
    with (
        training_only(network, trained_of(settings.only, network.layers)),
        resume_hint("the same command"),
        kept.handle_signals(),
    ):
        fit(
            network,
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
