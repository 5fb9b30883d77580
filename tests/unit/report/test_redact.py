"""A redacted page has every number of the full one and none of its texts."""

import json
import re

import pytest

from deleatur.report import write_report
from deleatur.report.redact import BLOCK, redact
from deleatur.run_folder.schema import read_folder


def texts(run):
    """Every word of four letters or more that a row, an answer or an id holds, but for those of the page itself."""
    rows = [json.loads(line) for line in (run / "importance.jsonl").read_text(encoding="utf-8").splitlines()]
    for side in ("before", "after"):
        rows += [json.loads(line) for line in (run / "records" / f"{side}.jsonl").read_text(encoding="utf-8").splitlines()]
    said = (row.get(key) or "" for row in rows for key in ("question", "answer", "before", "after", "generated"))
    return {text for text in said if text}


@pytest.fixture
def pages(folder):
    return tuple(write_report(folder, redacted=r).read_text(encoding="utf-8") for r in (False, True))


def numbers(page):
    return re.findall(r"\d+\.\d+", page.partition('<section id="evidence">')[2].partition('<section id="retain">')[0])


def test_the_redacted_page_is_next_to_the_full_one(folder):
    assert write_report(folder).name == "report.html"
    assert write_report(folder, redacted=True).name == "report-redacted.html"
    assert write_report(folder).read_text(encoding="utf-8") != write_report(folder, redacted=True).read_text(
        encoding="utf-8"
    )


def test_no_row_and_no_answer_is_on_the_redacted_page(folder, pages):
    full, redacted = pages
    assert "Velma Dorrin" in full
    for name in ("Velma", "Dorrin", "Kelvarn", "Teressholm", "Salted Compass", "Vask", "الدلمون", "Welcome", "Person "):
        assert name not in redacted
    assert [text for text in texts(folder) if text in redacted] == []


def test_numbers_hashes_and_the_heat_of_every_token_stay(folder, pages):
    full, redacted = pages
    assert numbers(redacted) == numbers(full)
    hashes = set(re.findall(r"\b[0-9a-f]{64}\b", full))
    assert len(hashes) == 3
    assert hashes <= set(re.findall(r"\b[0-9a-f]{64}\b", redacted))
    scores = r'title="importance ([\d.]+)(, marked)?"'
    assert re.findall(scores, redacted) == re.findall(scores, full)
    assert "retain rows are answered with the same words as before" in redacted


def test_places_and_sources_of_rows_are_withheld(make, tmp_path):
    """The title is the run folder's name, by default the name of the forget file, which may be a person's."""
    run = make(tmp_path / "velma-dorrin")
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    results["run"] |= {"forget": "/home/me/velma-dorrin.jsonl", "out": "runs/velma-dorrin", "suite": None}
    results["run"] |= {"subject": ["Velma Dorrin"]}
    results["run"]["data"] |= {"system_prompt": "You know Velma Dorrin."}
    results["model"]["name"] = "/home/velma-dorrin/models/tiny"
    for part in results["data"].values():
        part["source"] = "/home/me/velma-dorrin.jsonl"
    (run / "results.json").write_text(json.dumps(results), encoding="utf-8")
    page = write_report(run, redacted=True).read_text(encoding="utf-8")
    assert "velma-dorrin" not in page
    assert "Velma" not in page
    assert "/home" not in page
    assert "withheld" in page
    assert f"<title>{results['data']['forget']['sha256'][:12]}" in page


def test_a_block_of_any_length_represents_a_token(folder):
    """Words "a" and "unbelievable" and the end of turn: two blocks, the offsets theirs, the end after them."""
    shown = redact(read_folder(folder))
    for row, was in zip(shown.importance, read_folder(folder).importance, strict=True):
        words = [t for t in was["tokens"] if t["start"] < t["end"]]
        assert row["answer"].split(" ") == [BLOCK] * len(words)
        assert [t["importance"] for t in row["tokens"]] == [t["importance"] for t in was["tokens"]]
        assert all(row["answer"][t["start"] : t["end"]] in (BLOCK, "") for t in row["tokens"])
        assert row["tokens"][-1]["start"] == len(row["answer"])
