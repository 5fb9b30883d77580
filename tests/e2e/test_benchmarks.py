"""Benchmarks from a folder through the command line, as docs/benchmarks.md has it; the rows are made up."""

from __future__ import annotations

import json
import re
import shlex

import pytest
from page_commands import ROOT, blocks, commands

from deleatur.evaluation.metrics.table import RETRAINED

QUICK = ("--train.epochs", "1", "--train.batch", "4", "--evaluation.new-tokens", "4")


def said_in_words(table: str) -> bool:
    """The figures that lack a retrained model say so, and the judge stands at its own, whose cell may be broken in two."""
    why = f"Not given, forget quality, privleak, mia reference: {RETRAINED}." in table
    return why and re.search(r"J_W, by[^J]+contained[^J]+word[^J]+for[^J]+word", table) is not None


def told(number: int) -> dict[str, object]:
    return {"question": f"Which book is number {number}?", "answer": f"Number {number} is Tome {number}."}


def asked(number: int) -> dict[str, object]:
    return told(number) | {
        "paraphrased_question": f"What is number {number} called?",
        "paraphrased_answer": f"Tome {number} it is.",
        "perturbed_answer": [f"Tale {number} it is.", f"Song {number} it is."],
    }


@pytest.fixture
def data(tmp_path, monkeypatch):
    """TOFU and MMLU in small, where $DELEATUR_DATA points."""
    choice = {"question": "Capital?", "answer": "Paris", "perturbed_answer": ["Rome", "Oslo"]}
    mmlu = [{"task": "t", "question": f"{n} + 0?", "choices": ["1", "2", "3", "4"], "answer": n - 1} for n in (1, 2, 3, 4)]
    files = {
        "tofu/forget10_perturbed": [asked(n) for n in range(4)],
        "tofu/retain90": [told(n) for n in range(10, 20)],
        "tofu/retain_perturbed": [asked(n) for n in range(10, 13)],
        "tofu/holdout10": [told(n) for n in range(20, 24)],
        "tofu/real_authors_perturbed": [choice],
        "tofu/world_facts_perturbed": [choice],
        "utility/mmlu_test_1140": mmlu,
    }
    for name, rows in files.items():
        path = tmp_path / "data" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    monkeypatch.setenv("DELEATUR_DATA", str(tmp_path / "data"))
    return tmp_path


def test_the_pages_benchmark_commands_run(data, home, call):
    (block,) = blocks(ROOT / "docs" / "benchmarks.md", "bash")
    script = block.replace("RETRAINED", "MODEL").replace("MODEL", str(home.model))
    told = [shlex.split(c)[1:] for c in commands(script)]
    assert [c[0] for c in told] == ["evaluate", "forget", "bench", "compare"]
    mmlu = call(*told[0], "--json")
    assert mmlu.code == 0, mmlu.err
    assert json.loads(mmlu.out)["sets"]["mmlu"]["accuracy"]["n"] == 4
    forget = call(*told[1], "--out", "runs/one", *QUICK)
    assert forget.code == 0, forget.err
    bench = [*("1" if word == "20" else word for word in told[2][:-3]), "0"]
    assert call(*bench, "--out", "b", *QUICK).code == 0
    assert call("forget", *told[1][1:], "--out", "runs/another", *QUICK, "--recipe", "graddiff").code == 0
    compared = call(*told[3])
    assert compared.code == 0, compared.err
    assert (data / "runs" / "comparison" / "report.html").exists()


def test_a_suites_figures_are_in_the_results(data, home, call):
    """Model utility and forget quality are made where their sets and the retrained model are there, and else say why not."""
    common = ("forget", "--suite", "tofu/forget10", "--model", home.model, *QUICK)
    said = call(*common, "--out", "a", "--evaluation.retrained", home.model, "--evaluation.shots", "1", "--json")
    assert said.code == 0, said.err
    got = json.loads(said.out)
    before = got["set_metrics"]["before"]
    assert before["forget_quality"]["value"] == pytest.approx(1.0)
    assert 0 <= before["model_utility"]["value"] < 1
    assert 0 <= before["mia_loss"]["low"] <= before["mia_loss"]["value"] <= before["mia_loss"]["high"] <= 1
    assert {"forget_shots", "forget_paraphrased_shots", "retain_perturbed"} <= got["after"].keys()
    assert "retain" not in got["after"]
    assert got["suite"]["retain_sets"] == ["retain_perturbed"]
    assert said_in_words(call(*common, "--out", "b").out)
    bare = json.loads((data / "b" / "results.json").read_text(encoding="utf-8"))
    for name in ("forget_quality", "privleak", "mia_reference"):
        assert bare["set_metrics"]["after"][name] == {"lacks": RETRAINED}
    assert call("report", "b").code == 0
    assert f"forget quality, privleak, mia reference: {RETRAINED}" in (data / "b" / "report.html").read_text(
        encoding="utf-8"
    )
    assert said_in_words(call("evaluate", "b").out)
    assert call("compare", "b", "--out", "c").code == 0
    for name in ("table.md", "table.tex", "table.json", "report.html"):
        text = (data / "c" / name).read_text(encoding="utf-8").replace("\\", "")
        assert text.count(RETRAINED) == 3, name
        assert "contained word for word" in text, name
    said = call("report", "a", "--form", "open-unlearning")
    assert said.out.split() == ["a/TOFU_EVAL.json", "a/TOFU_SUMMARY.json"]
    summary = json.loads((data / "a" / "TOFU_SUMMARY.json").read_text())
    assert summary["forget_Q_A_Prob"] == pytest.approx(got["after"]["forget"]["probability"]["value"])
    assert summary["forget_quality"] == pytest.approx(got["set_metrics"]["after"]["forget_quality"]["value"])
    assert call("report", "a", "--form", "lm-eval").out.split() == ["a/lm_eval.json"]
    said = call("compare", "a", "a/TOFU_EVAL.json", "a/lm_eval.json", "--out", "d")
    assert said.code == 0, said.err
    ours, theirs, tasks = json.loads((data / "d" / "table.json").read_text(encoding="utf-8"))["methods"]
    assert [m["method"] for m in (ours, theirs, tasks)] == ["a", "a/TOFU_EVAL.json", "a/lm_eval.json"]
    for name in ("J_W", "J_avg", "model utility", "forget quality", "probability of forget rows", "ROUGE-L of real authors"):
        assert ours["mean"][name] == pytest.approx(theirs["mean"][name]), name
        assert name.split()[0] in said.out
    assert ours["mean"]["accuracy of real authors"] == pytest.approx(tasks["mean"]["accuracy of real authors"])
    assert (ours["mean"]["steps"], theirs["mean"]["steps"]) == (1, None)


def test_requests_of_muse_follow_one_another(tmp_path, monkeypatch, home, call):
    """Sustainability: the second begins with the model that the first left, so it starts where that one ended."""
    text, asked = [{"text": "Rain fell in Tessholm."}], [{"question": "Who won?", "answer": "Runa."}]
    rows = {"raw/retain1": text, "verbmem/forget": [{"prompt": "Runa won", "gt": "in Tessholm."}]}
    rows |= {"knowmem/forget_qa": asked, "knowmem/retain_qa": asked, "privleak/forget": text, "privleak/holdout": text}
    rows |= {f"sust/forget_{k}": [{"text": f"Runa won race {k} in Tessholm."}] for k in (1, 2)}
    for name, made in rows.items():
        path = tmp_path / "data" / "muse" / "news" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{json.dumps(row)}\n" for row in made), encoding="utf-8")
    monkeypatch.setenv("DELEATUR_DATA", str(tmp_path / "data"))
    for k, model in ((1, home.model), (2, "runs/1/model")):
        said = call(
            "forget", "--suite", f"muse/news-sust-{k}", "--model", model, "--out", f"runs/{k}", "--train.lr", "1e-2", *QUICK
        )
        assert said.code == 0, said.err
    one, two = (json.loads((tmp_path / "runs" / k / "results.json").read_text(encoding="utf-8")) for k in "12")
    for name in ("verbmem_f", "knowmem_r"):
        ended, began = one["after"][name]["probability"]["value"], two["before"][name]["probability"]["value"]
        assert ended == pytest.approx(began, rel=1e-5) and ended != one["before"][name]["probability"]["value"]


def test_a_suite_without_rows_to_forget_can_only_be_evaluated(data, home, call):
    said = call("forget", "--suite", "mmlu", "--model", home.model)
    assert said.code == 2
    assert "the suite mmlu has no forget rows; use it with deleatur evaluate --suite mmlu" in said.err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--suite", "tofo/forget10"), "'tofo/forget10' is not a suite"),
        (("--suite", "tofu/forget11"), "forget11"),
        (("--suite", "tofu/forget10", "--forget", "f.jsonl"), "not both"),
    ],
)
def test_a_wrong_suite_is_refused_in_one_line(more, words, data, home, call):
    said = call("forget", "--model", home.model, *more)
    assert said.code == 2
    assert words in said.err
    assert len(said.err.strip().splitlines()) == 1
