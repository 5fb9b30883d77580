"""An evaluation with a folder: what lies in it, how it is resumed, and what is refused."""

from __future__ import annotations

import json
import os
import signal
from contextlib import nullcontext

import pytest
from killing import BY_ONE, whole_evaluation

from deleatur.config.run_config import evaluation_from_yaml
from deleatur.progress import Progress


@pytest.fixture
def command(home):
    """A whole command, of a second."""
    return lambda out, *more: ("evaluate", "--model", home.model, *home.rows, "--out", out, *BY_ONE, *more)


def test_the_folder_holds_what_is_printed_and_is_its_owners_alone(command, call, tmp_path):
    whole = command("eval", "--json")
    bare = call(*whole[:7], *whole[9:])  # without --out
    said = call(*whole)
    out = tmp_path / "eval"
    assert said.code == 0, said.err
    assert said.out == (out / "results.json").read_text() == bare.out
    assert sorted(whole_evaluation(out)) == ["data.json", "evaluate.yaml", "records/before.jsonl", "results.json"]
    assert out.stat().st_mode & 0o777 == 0o700


def test_a_finished_evaluation_is_shown_again_without_a_model(command, call, monkeypatch, tmp_path):
    first, table = call(*command("eval", "--json")), call(*command("other")).out
    before = whole_evaluation(tmp_path / "eval")
    (tmp_path / "eval" / ".lock").touch()  # of one killed at its very end
    monkeypatch.setattr("deleatur.commands.evaluation.load", lambda *_, **__: pytest.fail("a model was loaded"))
    assert call("evaluate", "eval", "--resume", "--json").out == first.out
    assert call("evaluate", "--resume", "eval/").out == table
    assert whole_evaluation(tmp_path / "eval") == before


def test_a_run_folders_model_is_evaluated_into_another_folder(finished, call, tmp_path):
    said = call("evaluate", finished, "--out", "eval", "--json")
    assert said.out == call("evaluate", finished, "--json").out == (tmp_path / "eval" / "results.json").read_text()
    assert evaluation_from_yaml(tmp_path / "eval" / "evaluate.yaml")[0].model == str(finished / "model")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_prints_how_to_resume_and_answers_are_kept(number, code, command, call, monkeypatch, tmp_path):
    assert call(*command("alone")).code == 0
    heard = []

    def asked(what, done, total, rate):
        heard.append((what, rate))
        if len(heard) == 5:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr("deleatur.cli.console.watch", lambda: nullcontext(Progress(evaluated=asked)))
        said = call(*command("eval"))
        assert (said.code, said.out) == (code, "")
        assert said.err.splitlines()[-1].endswith("; resume with: deleatur evaluate eval --resume")
        assert (tmp_path / "eval/records/before.0.part.jsonl").read_text().count("\n") == 5
        heard[:] = [("", "")] * 10
        assert call("evaluate", "eval", "--resume").code == 0
    assert [rate for _, rate in heard[10:15]] == ["0 tokens/s"] * 5
    assert whole_evaluation(tmp_path / "eval") == whole_evaluation(tmp_path / "alone")


def test_verdicts_are_kept_in_the_folder(command, call, monkeypatch, tmp_path):
    """The judge is given the folder as the place of its cache."""
    from deleatur.commands import evaluator as evidence

    told, real = [], evidence.make_judge
    monkeypatch.setattr(evidence, "make_judge", lambda settings, folder: told.append(folder) or real(settings, None))
    assert call(*command("eval", "--judge.threshold", "0.87")).code == 0  # none that was made before
    assert [str(folder) for folder in told] == ["eval"]


def test_what_cannot_be_is_refused(command, home, finished, call, refused, tmp_path):
    assert call(*command("eval")).code == 0
    assert "eval exists; give --out a new folder" in refused(*command("eval"))
    assert "evaluate eval --resume" in refused("evaluate", "eval")
    assert "leave --out out" in refused("evaluate", "eval", "--resume", "--out", "other")
    assert "FOLDER --resume" in refused(*command("other", "--resume"))
    assert "has no evaluate.yaml" in refused("evaluate", finished, "--resume")
    assert "has no evaluate.yaml" in refused("evaluate", "nowhere", "--resume")
    assert "eval/run.yaml" in refused("forget", "eval", "--resume")
    (tmp_path / "eval" / "results.json").unlink()
    asked = tmp_path / "eval" / "evaluate.yaml"
    whole = asked.read_text()
    asked.write_text(whole.replace("tasks: []", "tasks: 3"))
    assert "tasks is 3" in refused("evaluate", "eval", "--resume")
    asked.write_text(whole.replace("forget.jsonl", "holdout.jsonl"))
    assert "the forget rows are not those that eval began with" in refused("evaluate", "eval", "--resume")


def test_it_is_written_as_peers_do_and_compared_with_runs(command, finished, run_folder, call, tmp_path):
    """A baseline that was only evaluated: its numbers in OpenUnlearning's form, and a row in the table of methods."""
    assert call(*command("base", "--evaluation.rows", 2, "--data.layout", "open-unlearning")).code == 0
    results = json.loads((tmp_path / "base" / "results.json").read_text())
    assert results["schema_version"] == 2 and results["run"]["data"]["layout"] == "open-unlearning"
    written = call("report", "base", "--form", "open-unlearning")
    assert (written.code, written.err) == (0, "")
    assert (
        "Note: the token ids of this run are not OpenUnlearning's"
        in call("report", run_folder, "--form", "open-unlearning").err
    )
    logs = json.loads((tmp_path / "base" / "TOFU_EVAL.json").read_text())
    assert logs["forget_Q_A_Prob"]["agg_value"] == results["sets"]["forget"]["probability"]["value"]
    assert len(logs["forget_Q_A_Prob"]["value_by_index"]) == 2
    assert "so it has no model and no page; give a run's folder" in call("report", "base").err
    said = call("compare", finished, "base", "base/TOFU_SUMMARY.json", "--out", "table").out.replace("\n", " ")
    assert "Not on equal terms: data.layout is " in said
    assert "are not OpenUnlearning's; evaluate with --data.layout open-unlearning" in said
    assert "Token ids in the layout of open-unlearning: base." in said


def test_rows_that_were_left_out_are_in_the_table(command, call, home):
    """Two of the forget rows; the note says it of every set."""
    said = call(*command("eval", "--evaluation.rows", 2)).out
    assert f"2 of {len(home.world.forget)} " in said
    assert f"Evaluated are 2 of {len(home.world.forget)} forget rows" in said.replace("\n", " ")
