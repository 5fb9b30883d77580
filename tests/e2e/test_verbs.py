"""What each verb prints and where, and that --help is quick and complete."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from deleatur.config.recipes import RECIPES

VERBS = ("forget", "evaluate", "audit", "score", "report", "export", "demo", "methods")
TIMED = "import sys; from deleatur.cli.main import main\ntry: main(sys.argv[1:])\nfinally: assert 'torch' not in sys.modules"


def test_json_puts_results_alone_on_stdout(home, tmp_path, call):
    said = call(*home.forget("run", "--json"))
    assert said.out == (tmp_path / "run" / "results.json").read_text(encoding="utf-8")
    assert json.loads(said.out)["schema_version"] == 2
    assert "steps 4/4" in said.err


def test_without_json_a_table_and_the_places_of_report_and_model_are_printed(home, call):
    said = call(*home.forget("run"))
    assert "Report: run/report.html   Model: run/model" in said.out
    assert "forget rows" in said.out
    assert "ROC-AUC" in said.out


def test_show_marks_the_scored_tokens_and_writes_nothing(home, tmp_path, call):
    """Between the brackets of a row stands its answer, then the end; before them the question, unmarked."""
    said = call(*home.forget("run", "--show", "2"))
    assert said.code == 0
    assert list(tmp_path.iterdir()) == []
    text = said.out.replace("\n", "")
    for example in (*home.world.forget[:2], *home.world.retain[:2]):
        marked = re.match("(⟦[^⟧]*⟧)+", text.partition(f"Question: {example.question}Answer:")[2])
        assert re.sub("[⟦⟧ ]", "", marked[0]) == f"{example.answer}</s>".replace(" ", "")
    assert home.world.forget[2].question not in text


def test_evaluate_measures_a_run_as_the_run_did_itself(finished, call):
    said = call("evaluate", finished, "--json")
    after = json.loads((finished / "results.json").read_text(encoding="utf-8"))["after"]
    assert json.loads(said.out)["sets"] == {
        name: {m: pytest.approx(figure, abs=1e-6) for m, figure in metrics.items()} for name, metrics in after.items()
    }


def test_evaluate_measures_any_model_on_any_rows(finished, home, call):
    """The start model, asked with the run's settings, says what the run wrote under before."""
    args = ("evaluate", "--model", home.model, *home.rows, "--holdout", home.file("holdout"), "--evaluation.new-tokens", 8)
    before = json.loads((finished / "results.json").read_text(encoding="utf-8"))["before"]
    assert json.loads(call(*args, "--json").out)["sets"] == {
        name: {m: pytest.approx(figure, abs=1e-6) for m, figure in metrics.items()} for name, metrics in before.items()
    }


def test_own_rows_have_the_worst_case_attacks_with_holdout_and_a_comparison_with_a_retrained_model(finished, home, call):
    whole = json.loads((finished / "results.json").read_text(encoding="utf-8"))["set_metrics"]["after"]
    attacks = {"mia_loss", "mia_min_k", "mia_min_k_plus", "mia_zlib", "mia_grad_norm"}
    assert {*whole} == {"j_w", "j_avg", "specific_nll", "other_nll"} | attacks
    assert whole["j_w"]["asked"] > whole["j_w"]["n"] == 1, "of five rows the fact comes after the tokens that were asked for"
    assert whole["mia_loss"]["low"] <= whole["mia_loss"]["value"] <= whole["mia_loss"]["high"]
    args = (
        "evaluate",
        "--model",
        home.model,
        *home.rows,
        "--evaluation.new-tokens",
        8,
        "--evaluation.retrained",
        home.model,
    )
    whole = json.loads(call(*args, "--json").out)["set_metrics"]
    lacks = {name: figure["lacks"] for name, figure in whole.items() if "lacks" in figure}
    unseen = "needs forget rows and unseen rows (--holdout)"
    wrong = "needs wrong answers to the forget rows"
    assert lacks == {"forget_quality": wrong, "privleak": unseen, "mia_reference": unseen}


def test_evaluate_prints_a_table_and_writes_nothing(finished, tmp_path, call):
    said = call("evaluate", finished)
    assert "unseen rows" in said.out
    assert "probability" in said.out
    assert list(tmp_path.iterdir()) == []


def test_score_shows_the_runs_answers_and_runs_no_model(finished, home, call, monkeypatch):
    monkeypatch.setattr("deleatur.commands.evaluation.load", lambda *_, **__: pytest.fail("a model was loaded"))
    said = call("score", finished, "--limit", "3")
    shown = [e.answer in said.out.replace("\n", " ").replace("  ", " ") for e in home.world.forget]
    assert shown == [True, True, True, False, False, False]
    assert f"3 of 6 rows; all are in {finished}/importance.jsonl" in said.out
    assert said.err == ""


def test_score_reads_other_rows_with_the_runs_scorer(run_folder, home, call):
    said = call("score", "run", "--rows", home.file("holdout"))
    written = (run_folder / "importance-holdout.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["answer"] for line in written] == [e.answer for e in home.world.holdout]
    assert "importance-holdout.jsonl" in said.out


def test_report_writes_the_same_page_again(run_folder, call):
    page = (run_folder / "report.html").read_bytes()
    (run_folder / "report.html").unlink()
    said = call("report", "run")
    assert said.out == "run/report.html\n"
    assert (run_folder / "report.html").read_bytes() == page


@pytest.mark.parametrize("verb", ["methods", "recipes"])
def test_methods_lists_every_method_by_its_full_name(verb, call):
    said = call(verb)
    assert all(re.search(rf"│ {name} ", said.out) for name in RECIPES)


@pytest.mark.parametrize("args", [(), ("-h",), ("--help",)])
def test_without_a_verb_the_verbs_are_listed(args, call):
    said = call(*args)
    assert said.code == 0
    assert all(f"\n  {verb} " in said.out for verb in VERBS)


def settings(value: object, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        name = f"{prefix}{field.name}"
        yield from settings(inner, f"{name}.") if dataclasses.is_dataclass(inner) else [name]


@pytest.mark.parametrize("recipe", RECIPES)
def test_help_lists_every_setting_of_a_recipe(recipe, call):
    said = call("forget", "--recipe", recipe, "--help")
    names = settings(RECIPES[recipe].run(model="m", forget="f", retain="r"))
    missing = [name for name in names if f"--{name.replace('_', '-')}" not in said.out]
    assert (said.code, missing) == (0, [])


@pytest.mark.parametrize("verb", VERBS)
def test_help_takes_no_torch_and_little_processor_time(verb, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", TIMED, verb, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    )
    out, err = process.stdout.read().decode(), process.stderr.read().decode()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert (process.returncode, err) == (0, "")
    assert f"usage: deleatur {verb}" in out
    assert used.ru_utime + used.ru_stime < 2.0  # torch alone takes more; .3 s where nothing else runs


@pytest.mark.parametrize("command", [("--help",), ("--version",), ("methods",), ("metrics",)])
def test_commands_that_only_list_bring_no_heavy_library(command):
    """They import the parser and the tables, and none of what a run needs."""
    heavy = "{'torch', 'transformers', 'nltk', 'sklearn', 'scipy', 'pandas', 'matplotlib'}"
    program = f"import sys; from deleatur.cli.main import main\nmain(sys.argv[1:])\nassert not {heavy} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_options_may_stand_before_the_folder(finished, call):
    assert call("evaluate", "--json", finished).out == call("evaluate", finished, "--json").out


def test_the_version_is_printed(call):
    import deleatur

    assert call("--version").out.strip() == deleatur.__version__


def test_python_m_is_the_command(tmp_path):
    command = [sys.executable, "-m", "deleatur", "methods"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    assert "atwu" in said


def test_whoever_stops_reading_gets_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        said = subprocess.run([sys.executable, "-u", "-m", "deleatur", "--help"], stdout=closed, stderr=subprocess.PIPE)
    assert (said.returncode, said.stderr) == (141, b"")
