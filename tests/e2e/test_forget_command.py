"""`deleatur forget`: what a run folder holds, for every recipe, and that a run repeats itself."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from deleatur.config.recipes import RECIPES
from deleatur.config.run_config import from_yaml, to_dict
from deleatur.evaluation.aggregate import mean
from deleatur.evaluation.metrics import METRICS
from deleatur.evaluation.metrics.coherence import incoherent
from deleatur.evaluation.metrics.revealed import revealed
from deleatur.importance import Learned
from deleatur.settings import Evaluation, Train
from deleatur.types import Record, Span

SETS = {"forget": 6, "retain": 12, "holdout": 6}
PARTS = ("run.yaml", "steps.jsonl", "importance.jsonl", "results.json", "scorer.safetensors", "report.html")
SAME = ("importance.jsonl", "scorer.safetensors", "records/before.jsonl", "records/after.jsonl", "model/model.safetensors")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def results(run: Path) -> dict:
    return json.loads((run / "results.json").read_text(encoding="utf-8"))


def test_a_run_fills_its_folder_and_nothing_in_it_is_a_pickle(finished):
    files = {str(p.relative_to(finished)) for p in finished.rglob("*") if p.is_file()}
    assert files >= {*PARTS, "records/before.jsonl", "records/after.jsonl", "model/config.json", "model/model.safetensors"}
    assert {Path(name).suffix for name in files} <= {".yaml", ".json", ".jsonl", ".html", ".safetensors", ".jinja"}


def test_the_folder_is_its_owners_alone(finished):
    assert finished.stat().st_mode & 0o777 == 0o700


def test_run_yaml_loads_back_to_the_run(finished, home):
    expected = RECIPES["atwu-scorer"].run(
        model=str(home.model),
        forget=str(home.file("forget")),
        retain=str(home.file("retain")),
        holdout=str(home.file("holdout")),
        out=str(finished),
        train=Train(epochs=2, batch=4, lr=1e-3, gamma=RECIPES["atwu-scorer"].train.gamma),
        evaluation=Evaluation(new_tokens=8),
    )
    assert from_yaml(finished / "run.yaml") == expected
    assert results(finished)["run"] == to_dict(expected)


def test_steps_has_one_line_a_step(finished):
    """2 epochs of 6 rows in batches of 4 are 2 · 2 steps."""
    steps = lines(finished / "steps.jsonl")
    assert [s["step"] for s in steps] == [1, 2, 3, 4]
    assert all(math.isfinite(s[name]) for s in steps for name in ("loss", "forget_nll", "retain_nll", "grad_norm"))
    assert all(0 <= s["scorer_seconds"] <= s["seconds"] for s in steps)
    assert results(finished)["cost"]["steps"] == 4


def test_importance_covers_every_answer_from_its_first_character_to_its_end(finished, home):
    """Tokens follow each other without a gap and end in the empty one that closes the answer; gold is what spans touch."""
    rows = {row["id"]: row for row in lines(finished / "importance.jsonl")}
    assert rows.keys() == {e.id for e in home.world.forget}
    for example in home.world.forget:
        row, size = rows[example.id], len(example.answer)
        ends = [(t["start"], t["end"]) for t in row["tokens"]]
        assert row["answer"] == example.answer
        assert ends[0][0] == 0
        assert ends[-1] == (size, size)
        assert all(a[1] == b[0] for a, b in pairwise(ends))
        assert all(0 < t["importance"] < 1 for t in row["tokens"])
        gold = [any(a < s.end and s.start < b for s in example.spans) for a, b in ends]
        assert [t["gold"] for t in row["tokens"]] == gold
        assert isinstance(row["before"], str)
        assert isinstance(row["after"], str)


@pytest.mark.parametrize("side", ["before", "after"])
def test_results_are_the_means_of_the_records_in_the_folder(finished, side):
    records: dict[str, list[Record]] = {}
    for row in lines(finished / "records" / f"{side}.jsonl"):
        spans = tuple(Span(**s) for s in row.pop("spans"))
        records.setdefault(row.pop("set"), []).append(Record(**{**tuples(row), "spans": spans}))
    counts = SETS | {f"{name}_paraphrased": 2 * n for name, n in SETS.items()}
    assert {name: len(rows) for name, rows in records.items()} == counts
    told = results(finished)[side]
    assert told.keys() == records.keys()
    for name, rows in records.items():
        values = {name: [v for r in rows if (v := m.of(r)) is not None] for name, m in METRICS.items()}
        expected = {m: pytest.approx(mean(found)) for m, found in values.items() if found}
        unforgotten = [max(v, incoherent(r) or 0.0) for r in rows if (v := revealed(r)) is not None]
        scored = {"unforgotten": pytest.approx(mean(unforgotten))} if unforgotten else {}
        assert told[name] == expected | scored
        assert {"probability", "extraction_strength", "loss", "min_k_plus"} <= told[name].keys()
        assert all(
            0 <= figure["value"] <= 1 for m, figure in told[name].items() if m == "unforgotten" or not METRICS[m].unit
        )


def tuples(row: dict) -> dict:
    row["offsets"] = tuple(tuple(pair) for pair in row["offsets"])
    return {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}


def test_results_say_what_was_run_on_what_and_at_what_cost(finished, home):
    told = results(finished)
    assert told["schema_version"] == 2
    assert {"fq", "rd", "uq"} <= told.keys()
    assert told["importance"].keys() >= {"roc_auc", "average_precision", "precision_at_budget"}
    assert all(0 <= told["importance"][k] <= 1 for k in ("roc_auc", "average_precision", "precision_at_budget"))
    assert told["cost"]["seconds_per_step"] > 0
    assert told["cost"]["peak_memory_bytes"] > 10**8
    assert 0 < told["cost"]["scorer_share"] < 1
    weights = AutoModelForCausalLM.from_pretrained(home.model).num_parameters()
    assert told["model"]["name"] == str(home.model)
    assert told["model"]["parameters"] == weights
    assert {name: part["rows"] for name, part in told["data"].items()} == SETS
    assert all(len(part["sha256"]) == 64 and part["cut"] == 0 for part in told["data"].values())


def test_the_saved_scorer_gives_the_importance_that_was_written(finished, call):
    scorer = load_file(finished / "scorer.safetensors")
    assert {name: tuple(x.shape) for name, x in scorer.items()} == {"linear.weight": (1, 32), "linear.bias": (1,)}
    assert float(scorer["linear.weight"].norm()) > 0
    forget = from_yaml(finished / "run.yaml").forget
    try:
        assert call("score", finished, "--rows", forget).code == 0
        again = lines(finished / "importance-forget.jsonl")
    finally:
        (finished / "importance-forget.jsonl").unlink()
    written = lines(finished / "importance.jsonl")
    assert [r["id"] for r in again] == [r["id"] for r in written]
    for one, other in zip(again, written, strict=True):
        expected = [t["importance"] for t in other["tokens"]]
        assert [t["importance"] for t in one["tokens"]] == pytest.approx(expected, abs=1e-6)


def test_the_report_is_one_page_with_the_rows_in_it(finished, home):
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>")
    assert home.world.forget[0].question in page
    assert "<script" not in page


def test_another_form_of_the_same_rows_has_the_same_hash(finished, home, tmp_path, call):
    rows = lines(home.file("forget"))
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    rows[0]["answer"] = rows[0]["answer"].removesuffix(".")
    (tmp_path / "other.json").write_text(json.dumps(rows), encoding="utf-8")
    hashes = []
    for name in ("rows.json", "other.json"):
        said = call(*home.forget(name.removesuffix(".json"), "--forget", tmp_path / name, "--json"))
        hashes.append(json.loads(said.out)["data"]["forget"]["sha256"])
    assert hashes[0] == results(finished)["data"]["forget"]["sha256"] != hashes[1]


WAYS = {name: ("--recipe", name) for name in RECIPES if name not in ("atwu-scorer", "su-llm", "rmu")} | {
    "su-llm": ("--recipe", "su-llm", "--importance.base", "{other}"),
    "rmu of two layers": ("--recipe", "rmu", "--loss.layer", "0", "--train.only", r"layers\.0\.mlp\.down_proj"),
    "adapters": ("--lora.rank", "4"),
    "bf16": ("--train.precision", "bf16"),
    "adapters on 4 bits": ("--lora.rank", "4", "--lora.bits", "4", "--train.precision", "bf16", "--train.checkpointing"),
    "in pieces": ("--train.accumulate", "2", "--train.batch", "2", "--train.checkpointing"),
    "another pair": ("--loss", "npo", "--importance", "wga"),
    "the state before": ("--importance.state", "predicting", "--importance.objective", "matched"),
}


SAVED = ("atwu", "adapters", "adapters on 4 bits", "bf16", "in pieces")  # one of each way to hold and save weights


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_training_leaves_a_changed_model_that_loads_and_is_the_measured_one(way, home, tmp_path, call):
    """After a run of each way to save, the saved model says of the rows what results.json says: it was measured."""
    said = call(*home.forget("run", *(arg.format(other=home.wide) for arg in WAYS[way]), "--json"))
    assert said.code == 0, said.err
    run, told = tmp_path / "run", json.loads(said.out)
    model = AutoModelForCausalLM.from_pretrained(run / "model", dtype=torch.float32)
    start = AutoModelForCausalLM.from_pretrained(home.model)
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in start.named_parameters()}
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), start.parameters(), strict=True))
    assert told["model"]["parameters"] == start.num_parameters()
    assert AutoTokenizer.from_pretrained(run / "model").eos_token == "</s>"
    learned = isinstance(from_yaml(run / "run.yaml").importance, Learned)
    assert (run / "scorer.safetensors").exists() == learned
    assert all(t["importance"] is not None for row in lines(run / "importance.jsonl") for t in row["tokens"])
    if way in SAVED:
        again = json.loads(call("evaluate", "run", "--json").out)["sets"]
        for name, metrics in told["after"].items():
            assert again[name] == {m: pytest.approx(figure, abs=1e-5) for m, figure in metrics.items()}


def test_a_run_repeats_itself_to_the_byte_in_a_new_folder(finished, tmp_path, call):
    for folder in ("runs/forget", "runs/forget-2"):
        assert call("forget", finished / "run.yaml").code == 0
        assert (tmp_path / folder / "results.json").exists()
        for name in SAME:
            assert (tmp_path / folder / name).read_bytes() == (finished / name).read_bytes(), name


def test_another_seed_is_another_run(finished, tmp_path, call):
    assert call("forget", finished / "run.yaml", "--seed", "1", "--out", "other").code == 0
    assert from_yaml(tmp_path / "other" / "run.yaml").seed == 1
    assert (tmp_path / "other" / SAME[-1]).read_bytes() != (finished / SAME[-1]).read_bytes()
    assert (tmp_path / "other" / SAME[2]).read_bytes() == (finished / SAME[2]).read_bytes()


def test_options_change_a_run_file(finished, tmp_path, call):
    said = call("forget", finished / "run.yaml", "--out", "npo", "--loss", "npo", "--train.epochs", "1")
    assert said.code == 0, said.err
    run = from_yaml(tmp_path / "npo" / "run.yaml")
    assert (to_dict(run)["loss"]["name"], run.train.epochs, run.train.batch) == ("npo", 1, 4)


def test_an_empty_folder_is_accepted_for_a_run_and_made_private(home, tmp_path, call):
    (tmp_path / "empty").mkdir(mode=0o755)
    assert call(*home.forget("empty", "--train.epochs", "1")).code == 0
    assert (tmp_path / "empty").stat().st_mode & 0o777 == 0o700


def test_brackets_and_colons_in_a_path_are_shown_as_they_are(home, tmp_path, call):
    odd = tmp_path / "a[b" / "c] :smile: [/d]"
    said = call(*home.forget(odd, "--train.epochs", "1"))
    assert said.code == 0, said.err
    assert f"Report: {odd}/report.html" in said.out
    shown = "".join(c for c in said.err if not c.isspace() and c not in "'\"\\")  # YAML folds a long path
    assert f"out:{odd}".replace(" ", "") in shown
