"""Methods on a suite, each tuned with the same number of trials and run with the same seeds, on one loaded model."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from deleatur.commands.bench_audit import audit_run, check_controls, keep_model
from deleatur.commands.evaluator import make_evaluator
from deleatur.commands.inputs import check_trained, check_usable, encode_sets, suite_of
from deleatur.commands.objective import Objective
from deleatur.commands.options import Budget
from deleatur.commands.tuning import search, values_of, with_values
from deleatur.commands.unlearn import unlearn
from deleatur.config.recipes import RECIPES
from deleatur.config.run_config import Run, from_dict, to_dict, to_yaml
from deleatur.data.encode import make_encoder
from deleatur.distributed.processes import place_model
from deleatur.errors import ConfigError, Diverged, resume_hint
from deleatur.evaluation.aggregate import measure
from deleatur.evaluation.metrics import METRICS
from deleatur.importance import Learned
from deleatur.io.atomic import write_atomic
from deleatur.io.lock import folder_lock
from deleatur.losses import GradientDifference
from deleatur.modeling.loading import load
from deleatur.modeling.patches import exact_matmul
from deleatur.modeling.session import Session
from deleatur.modeling.start_model import with_weights
from deleatur.modeling.start_pass import StartPass
from deleatur.modeling.token_model import TokenModel
from deleatur.progress import Progress
from deleatur.protocols import Learns, ReadsBaseModel
from deleatur.run_folder.file_types import BenchTerms
from deleatur.run_folder.schema import read_json, write_json, write_lines, write_results
from deleatur.run_folder.writer import check_same_rows, write_importance, write_records
from deleatur.settings import UNGUARDED, Guard, Train, require
from deleatur.training.setup import check_parts, preferred_rows
from deleatur.training.train import train
from deleatur.types import Encoded

TRAINED = ("forget", "retain", "holdout")  # the sets that training reads


def run_bench(base: Run, budget: Budget, progress: Progress = Progress()) -> list[Path]:
    """Tune and run every method; returns the folders of the runs, one for each method and seed, below `base.out`.

    `base` says on what and how long; the methods take from it all but their own settings. What is finished is not done
    again, so an interrupted bench resumes, and several processes may work at different methods in one folder.
    """
    with resume_hint("the same command"):
        return _run_bench(BenchRunner(base, budget, progress), progress)


def _run_bench(bench: BenchRunner, progress: Progress) -> list[Path]:
    todo, made = [(m, s) for m in bench.budget.methods for s in bench.budget.seeds], []
    for number, (method, seed) in enumerate(todo, 1):
        folder = bench.out / method / f"seed-{seed}"
        if not (folder / "results.json").exists():
            progress.phase(f"Run {number} of {len(todo)}: {method}, seed {seed}{bench.time_left()}")
            if not bench.run(method, seed, folder):
                continue
        if bench.budget.audit:
            progress.phase(f"Audit {number} of {len(todo)}: {method}, seed {seed}")
            audit_run(bench.base, bench.suite, folder, progress)
        made.append(folder)
    return made


class BenchRunner:
    """Methods on one loaded model with its rows, which is put back to its start before every run."""

    def __init__(self, base: Run, budget: Budget, progress: Progress) -> None:
        require(
            base.lora.bits is None,
            "lora.bits",
            base.lora.bits,
            "none: a bench restores its one model between runs, which 4 bits forbid",
        )
        check_left_to_methods(base)
        self.suite = suite_of(base)
        check_trained(self.suite)
        if budget.audit:
            check_controls(self.suite, base.evaluation.retrained)
        self.base, self.budget, self.progress = base, budget, progress
        self.objective = Objective(name=budget.objective or self.suite.objective, suite=self.suite)
        self.out = Path(base.out or "runs/bench")
        exact_matmul()
        lm, tokenizer = load(base.model, precision=base.train.precision)
        rows = encode_sets(self.suite.sets, tokenizer, base.data)
        check_usable(lm, rows, base.model)
        self.out.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.out.chmod(0o700)  # records hold the rows' text
        check_same_terms(self.out, base, budget, self.objective.name)
        check_same_rows(self.out, rows)
        self.start = {name: value.detach().clone() for name, value in lm.state_dict().items()}
        network, encoder = TokenModel(lm).prepare(), make_encoder(tokenizer, base.data)
        place_model(network)
        start = StartPass(network, batch=base.evaluation.batch)
        start.states(row for name in TRAINED for row in rows.get(name, ()))  # whichever method comes first, to the same bits
        session = Session(model=network, encoder=encoder, suite=self.suite, rows=rows, progress=progress, start=start)
        self.session = session
        self.known = make_evaluator(replace(self.session, folder=self.out), base).before()
        self.before = measure(self.known["before"], score=self.suite.score)
        if budget.trials > 1:
            self.objective.check(self.before)
        self.began, self.done = time.monotonic(), 0  # trials and runs, this time

    def run(self, method: str, seed: int, folder: Path) -> bool:
        """Tune the method where that is not done, run it with this seed, write its folder; False where it cannot run."""
        home = self.out / method
        home.mkdir(exist_ok=True)
        with folder_lock(home):
            return (folder / "results.json").exists() or self._run(method, seed, folder)

    def _run(self, method: str, seed: int, folder: Path) -> bool:
        home = self.out / method
        (home / "left-out.txt").unlink(missing_ok=True)
        try:
            run = self.method(method)
            check_parts(self.session.model, run.method)
            preferred_rows(run.loss, self.session.rows["forget"], self.session.encoder)
            values = search(
                run.method,
                trials=self.budget.trials,
                rates=self.budget.rates,
                seed=self.base.seed,
                log=home / "trials.jsonl",
                value_of=lambda settings: self.value_of(run.with_method(settings), method),
            )
            run = replace(run.with_method(with_values(run.method, values)), seed=seed)
            self.restore()
            outcome = unlearn(self.session, run, known=self.known, weights=self.start)
        except (ConfigError, Diverged) as e:
            self.restore()
            write_atomic(home / "left-out.txt", f"{e}\n")
            self.progress.phase(f"{method} is left out: {e}")
            return False
        folder.mkdir(exist_ok=True)
        if self.budget.audit:
            keep_model(self.session, folder)
        write_atomic(folder / "run.yaml", to_yaml(replace(run, out=str(folder))))
        write_lines(folder / "steps.jsonl", map(asdict, outcome.steps))
        write_importance(outcome, folder)
        for when in ("before", "after"):
            write_records(folder / "records" / f"{when}.jsonl", outcome.records[when])
        write_results(folder / "results.json", outcome.results)
        self.done += 1
        return True

    def time_left(self) -> str:
        """How long all that is not done will take at this time's pace, in words; nothing before the first is done."""
        if not self.done:
            return ""
        left = sum(map(self._undone, self.budget.methods))
        return f"; about {(time.monotonic() - self.began) / self.done * left / 60:.0f} min left"

    def _undone(self, method: str) -> int:
        """Trials and runs that the method still has before it."""
        home = self.out / method
        runs = sum(not (home / f"seed-{s}" / "results.json").exists() for s in self.budget.seeds)
        if not runs or (home / "left-out.txt").exists():
            return 0
        return runs + (self.budget.trials - tried(home) if self.budget.trials > 1 else 0)

    def method(self, name: str) -> Run:
        """The recipe on the bench's rows, schedule and evaluation. Raises ConfigError where they do not suit it."""
        recipe, base = RECIPES[name], self.base
        importance = recipe.importance
        if isinstance(importance, Learns) and self.budget.share is not None:
            importance = importance.with_budget(self.budget.share)
        if isinstance(importance, ReadsBaseModel) and isinstance(base.importance, ReadsBaseModel):
            importance = importance.with_base(base.importance.base)
        train = recipe.train.on_schedule(base.train)
        return replace(base, loss=recipe.loss, importance=importance, train=train, guard=UNGUARDED, out=str(self.out))

    def value_of(self, run: Run, method: str) -> float:
        """The objective after this run."""
        self.restore()
        number, values = tried(self.out / method) + 1, ", ".join(f"{k} {v:.3g}" for k, v in values_of(run.method).items())
        self.progress.phase(f"Trial {number} of {self.budget.trials} of {method}{self.time_left()}: {values}")
        session, objective = self.session, self.objective
        train(session, run, {r.id: r.generated for r in self.known["before"].get("retain", ())})
        bare = {name: [_bare(row) for row in session.rows[name]] for name in objective.evaluated}
        short = replace(run, evaluation=replace(run.evaluation, shots=0, grad_norm=False))
        suite = replace(self.suite, evaluated_sets=objective.evaluated)
        judged = replace(session, suite=suite, rows={**session.rows, **bare})
        records = make_evaluator(judged, short).predict(
            session.model,
            generate=objective.by_quality or METRICS[objective.metric].reads == "answer",
            start=partial(with_weights, session.model, self.start) if objective.by_quality else None,
        )
        self.done += 1
        return objective.value(self.before, records)

    @torch.no_grad()
    def restore(self) -> None:
        """The weights as they were loaded."""
        self.session.model.lm.load_state_dict(self.start)
        self.session.model.lm.requires_grad_(True)


def check_left_to_methods(base: Run) -> None:
    """Refuse settings that each method has of its own, or that have no effect here, so that none is ignored."""
    if base.guard not in (Guard(), UNGUARDED):
        raise ConfigError("a bench rolls nothing back, since harm is a result, and its guard is fixed; leave guard out")
    shared = asdict(Train().on_schedule(base.train))
    given = [f"train.{name}" for name, value in asdict(base.train).items() if value != shared[name]]
    given += ["loss"] * (base.loss != GradientDifference())
    given += ["importance"] * (not isinstance(base.importance, ReadsBaseModel) and base.importance != Learned())
    if given:
        raise ConfigError(f"each method of a bench has its own {given[0]}; leave it out (learning rates: --rates)")


def tried(home: Path) -> int:
    """How many trials of a method are done."""
    log = home / "trials.jsonl"
    return log.read_text(encoding="utf-8").count("\n") if log.exists() else 0


def check_same_terms(out: Path, base: Run, budget: Budget, objective: str) -> None:
    """Write down the bench's settings, or where that is done, refuse others: its numbers would not be on equal terms."""
    now: BenchTerms = {
        "run": to_dict(replace(base, out=None)),
        "trials": budget.trials,
        "rates": list(budget.rates),
        "objective": objective,
        "share": budget.share,
    }
    path = out / "bench.json"
    if not path.exists():
        write_json(path, now)
        return
    then = read_json(path, BenchTerms)
    then["run"] = to_dict(from_dict(then["run"]))  # settings that an older version did not have are at their defaults
    before, wanted = _paths(then), _paths(now)
    if changed := [key for key in wanted if before.get(key) != wanted[key]]:
        raise ConfigError(f"{out} holds a bench with another {', '.join(changed[:3])}; give --out a new folder")


def _paths(value: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, inner in value.items() for k, v in _paths(inner, f"{prefix}.{key}".strip(".")).items()}


def _bare(row: Encoded) -> Encoded:
    """The row without its paraphrases: a trial is judged on the rows themselves."""
    return replace(row, example=replace(row.example, paraphrases=(), restated=None))
