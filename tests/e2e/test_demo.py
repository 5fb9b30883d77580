"""The demo as a newcomer sees it, on a tiny model: a story in a dozen lines, everything else on the page."""

from __future__ import annotations

import json

import pytest

from deleatur.cli.story import print_story
from deleatur.report import verdict

SMALL = ("--people", 3, "--forgotten", 1, "--fine-tune-epochs", 1, "--seed", 1)


@pytest.fixture
def told(home, call):
    said = call("demo", "--model", home.model, *SMALL)
    assert said.code == 0, said.err
    return said


def test_the_demo_prints_a_dozen_lines_and_a_finished_one_prints_them_again_at_once(home, call, told, tmp_path):
    """Two questions with both answers each, what mattered, the verdict with three reasons, and the page: no table."""
    lines = [line for line in told.out.splitlines() if line]
    assert len(lines) <= 12
    assert [line.split(":")[0] for line in lines if line.startswith(("Forget:", "Keep:"))] == ["Forget", "Keep"]
    assert [line.split()[0] for line in lines if line.startswith("  ")][:4] == ["before", "after"] * 2
    run = tmp_path / "runs" / "demo"
    found = verdict(json.loads((run / "results.json").read_text(encoding="utf-8")))
    assert f"{found.headline}." in lines
    assert [f"  {reason}" for reason in found.reasons[:3]] == lines[-4:-1]
    assert lines[-1].endswith("runs/demo/report.html")
    assert not {"│", "━", "┃"} & set(told.out)
    again = call("demo", "--model", home.model, *SMALL)
    assert again.out == told.out
    assert "runs/demo already holds this run" in again.err


def test_the_demo_prints_what_happens_and_no_settings(told):
    """Learns, is asked, says, forgets: in that order, and not the YAML that `deleatur forget` prints."""
    said = told.err
    order = [
        "3 people who do not exist",
        "The model learns",
        "It reads: ",
        "is evaluated on all of them",
        "Asked “",
        "Now it forgets",
    ]
    places = [said.index(words) for words in order]
    assert places == sorted(places)
    assert "epochs:" not in said
    forgets = said.index("Now it forgets")
    assert "  steps 1/" in said[:forgets]  # of learning
    assert "  steps " in said[forgets:]


def test_a_reference_is_fine_tuned_on_the_others_and_its_figures_are_shown(home, call, told, tmp_path):
    said = call("demo", "--model", home.model, *SMALL, "--reference")
    assert said.code == 0, said.err
    assert said.out.startswith(told.out)
    shown = said.out[len(told.out) :]
    assert "The reference, not fine-tuned on the forgotten people:" in shown
    assert "revealed" in shown
    kept = json.loads((tmp_path / "runs" / "demo" / "reference.json").read_text(encoding="utf-8"))
    assert {"forget", "retain", "holdout"} <= kept["sets"].keys()


def test_a_finished_run_of_any_kind_has_its_story(finished, capsys):
    print_story(finished)
    assert "report.html" in capsys.readouterr().out
