"""Methods side by side on equal terms: nothing is done twice, and what comes out is one table."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from statistics import harmonic_mean

import pytest

from deleatur.config.recipes import RECIPES
from deleatur.settings import Train

METHODS = ("graddiff", "wga", "spans")
SHORT = ("--train.epochs", "1", "--train.batch", "4", "--evaluation.new-tokens", "4")


@pytest.fixture
def bench(home, call):
    def run(*more: object, methods=METHODS, trials: int = 2, seeds=(0, 1), objective: str | None = "extraction_strength"):
        more = (*more, *(() if objective is None else ("--objective", objective)))  # the tiny model reveals nothing
        where = ("bench", "--model", home.model, *home.rows, "--out", "b", *SHORT, "--rates", "1e-4", "1e-2")
        return call(*where, "--methods", *methods, "--trials", trials, "--seeds", *seeds, *more)

    return run


def results(folder):
    return {p: json.loads(p.read_text()) for p in sorted(folder.rglob("results.json"))}


def test_every_method_gets_its_trials_and_every_seed_a_run(bench, call, tmp_path, monkeypatch):
    """All on one model that is loaded once; whoever watches hears how long the rest will take, after the first trial."""
    import deleatur.commands.bench as module

    load, loaded = module.load, []
    monkeypatch.setattr(module, "load", lambda *a, **m: loaded.append(a) or load(*a, **m))
    said = bench()
    assert said.code == 0, said.err
    assert len(loaded) == 1
    trials = [line for line in said.err.splitlines() if line.startswith("Trial")]
    assert [re.split("[:;]", line)[0] for line in trials] == [f"Trial {n} of 2 of {m}" for m in METHODS for n in (1, 2)]
    left = [
        re.search(r"; about \d+ min left(:|$)", line) is not None for line in said.err.splitlines() if " of " in line[:12]
    ]
    assert left == [False, False] + [True] * 10  # of 6 runs and 6 trials, all but the first of each
    made = results(tmp_path / "b")
    assert {str(p.relative_to(tmp_path / "b").parent) for p in made} == {f"{m}/seed-{s}" for m in METHODS for s in (0, 1)}
    for method in METHODS:
        trials = [json.loads(line) for line in (tmp_path / "b" / method / "trials.jsonl").read_text().splitlines()]
        assert [t["number"] for t in trials] == [0, 1]
        best = max(trials, key=lambda t: t["value"])["values"]
        for seed in (0, 1):
            run = made[tmp_path / "b" / method / f"seed-{seed}" / "results.json"]["run"]
            assert run["seed"] == seed
            assert {path: run[path.split(".")[0]][path.split(".")[1]] for path in best} == best
    assert all(m in said.out for m in METHODS)
    for name in ("table.md", "table.tex", "table.json", "report.html"):
        assert (tmp_path / "b" / name).stat().st_size > 100
    assert call("report", tmp_path / "b" / METHODS[0] / "seed-0").code == 0  # what a run answered can be read
    assert "<h1" in (tmp_path / "b" / METHODS[0] / "seed-0" / "report.html").read_text()


def test_each_run_starts_from_the_same_model(bench, tmp_path):
    """Its records and states are read once; a method gives the same numbers whatever ran before it."""
    bench("--train.only", "mlp", methods=("npo", "atwu"), trials=1, seeds=(0,))
    together = results(tmp_path / "b")[tmp_path / "b" / "atwu" / "seed-0" / "results.json"]
    bench("--train.only", "mlp", "--out", "alone", methods=("atwu",), trials=1, seeds=(0,))
    alone = results(tmp_path / "alone")[tmp_path / "alone" / "atwu" / "seed-0" / "results.json"]
    assert together["after"] == alone["after"]
    assert together["before"] == alone["before"]
    assert together["run"]["train"]["only"] == "mlp"


def test_a_method_with_weights_of_its_own_keeps_them():
    """RMU trains three layers, whatever the bench trains with the others."""
    rmu = RECIPES["rmu"].train
    assert rmu.on_schedule(Train(only="mlp", epochs=3)) == replace(rmu, epochs=3, batch=8)


def test_an_interrupted_bench_resumes_and_repeats_nothing(bench, tmp_path, monkeypatch):
    import deleatur.commands.bench as module

    ran = []
    train, unlearn = module.train, module.unlearn

    def counted(f, kind):
        def wrapped(*args, **more):
            if len(ran) == 4:
                raise KeyboardInterrupt
            ran.append((kind, next(a for a in args if hasattr(a, "importance"))))
            return f(*args, **more)

        return wrapped

    monkeypatch.setattr(module, "train", counted(train, "trial"))
    monkeypatch.setattr(module, "unlearn", counted(unlearn, "run"))
    small = {"methods": METHODS[:2], "seeds": (0,)}
    assert bench(**small).code == 130
    made = (tmp_path / "b" / "records" / "before.jsonl").stat().st_mtime_ns
    first, ran[:] = list(ran), []
    monkeypatch.setattr(module, "train", lambda *a, **m: ran.append("trial") or train(*a, **m))
    monkeypatch.setattr(module, "unlearn", lambda *a, **m: ran.append("run") or unlearn(*a, **m))
    assert bench(**small).code == 0
    kinds = [*(kind for kind, _ in first), *ran]
    assert (kinds.count("trial"), kinds.count("run")) == (4, 2)
    assert (tmp_path / "b" / "records" / "before.jsonl").stat().st_mtime_ns == made  # nor are the records before
    ran.clear()
    assert bench(**small).code == 0
    assert ran == []


@pytest.mark.parametrize("objective", ["probability", None, "uq_unseen"])
def test_trials_maximise_what_was_asked_for(bench, home, tmp_path, monkeypatch, objective):
    """The run of the bench's own seed repeats the best trial, so its results say what that trial was worth."""
    import deleatur.commands.bench as module

    suite_of = module.suite_of
    monkeypatch.setattr(module, "suite_of", lambda run: replace(suite_of(run), score="probability"))  # nothing is revealed
    unseen = ("--holdout", home.file("holdout")) if objective == "uq_unseen" else ()
    said = bench(*unseen, objective=objective, methods=("gradascent",), seeds=(0,))
    assert said.code == 0, said.err
    trials = [json.loads(line) for line in (tmp_path / "b" / "gradascent" / "trials.jsonl").read_text().splitlines()]
    (run,) = results(tmp_path / "b").values()
    after = {name: run["after"][name]["probability"]["value"] for name in ("retain", "forget")}
    worth = run["uq"] if objective is None else after["retain"] - after["forget"]
    if objective == "uq_unseen":
        attacks = (run["set_metrics"]["after"][name] for name in ("mia_loss", "mia_min_k", "mia_min_k_plus", "mia_zlib"))
        furthest = max(attack["deviation"] for attack in attacks)
        worth = harmonic_mean([run["fq"], 100 - run["rd"], 100 - 200 * furthest])
    assert max(t["value"] for t in trials) == pytest.approx(worth, abs=1e-6)
    assert trials[0]["value"] != trials[1]["value"]


@pytest.mark.parametrize("objective", [None, "uq"])
def test_an_objective_that_is_nothing_at_the_start_is_refused(bench, objective):
    """UQ is what trials maximise unless something else is asked for."""
    said = bench("--evaluation.new-tokens", "40", objective=objective)  # as many as the answers have
    assert said.code == 2
    assert "uq is not defined at a revealed of 0 before" in said.err


def test_a_method_that_the_rows_do_not_suit_is_left_out_and_said(bench, tmp_path):
    """SU-LLM needs the model before fine-tuning."""
    said = bench(methods=("graddiff", "su-llm"), trials=1, seeds=(0,))
    assert said.code == 0
    assert "su-llm is left out" in said.err
    assert list(results(tmp_path / "b")) == [tmp_path / "b" / "graddiff" / "seed-0" / "results.json"]


def test_another_bench_in_the_same_folder_is_refused(bench):
    bench(methods=("graddiff",), trials=1, seeds=(0,))
    said = bench("--train.epochs", "2", methods=("graddiff",), trials=1, seeds=(0,))
    assert said.code == 2
    assert "another run.train.epochs; give --out a new folder" in said.err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--methods", "npoo"), "methods is 'npoo'"),
        (("--trials", "0"), "trials is 0"),
        (("--rates", "1e-3", "1e-4"), "the lower one first"),
        (("--objective", "loss"), "objective is 'loss', but must be uq, uq_unseen, revealed, judged, probability"),
        (("--share", "1.5"), "share is 1.5"),
        (("--train.lr", "0.5"), "each method of a bench has its own train.lr"),
        (("--train.own-answers",), "has its own train.own_answers"),
        (("--loss.saturation", "3"), "has its own loss"),
        (("--guard.retain", "5"), "a bench rolls nothing back"),
        (("--importance.budget", "0.9"), "has its own importance"),
        (("--suite", "tofu/forget01"), "not both"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused_in_one_line(more, words, bench):
    said = bench(*more, objective=None)
    assert said.code == 2
    assert words in said.err
    assert len(said.err.strip().splitlines()) == 1
