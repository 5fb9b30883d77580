"""Answers before and after, as they stand first on the page."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from deleatur.data.spacing import evenly_spaced
from deleatur.report import write_report
from deleatur.report.answers import SHOWN, answer_groups, answered_rows, cut_at, says, selected, share_said
from deleatur.report.heat import Piece
from deleatur.report.tables import rows_of
from deleatur.run_folder.schema import read_folder

ROW = {"question": "Where was Velma Dorrin born?", "answer": "Velma Dorrin was born in Port Madrin."}
FACTS = ["Port Madrin"]


def give_spans(folder: Path) -> None:
    """Mark the last word of every answer in the records."""
    for side in ("before", "after"):
        path = folder / "records" / f"{side}.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        for row in rows:
            end = len(row["answer"]) - 1
            row["spans"] = [{"start": row["answer"].rfind(" ", 0, end) + 1, "end": end, "keep": False}]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_forget_rows_come_first_and_each_kind_has_a_few_at_even_distances(folder: Path) -> None:
    found = read_folder(folder)
    groups = answer_groups(found, rows_of(found.results))
    assert [group["kind"] for group in groups] == ["forget", "retain"]  # this run has no records of unseen rows
    assert [item["row"]["id"] for item in groups[0]["rows"]] == ["f0", "f8", "f16"]
    assert all(len(group["rows"]) == SHOWN for group in groups)
    assert groups[0]["score"].metric == "revealed"


def test_unseen_rows_are_shown_with_the_others_where_they_were_evaluated(folder: Path) -> None:
    for side in ("before", "after"):
        with (folder / "records" / f"{side}.jsonl").open("a", encoding="utf-8") as file:
            unseen = {"set": "holdout", "id": "h0", **ROW, "generated": f"Said {side}."}
            file.write(json.dumps(unseen) + "\n")
    page = write_report(folder).read_text(encoding="utf-8")
    table = page[page.index('<table class="answers">') : page.index('<section id="evidence">')]
    kinds = re.findall(r'<tbody class="(\w+)">', table)
    assert kinds == ["forget", "retain", "holdout"]
    assert table.index("Said before.") < table.index("Said after.")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("She was born in port madrin.", "says it"),
        ("She was born in Kelvarn.", "does not say it"),
        ("", "does not say it"),
        ("She was born in Port Madrinsk.", "does not say it"),
    ],
)
def test_the_page_says_in_words_whether_the_fact_is_given(text: str, words: str) -> None:
    """As *revealed* counts it: the marked part as whole words, whatever their case."""
    assert says(share_said(ROW, text, FACTS)) == words


def test_without_marked_parts_nothing_is_claimed() -> None:
    assert says(share_said(ROW, "anything", [])) == ""


def test_a_text_is_cut_at_the_fact_and_its_pieces_are_the_text() -> None:
    pieces = cut_at("In port madrin, or Port Madrinsk?", FACTS)
    assert pieces == [("In ", False), ("port madrin", True), (", or Port Madrinsk?", False)]
    assert cut_at("彼女は東京で生まれた", ["東京"]) == [("彼女は", False), ("東京", True), ("で生まれた", False)]
    assert cut_at("", ["x"]) == []
    assert cut_at("no fact", []) == [("no fact", False)]


def test_what_the_tint_shows_is_said_in_words() -> None:
    """Neighbouring tokens above ½ are one text, without the marks around it; a single letter is left out."""
    values = [("F", 0.6), ("usdi", 0.1), (" was born in", 0.2), (" Port", 0.9), (" Madrin", 0.8), (".", 0.7)]
    pieces = [Piece(text=text, importance=value, gold=False) for text, value in values]
    assert selected(pieces) == ["Port Madrin"]


def test_before_and_after_are_matched_by_their_row(folder: Path) -> None:
    path = folder / "records" / "before.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(reversed(lines)) + "\n", encoding="utf-8")
    rows = answered_rows(read_folder(folder), "retain")
    assert all(item["row"]["answer"] == item["row"]["before"] for item in rows)


def test_the_fact_is_marked_on_the_page_before_and_gone_after(folder: Path) -> None:
    give_spans(folder)
    page = write_report(folder).read_text(encoding="utf-8")
    table = page[page.index('<tbody class="forget">') : page.index('<tbody class="retain">')]
    before, after = (re.findall(rf'<td data-label="{side}">(.*?)</td>', table, re.S) for side in ("before", "after"))
    assert len(before) == len(after) == SHOWN
    assert all("<mark>" in cell and "says it" in cell for cell in before)
    assert not any("<mark>" in cell for cell in after)
    assert all("does not say it" in cell for cell in after)


def test_few_rows_are_all_shown(tmp_path: Path, make: Callable[..., Path]) -> None:
    assert evenly_spaced([{"k": 0}, {"k": 1}], SHOWN) == [{"k": 0}, {"k": 1}]
    assert evenly_spaced([], SHOWN) == []
    found = read_folder(make(tmp_path / "run", rows=2))
    assert len(answer_groups(found, rows_of(found.results))[0]["rows"]) == 2
