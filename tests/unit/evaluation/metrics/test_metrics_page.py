"""The tables of metrics and the page that is made of them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from deleatur.data import muse, rwku, tofu
from deleatur.evaluation.metrics import METRICS, RUN_METRICS, SET_METRICS
from deleatur.evaluation.metrics.agreement import agreement
from deleatur.evaluation.metrics.page import metrics_markdown
from deleatur.types import Record

DOCS = Path(__file__).parents[4] / "docs"


def test_the_page_in_docs_is_the_tables():
    assert (DOCS / "metrics.md").read_text(encoding="utf-8") == metrics_markdown()


def test_the_page_has_a_line_for_every_metric_and_every_figure_with_no_cell_empty():
    lines = [line.strip("| ").split(" | ") for line in metrics_markdown().splitlines() if line.startswith("| ")]
    assert [line[0] for line in lines if line[0] != "---"] == [
        "metric",
        *METRICS,
        "figure",
        *SET_METRICS,
        "figure",
        *RUN_METRICS,
    ]
    assert all(cell.strip() for line in lines for cell in line)
    assert {len(line) for line in lines} == {4, 5}


def test_no_name_means_two_things():
    assert len({*METRICS, *SET_METRICS, *RUN_METRICS}) == len(METRICS) + len(SET_METRICS) + len(RUN_METRICS)


def test_every_figure_of_a_run_is_explained():
    """What `trade_off` and `agreement` make, but for the counts and settings beside it."""
    spans = [Record(id="1", question="", answer="a b", generated="", logp=(-1.0,) * 2, hit=(True,) * 2, ends=False)]
    spans = [replace(r, gold=(True, False), importance=(0.9, 0.1)) for r in spans]
    made = {*agreement(spans, budget=0.5)} - {"budget", "gold_share", "n"} | {"fq", "fq_raw", "rd", "rd_loss", "uq"}
    assert made == {*RUN_METRICS}


def test_every_set_metric_is_used_by_a_suite():
    assert {*tofu.SET_METRIC_NAMES, *muse.SET_METRIC_NAMES, *rwku.SET_METRIC_NAMES} == {*SET_METRICS}
    attacks = {name for name in SET_METRICS if name.startswith("mia_") and name != "mia_reference"}
    assert all(attacks <= {*suite.SET_METRIC_NAMES} for suite in (tofu, muse, rwku))


def test_a_metric_reads_the_greedy_answer_if_its_number_follows_it():
    """Two records that differ in what was generated, and in what the judge made of it, alone."""
    shown = {"id": "1", "question": "Where?", "answer": "In Tessholm.", "logp": (-1.0, -2.0), "hit": (True, False)}
    shown |= {"start_nll": 1.0, "shuffled_nll": 2.0, "start_tokens": 9}
    said, silent = (
        Record(**shown, **made, ends=True, wrong=((-1.5,),), mean=(-1.0,) * 2, deviation=(1.0,) * 2)
        for made in (
            {"generated": "In Tessholm, by the sea.", "judged": 1.0, "cut": True},
            {"generated": "", "judged": 0.0, "cut": False},
        )
    )
    follows = {name for name, m in METRICS.items() if m.of(said) != m.of(silent)}
    assert follows == {name for name, m in METRICS.items() if m.reads == "answer"}
    assert {m.reads for m in METRICS.values()} == {"answer", "tokens"}


def test_directions_are_of_three_kinds():
    assert {m.forget for m in METRICS.values()} == {"lower", "higher", "as before"}


def test_the_tables_need_no_torch():
    modules = "deleatur.evaluation.metrics, deleatur.report.interop, deleatur.evaluation.aggregate"
    program = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr
