"""Training stops before harm, exit 4, and when it is done; and where it did nothing, that is said."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path

import pytest
import torch
from test_resume import killed, stopped_at
from transformers import AutoModelForCausalLM

from deleatur.training.checkpoint import Checkpoints

LONG = (
    "--train.epochs",
    "10",
    "--keep.every",
    "4",
    "--evaluation.rows",
    "4",
    "--importance",
    "uniform",
    "--loss",
    "graddiff",
)
ASCENT = (*LONG, "--train.lr", "3e-2", "--train.alpha", "0", "--guard.retain", "1.5", "--guard.probe", "None")


def told(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def steps_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def test_lost_retain_rows_roll_the_run_back_to_its_last_checkpoint(home, call, tmp_path, monkeypatch):
    """Ascent with nothing held: the retain NLL starts at log 600 = 6.4 nats and passes 1.5 times that, a mean over 5 steps.
    The saved model is, weight by weight, the checkpoint of the same run killed one step later."""
    said = call(*home.forget("run", *ASCENT))
    assert said.code == 4
    line, results, steps = said.err.splitlines()[-1], told(tmp_path / "run"), steps_of(tmp_path / "run")
    back, last = results["cost"]["steps"], steps[-1]["step"]
    assert (results["ended"], back) == ("rolled back", (last - 1) // 4 * 4)
    means = [sum(s["retain_nll"] for s in steps[max(0, i - 4) : i + 1]) / min(5, i + 1) for i in range(last)]
    limit = 1.5 * steps[0]["retain_nll"]
    assert [m > limit for m in means] == pytest.approx([False] * (last - 1) + [True])
    assert f"Rolled back to the checkpoint of step {back}, after step {last}: the retain rows' NLL passed 1.5 times" in line
    assert f"{steps[-1]['retain_nll']:.3g} (step {last})" in line
    assert "lower train.lr (0.03) or train.gamma" in line
    page = unescape((tmp_path / "run" / "report.html").read_text()).replace("\N{NO-BREAK SPACE}", " ")
    assert results["notes"][0] in page
    with monkeypatch.context() as patch:
        stopped_at(patch, back + 1, killed)
        assert call(*home.forget("other", *ASCENT)).code == 137
    kept = Checkpoints(tmp_path / "other" / "checkpoints", every=4, keep=1)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").parameters()
    for p, master in zip(saved, kept.load(back)["model"]["weights"], strict=True):
        assert torch.equal(p, master)
    assert "is finished" in call("forget", "run", "--resume").err


def test_gibberish_on_everyday_sentences_rolls_back_though_retain_rows_stay(home, call, tmp_path):
    """Retain rows are learned by heart at a rate at which all else is lost."""
    said = call(*home.forget("run", *LONG, "--train.lr", "3e-2", "--train.gamma", "0", "--guard.probe", "1.05"))
    assert said.code == 4, said.err
    steps = steps_of(tmp_path / "run")
    assert "the NLL of everyday sentences passed 1.05 times its start" in said.err.splitlines()[-1]
    assert steps[-1]["retain_nll"] < steps[0]["retain_nll"]


def test_a_loss_that_is_no_number_ends_with_4_and_leaves_the_log(home, call, tmp_path):
    """Weights of 10²⁵ after the first step give no finite loss in the second, and there is nothing to go back to."""
    said = call(*home.forget("run", *LONG, "--train.lr", "1e25", "--train.warmup", "0"))
    assert said.code == 4
    line = said.err.splitlines()[-1]
    assert line.startswith("deleatur: step 2: the loss is ")
    assert line.endswith("lower train.lr or train.gamma; there is no checkpoint to go back to")
    assert [s["step"] for s in steps_of(tmp_path / "run")] == [1]
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"run.yaml", "data.json", "records", "steps.jsonl"}


def test_it_stops_when_forget_rows_are_like_rows_never_seen(home, call, tmp_path):
    """An untrained model knows neither (both near 6.4 nats), so the first look finds what it looks for once the forget
    rows have risen a little; with a budget that is spent it goes on to the end."""
    where = (*LONG, "--holdout", home.file("holdout"), "--guard.stop", "2", "--train.gamma", "3", "--train.lr", "1e-3")
    assert call(*home.forget("run", *where, "--guard.budget", "5")).code == 0
    done = told(tmp_path / "run")
    assert done["ended"] == "done"
    assert done["cost"]["steps"] == len(steps_of(tmp_path / "run")) < 20
    assert done["notes"][0].startswith(f"Training ended after step {done['cost']['steps']} of 20, when the forget tokens ")
    rates = [s["lr"] for s in steps_of(tmp_path / "run")]
    assert rates[-1] < rates[-2]  # it falls to 0 over the last steps
    hard = (*where, "--train.alpha", "0", "--guard.budget", "0", "--guard.retain", "None")
    assert call(*home.forget("spent", *hard)).code == 0
    assert told(tmp_path / "spent")["ended"] == "all steps"


def test_the_default_recipe_stops_by_itself_with_and_without_holdout_rows(home, call, tmp_path):
    """An untrained model gives every token the NLL of chance, which is the level, measured and estimated; so it is done
    as soon as the selected tokens have risen by what separates the two estimates, and says where the level came from."""
    where = (
        "--recipe",
        "atwu",
        "--train.epochs",
        "10",
        "--guard.stop",
        "1",
        "--guard.budget",
        "5",
        "--evaluation.rows",
        "4",
    )
    for name, more, source in (
        ("held", ("--holdout", home.file("holdout")), "holdout rows)"),
        ("alone", (), "estimated from similar retain rows)"),
    ):
        assert call(*home.forget(name, *where, *more)).code == 0
        done = told(tmp_path / name)
        assert done["ended"] == "done"
        assert source in done["notes"][0]


def test_a_loss_with_a_level_needs_to_know_it(refused, home, tmp_path):
    pair = ("--loss", "erase", "--importance", "uniform")
    assert "give holdout rows" in refused(*home.forget(tmp_path / "run", *pair))
    assert "loss.level" in refused(*home.forget(tmp_path / "run", "--loss", "erase", "--importance", "learned"))


def test_a_run_that_did_nothing_says_so(home, call, tmp_path):
    """An AdamW step moves a weight by the rate: 10⁻³⁰ is less than the spacing of fp32 at any weight above 10⁻²²."""
    said = call(*home.forget("run", "--train.lr", "1e-30"))
    assert said.code == 0
    untouched, nothing, *_ = told(tmp_path / "run")["notes"]
    assert untouched.startswith("21 of 21 trained tensors never changed, lm.model.embed_tokens.weight first")
    assert nothing.startswith("The forget rows' NLL was ")
    for note in (untouched, nothing):
        assert note in said.out.replace("\n", " ")


def test_tensors_that_no_gradient_reaches_are_counted(home, call, tmp_path):
    """RMU at layer 0 of 2, retain rows held there: the second layer's 9 tensors, the last norm and the head are not met."""
    rmu = ("--loss", "rmu", "--loss.layer", "0", "--importance", "uniform", "--train.retain", "layer")
    assert call(*home.forget("run", *rmu)).code == 0
    assert told(tmp_path / "run")["notes"][0].startswith("11 of 21 trained tensors never changed, lm.model.layers.1.")
