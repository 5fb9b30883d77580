"""Rows that cannot be used: one line that says what and where, and nothing touched."""

from __future__ import annotations

import json
import re

import pytest

GOOD = {"question": "Who?", "answer": "Nobody."}


def text_of(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


BAD = {  # name → what the file holds, what the line says
    "empty": (b"", "there are no rows"),
    "blank": (b"\n\n", "there are no rows"),
    "broken JSON": (text_of(GOOD, {**GOOD, "question": "Where?"}) + b'{"question": \n', "line 3: broken JSON"),
    "no object": (text_of([1]), r"line 1: \[1\] is not a row"),
    "unknown columns": (text_of({**GOOD, "colour": 1, "size": 2}), "'colour', 'size'.*--data.ignore 'colour' 'size'"),
    "misspelt column": (text_of({"question": "Who?", "anwser": "Nobody."}), "is 'anwser' meant as answer"),
    "no columns": (text_of({}), r"\(none\) fit no form"),
    "empty answer": (text_of(GOOD, {**GOOD, "answer": " "}), "line 2: answer is empty"),
    "number as answer": (text_of({**GOOD, "answer": 5}), "answer is 5, but must be text"),
    "span outside": (text_of({**GOOD, "spans": [[3, 99]]}), r"the span \[3, 99\] is not in the answer of 7 characters"),
    "span backwards": (text_of({**GOOD, "spans": [[3, 1]]}), r"the span \[3, 1\]"),
    "id twice": (text_of({**GOOD, "id": "a"}, {"question": "Who else?", "answer": "No.", "id": "a"}), "'a' is taken by"),
    "cut in a character": (text_of(GOOD) + '{"question": "é'.encode()[:-1], r"line 2: byte 15 .*is not UTF-8"),
    "prompt too long": (text_of({**GOOD, "question": "word " * 2000}), r"data\.max_length \(1024\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_rows_that_cannot_be_used_are_refused_with_the_reason(name, home, tmp_path, refused):
    content, reason = BAD[name]
    (tmp_path / "rows.jsonl").write_bytes(content)
    line = refused(*home.forget("run", "--forget", tmp_path / "rows.jsonl"))
    assert re.search(reason, line), line
    assert "rows" in line


@pytest.mark.parametrize("side", ["--forget", "--retain", "--holdout"])
def test_a_missing_file_is_named(side, home, refused):
    assert "nowhere.jsonl" in refused(*home.forget("run", side, "nowhere.jsonl"))


def test_an_unknown_kind_of_file_is_refused(home, tmp_path, refused):
    (tmp_path / "rows.txt").write_bytes(text_of(GOOD))
    assert ".jsonl" in refused(*home.forget("run", "--forget", "rows.txt"))


def test_forget_rows_that_are_retain_rows_too_are_counted_and_listed(home, tmp_path, refused):
    shared = home.file("retain").read_text(encoding="utf-8").splitlines()[:4]
    both = [json.loads(line) for line in shared]
    (tmp_path / "rows.jsonl").write_bytes(text_of({**GOOD, "answer": "Somebody."}, *both))
    line = refused(*home.forget("run", "--forget", "rows.jsonl"))
    assert "4 of 5 forget rows" in line
    assert all(row["id"] in line and row["question"] not in line for row in both[:3])


def test_evaluate_and_show_refuse_the_same_rows(home, tmp_path, refused):
    (tmp_path / "rows.jsonl").write_bytes(text_of({**GOOD, "spans": [[3, 99]]}))
    told = home.rows[2:]
    assert "span" in refused("evaluate", "--model", home.model, "--forget", "rows.jsonl", *told)
    assert "span" in refused(*home.forget("run", "--forget", "rows.jsonl", "--show", "1"))


def test_score_refuses_rows_too(run_folder, refused):
    assert "nowhere.jsonl" in refused("score", "run", "--rows", "nowhere.jsonl")


def test_a_prompt_of_a_megabyte_is_refused(home, tmp_path, refused):
    (tmp_path / "rows.jsonl").write_bytes(text_of({**GOOD, "question": "word " * 200_000}))
    assert "leaves none of data.max_length" in refused(*home.forget("run", "--forget", "rows.jsonl"))


def test_an_answer_of_a_hundred_kilobytes_is_cut_and_counted(home, tmp_path, call):
    (tmp_path / "rows.jsonl").write_bytes(text_of({**GOOD, "answer": "x" * 100_000}))
    said = call(*home.forget("run", "--forget", "rows.jsonl", "--data.max-length", "64"))
    assert said.code == 0, said.err
    assert "Cut at data.max_length: 1 of forget rows" in said.out
    assert json.loads((tmp_path / "run" / "results.json").read_text())["data"]["forget"]["cut"] == 1
