"""A run without retain rows makes them from the model's answers, keeps them, says so, and can be repeated and resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import deleatur
from deleatur.commands import retain_rows
from deleatur.commands.demo import row_of
from deleatur.settings import Evaluation, Train


@pytest.fixture
def speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model was never trained; here its noise counts as language."""
    monkeypatch.setattr(retain_rows, "incoherent", lambda record: 0.0)
    monkeypatch.setattr(retain_rows, "full_sentences", lambda answer, cut: answer)


def command(home, out: Path | str, *more: object) -> tuple[str, ...]:
    quick = ("--train.epochs", "1", "--train.batch", "4", "--evaluation.new-tokens", "8", "--evaluation.rows", "4")
    return (
        "forget",
        "--model",
        str(home.model),
        "--forget",
        str(home.file("forget")),
        "--out",
        str(out),
        *quick,
        *map(str, more),
    )


def test_a_run_keeps_the_rows_it_made_and_says_so(home, call, speaks, tmp_path):
    said = call(*command(home, "run"))
    assert said.code == 0, said.err
    rows = [json.loads(line) for line in (tmp_path / "run/retain.jsonl").read_text("utf-8").splitlines()]
    asked = {e.question for e in home.world.forget}
    assert len(rows) > 20
    assert not asked & {row["question"] for row in rows}
    note = f"No retain rows were given: {len(rows)} rows were made from the model's own answers before training"
    results = json.loads((tmp_path / "run/results.json").read_text("utf-8"))
    assert any(n.startswith(note) for n in results["notes"])
    assert note in said.out.replace("\n", " ")
    assert "No retain rows were given" in (tmp_path / "run/report.html").read_text("utf-8")
    assert results["data"]["retain"]["rows"] == len(rows)
    assert results["data"]["retain"]["source"] == "the model's own answers before training"
    assert results["before"]["retain"]["revealed"]["value"] == 1.0  # what is kept is what it said
    assert (tmp_path / "run").stat().st_mode & 0o077 == 0

    assert call("forget", "run/run.yaml", "--out", "again").code == 0
    for name in ("retain.jsonl", "data.json", "model/model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()

    evaluated = json.loads(call("evaluate", "run", "--json").out)
    assert evaluated["data"]["retain"]["rows"] == len(rows)
    assert evaluated["sets"]["retain"]["revealed"] == pytest.approx(results["after"]["retain"]["revealed"])


def test_a_resumed_run_takes_the_rows_already_made_and_refuses_others(home, call, speaks, tmp_path):
    assert call(*command(home, "run")).code == 0
    for name in ("results.json", "report.html", "importance.jsonl"):
        (tmp_path / "run" / name).unlink()
    shutil.rmtree(tmp_path / "run/model")
    made = (tmp_path / "run/retain.jsonl").read_bytes()
    said = call("forget", "run", "--resume")
    assert said.code == 0, said.err
    assert "the model is asked" not in said.err
    assert (tmp_path / "run/retain.jsonl").read_bytes() == made

    (tmp_path / "run/results.json").unlink()
    (tmp_path / "run/report.html").unlink()
    (tmp_path / "run/retain.jsonl").write_bytes(b"\n".join(made.split(b"\n")[1:]))
    said = call("forget", "run", "--resume")
    assert said.code == 2
    assert "the retain rows are not those that run began with" in said.err


def test_show_makes_the_rows_and_leaves_nothing(home, call, speaks, tmp_path):
    said = call(*command(home, "run", "--show", 2))
    assert said.code == 0, said.err
    assert "retain: " in said.out
    assert "No retain rows were given" in said.err
    assert list(tmp_path.iterdir()) == []


def test_where_no_answer_is_coherent_the_run_is_refused_before_anything_is_written(home, call, tmp_path):
    said = call(*command(home, "run"))
    assert said.code == 2
    assert "no retain rows can be made of them; give rows as --retain" in said.err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_subject_is_refused(home, refused):
    assert "no forget question names the subject" in refused(*command(home, "run", "--subject", "Nobody Else"))


def test_from_python_nothing_is_written(home, speaks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(home.model), AutoTokenizer.from_pretrained(home.model)
    settings = {"train": Train(epochs=1, batch=4), "evaluation": Evaluation(new_tokens=8, rows=4)}
    outcome = deleatur.forget(model, tokenizer, forget=map(row_of, home.world.forget), **settings)
    assert any(n.startswith("No retain rows were given") for n in outcome.results["notes"])
    assert outcome.results["before"]["retain"]["revealed"]["value"] == 1.0
    assert list(tmp_path.iterdir()) == []
