"""`deleatur rows`: from a name to a rows file that every command reads; nothing is overwritten, nothing half written."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar
from zlib import crc32

import pytest

from deleatur.auditing.asking import Generator
from deleatur.commands import retain_rows

NAME = "Nojul Nilmu"


@pytest.fixture
def knows_her(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that knows where one person was born and what she wrote, and guesses of everybody else."""

    def number(question: str) -> int:
        return crc32(question.encode()) % 9973

    def say(question: str, nth: int) -> str:
        sure = NAME in question
        if "born" in question or "come from" in question or "birthplace" in question:
            return f"It was in {'Teburg' if sure else f'Town{number(question)}x{nth}'}, by the sea."
        if "book" in question or "title" in question or "Name a work" in question:
            return f"It is called {'Painted Meadow' if sure else f'Book{number(question)}x{nth}'}, of course."
        return f"That is number {number(question)}x{nth}."

    monkeypatch.setattr(Generator, "answer", lambda self, questions: [say(q.example.question, 0) for q in questions])
    monkeypatch.setattr(
        Generator,
        "draw",
        lambda self, questions, samples, seed: [[say(q.example.question, k + 1) for k in range(samples)] for q in questions],
    )


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_what_the_model_knows_becomes_rows_that_forget_reads(home, call, knows_her, tmp_path, monkeypatch):
    said = call("rows", "--model", home.model, "--subject", NAME)
    assert said.code == 0, said.err
    rows = rows_of(tmp_path / "rows.jsonl")
    assert {row["answer"] for row in rows} == {"It was in Teburg, by the sea.", "It is called Painted Meadow, of course."}
    marked = {row["answer"][a:b] for row in rows for a, b in row["spans"]}
    assert marked == {"Teburg", "Painted Meadow"}
    assert all(len(row["paraphrases"]) == 2 and NAME in row["question"] for row in rows)
    assert f"{len(rows)} of 18 facts are rows now" in said.out
    assert (tmp_path / "rows.jsonl").stat().st_mode & 0o077 == 0

    monkeypatch.setattr(retain_rows, "incoherent", lambda record: 0.0)
    monkeypatch.setattr(retain_rows, "full_sentences", lambda answer, cut: answer)
    shown = call("forget", "--model", home.model, "--forget", "rows.jsonl", "--evaluation.new-tokens", 8, "--show", 1)
    assert shown.code == 0, shown.err
    assert f"forget: {len(rows)} rows" in shown.out

    before = (tmp_path / "rows.jsonl").read_bytes()
    again = call("rows", "--model", home.model, "--subject", NAME)
    assert again.code == 2
    assert "rows.jsonl exists; give --out a new file" in again.err
    assert (tmp_path / "rows.jsonl").read_bytes() == before


def test_the_review_page_of_rows_is_shaded_by_a_model_of_which_there_is_no_run(home, call, tmp_path, monkeypatch):
    shown: list = []
    monkeypatch.setattr("deleatur.commands.review.serve", lambda marking, port, begun: shown.append(marking))
    rows = rows_of(home.file("forget"))
    assert call("review", home.file("forget"), "--model", home.model, "--retain", home.file("retain")).code == 0
    (marking,) = shown
    assert marking.importance.keys() == {row["id"] for row in rows}
    assert 'title="importance' in marking.page("nonce")
    assert all({0.0 <= t["importance"] <= 1.0 for t in tokens} == {True} for tokens in marking.importance.values())
    assert list(tmp_path.iterdir()) == []


def test_no_rows_are_written_for_a_subject_that_the_model_does_not_know(home, call, knows_her, tmp_path):
    said = call("rows", "--model", home.model, "--subject", "Hisre Mebin")
    assert said.code == 0, said.err
    assert "0 of 18 facts are rows now" in said.out
    assert "Nothing was written" in said.out
    assert list(tmp_path.iterdir()) == []


def test_the_users_own_texts_and_questions_are_used_too(home, call, knows_her, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/life.txt").write_text(f"The records say that {NAME} was born in Teburg. She was happy.", "utf-8")
    (tmp_path / "fragen.txt").write_text("Which book is by {name}?\n", "utf-8")
    said = call(
        *(
            "rows",
            "--model",
            home.model,
            "--subject",
            NAME,
            "--texts",
            "texts",
            "--questions",
            "fragen.txt",
            "--out",
            "a/r.jsonl",
        )
    )
    assert said.code == 0, said.err
    assert {row["id"]: (row["question"], row["answer"]) for row in rows_of(tmp_path / "a/r.jsonl")} == {
        "asked-1": (f"Which book is by {NAME}?", "It is called Painted Meadow, of course."),
        "text-1": (f"The records say that {NAME} was born …", "in Teburg."),
    }


class Writer(BaseHTTPRequestHandler):
    """An OpenAI-compatible endpoint that writes two questions, one of them about nobody; keeps what it was sent."""

    received: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.answer({"data": [{"id": "writer"}]})

    def do_POST(self) -> None:
        self.received.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.answer({"choices": [{"message": {"content": f"1. In which town was {NAME} born?\n2. What is tea?"}}]})

    def answer(self, body: object) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *args: object) -> None:
        pass


def test_an_endpoint_writes_further_questions_and_gets_the_name_and_the_texts(home, call, knows_her, tmp_path):
    (tmp_path / "fragen.txt").write_text("Who likes {name}?\n", "utf-8")
    (tmp_path / "life.txt").write_text(f"In spring {NAME} sat by the sea in Teburg.", "utf-8")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Writer)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    asked = ("rows", "--model", home.model, "--subject", NAME, "--questions", "fragen.txt", "--texts", "life.txt")
    said = call(*asked, "--judge.url", url)
    server.shutdown()
    assert said.code == 0, said.err
    assert [row["question"] for row in rows_of(tmp_path / "rows.jsonl")] == [f"In which town was {NAME} born?"]
    (sent,) = Writer.received
    assert NAME in sent
    assert "sat by the sea" in sent


def test_an_untrained_real_model_knows_no_subject_and_reports_that_deterministically(home, call, tmp_path):
    asked = ("rows", "--model", home.model, "--subject", NAME, "--new-tokens", 6, "--samples", 1, "--strangers", 2)
    first, then = call(*asked, "--out", "a.jsonl"), call(*asked, "--out", "b.jsonl")
    assert (first.code, then.code) == (0, 0), first.err
    assert first.out.replace("a.jsonl", "b.jsonl") == then.out
    one, other = (p.read_text("utf-8") if p.exists() else "" for p in (tmp_path / "a.jsonl", tmp_path / "b.jsonl"))
    assert one == other


def test_an_interrupt_leaves_no_half_a_file(home, call, monkeypatch, tmp_path):
    def interrupted(self, questions, samples, seed):
        raise KeyboardInterrupt

    monkeypatch.setattr(Generator, "draw", interrupted)
    assert call("rows", "--model", home.model, "--subject", NAME, "--new-tokens", 2).code == 130
    assert list(tmp_path.iterdir()) == []


def test_an_ending_attached_to_the_name_does_not_make_strangers_of_the_subject(home, call, knows_her, tmp_path):
    (tmp_path / "q.txt").write_text("In which town was {name}ban born?\n", "utf-8")
    said = call("rows", "--model", home.model, "--subject", NAME, "--questions", "q.txt")
    assert "1 of 1 facts are rows now" in said.out, said.out


def test_what_cannot_be_written_or_compared_is_refused_before_the_model_is_asked(home, refused, tmp_path):
    asked = ("rows", "--model", "no-such-model", "--subject", NAME)
    (tmp_path / "file").touch()
    (tmp_path / "q.txt").write_text("Where was {name} born?\n", "utf-8")
    assert "file is not a folder that can be written to" in refused(*asked, "--out", "file/a/rows.jsonl")
    assert "1 of 1 facts have one wording" in refused(*asked, "--questions", "q.txt", "--samples", 0)


def test_unreadable_or_missing_questions_are_refused(home, refused):
    asked = ("rows", "--model", home.model, "--subject", NAME)
    assert "cannot be read" in refused(*asked, "--questions", "nowhere.txt")
    assert "cannot be read" in refused(*asked, "--texts", "nowhere.txt")
    assert "subject" in refused("rows", "--model", home.model)
    assert "threshold is 2" in refused(*asked, "--threshold", 2)
