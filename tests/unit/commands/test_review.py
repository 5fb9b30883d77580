"""The review page over HTTP: who gets it, what it shows, and what is saved, read back by the reader of rows."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from deleatur.commands.request_options import Review
from deleatur.commands.review import Marking, line_of, marking_of, serve
from deleatur.data.rows import read_rows
from deleatur.errors import ConfigError, DataError
from deleatur.report.review_page import joined, pieces_of, words_of
from deleatur.settings import Data

ROWS = [
    {
        "id": "born",
        "question": "Where was <b>Nojul</b> Nilmu born?",
        "answer": "  Nojul Nilmu was born in Teburg.",
        "paraphrases": ["Which town does she come from?"],
        "spans": [{"start": 26, "end": 32}],
    },
    {"id": "novel", "question": "Which novel?", "answer": "The Silent Lantern, a novel."},
]
TOKENS = [
    {"start": 22, "end": 30, "importance": 0.98, "gold": None},
    {"start": 0, "end": 5, "importance": 0.2, "gold": None},
]


class Browser:
    """What speaks to the page."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        assert parts.hostname == "127.0.0.1" and parts.port is not None
        self.port, self.path = parts.port, parts.path

    def ask(
        self, method: str = "GET", path: str | None = None, body: object = None, **headers: str
    ) -> tuple[int, str, dict]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        sent = None if body is None else json.dumps(body)
        more = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(method, self.path if path is None else path, sent, more | headers)
        reply = connection.getresponse()
        return reply.status, reply.read().decode(), dict(reply.getheaders())


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "forget.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    line = {"question": ROWS[0]["question"], "answer": "Nojul Nilmu was born in Teburg.", "tokens": TOKENS}
    (tmp_path / "importance.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def marking(source) -> Marking:
    return marking_of(Review(source="./forget.jsonl", importance="importance.jsonl"))


@pytest.fixture
def browser(marking) -> Iterator[Browser]:
    heard: list[str] = []
    there = threading.Event()
    thread = threading.Thread(target=serve, args=(marking, 0, lambda address: (heard.append(address), there.set())))
    thread.start()
    assert there.wait(10)
    browser = Browser(heard[0])
    yield browser
    thread.join(0.2)
    if thread.is_alive():
        browser.ask("POST", f"{browser.path}end", [{"go": [], "stay": []}] * 2)
    thread.join(10)
    assert not thread.is_alive()


def test_the_page_has_every_word_as_a_button_shaded_and_marked_and_nothing_from_elsewhere(browser):
    status, page, headers = browser.ask()
    assert status == 200
    assert page.count('class="word ') == 6 + 5
    assert 'class="word h10" tabindex="-1" data-start="24" data-end="30" data-mark="go"' in page
    assert 'aria-pressed="true" title="importance 0.98">Teburg</button>.' in page
    assert "Where was &lt;b&gt;Nojul&lt;/b&gt; Nilmu born?" in page
    assert "http" not in page.replace("https://", "http://").replace("http-equiv", "")
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'nonce-")
    assert "frame-ancestors 'none'" in policy
    assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/wrong/", "/wrong/save", "//", "/%C3%A9/"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_requests_without_the_token_are_refused(browser, marking, path, method):
    body = [{"go": [], "stay": []}] * 2 if method == "POST" else None
    status, text, _ = browser.ask(method, path, body)
    assert status == 403
    assert "Nojul" not in text
    assert not marking.out.exists()


def test_another_host_or_origin_is_refused_with_the_right_token(browser, marking):
    """A name that somebody points at this machine (DNS rebinding), and a page of somebody else that posts here."""
    for name in ("evil.example", f"evil.example:{browser.port}", "127.0.0.1", f"127.0.0.1:{browser.port + 1}"):
        assert browser.ask(Host=name)[0] == 403, name
    body = [{"go": [], "stay": []}] * 2
    assert browser.ask("POST", f"{browser.path}save", body, Origin="http://evil.example")[0] == 403
    assert not marking.out.exists()
    assert browser.ask(Host=f"localhost:{browser.port}")[0] == 200
    assert browser.ask("POST", f"{browser.path}save", body, Origin=f"http://127.0.0.1:{browser.port}")[0] == 200


def test_what_is_saved_has_the_spans_and_is_read_as_rows(browser, source, marking):
    before = source.read_bytes()
    sent = [{"go": [[24, 30], [0, 5], [6, 11]], "stay": [[16, 20]]}, {"go": [[0, 3], [4, 10], [11, 18]], "stay": []}]
    status, said, _ = browser.ask("POST", f"{browser.path}save", sent)
    assert (status, said) == (200, "Saved: 2 of 2 rows have marks, in forget-reviewed.jsonl.")
    assert source.read_bytes() == before
    assert marking.out.stat().st_mode & 0o077 == 0
    born, novel = read_rows(f"./{marking.out}", settings=Data())
    assert [(born.answer[s.start : s.end], s.keep) for s in born.spans] == [
        ("Nojul Nilmu", False),
        ("born", True),
        ("Teburg", False),
    ]
    assert born.paraphrases == ("Which town does she come from?",)
    assert [novel.answer[s.start : s.end] for s in novel.spans] == ["The Silent Lantern"]


@pytest.mark.parametrize(
    "sent",
    [
        [],
        [{"go": [], "stay": []}],
        [{"go": [[0, 4]], "stay": []}, {"go": [], "stay": []}],  # no word
        [{"go": [[0, 5]], "stay": [[0, 5]]}, {"go": [], "stay": []}],
        [{"go": ["x"], "stay": []}, {"go": [], "stay": []}],
        [{"go": [[[0], 5]], "stay": []}, {"go": [], "stay": []}],
        {"go": 1},
        7,
    ],
)
def test_marks_that_are_none_of_the_rows_are_refused_and_nothing_is_written(browser, marking, sent):
    status, said, _ = browser.ask("POST", f"{browser.path}save", sent)
    assert (status, said[:10]) == (400, "Not saved:")
    assert not marking.out.exists()


def test_spans_that_were_there_stay_as_they_are_in_a_row_that_nobody_touched(tmp_path, monkeypatch):
    """Also those that end within a word, hold a mark of punctuation, or touch no word, which the page cannot show."""
    monkeypatch.chdir(tmp_path)
    spans = [[0, 3], {"start": 3, "end": 6, "keep": True}, [10, 12], [16, 19], [23, 27]]
    row = {"id": "a", "question": "?", "answer": "Teburg is $5 of C++ or !#%&.", "spans": spans}
    Path("forget.jsonl").write_text(json.dumps(row), encoding="utf-8")
    marking = marking_of(Review(source="forget.jsonl"))
    marking.save([{"go": [[0, 6], [11, 12], [16, 17]], "stay": []}])  # as the page shows them
    assert read_rows("forget-reviewed.jsonl", settings=Data())[0].spans == marking.rows[0].spans
    marking.save([{"go": [], "stay": [[7, 9]]}])
    (changed,) = read_rows("forget-reviewed.jsonl", settings=Data())
    assert [(changed.answer[s.start : s.end], s.keep) for s in changed.spans] == [("is", True), ("!#%&", False)]


def test_a_browser_that_hangs_up_and_a_length_that_is_none_leave_no_traceback(browser, capfd):
    """A connection that is reset in the middle of a request; ² is a digit to str.isdigit."""
    for sent, answer in ((b"GET / HT", b""), (b"POST %ssave HTTP/1.0\r\n%s\r\n\r\n", b" 413 ")):
        head = f"Host: 127.0.0.1:{browser.port}\r\nContent-Type: application/json\r\nContent-Length: \xb2".encode("latin-1")
        with socket.create_connection(("127.0.0.1", browser.port), timeout=10) as connection:
            connection.sendall(sent % (browser.path.encode(), head) if answer else sent)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets
            assert answer in (connection.recv(100) if answer else b"")
    assert browser.ask()[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_what_was_saved_is_on_the_page_when_it_is_opened_again(browser):
    sent = [{"go": [[0, 5]], "stay": []}, {"go": [], "stay": []}]
    assert browser.ask("POST", f"{browser.path}save", sent)[0] == 200
    page = browser.ask()[1]
    assert (page.count('data-mark="go"'), 'data-start="0" data-end="5" data-mark="go"' in page) == (1, True)


def test_a_file_that_others_wrote_meanwhile_is_not_written_over(browser, marking):
    marks = [{"go": [], "stay": []}] * 2
    for _ in range(2):
        assert browser.ask("POST", f"{browser.path}save", marks)[0] == 200
    marking.out.write_text("of somebody else", encoding="utf-8")
    status, said, _ = browser.ask("POST", f"{browser.path}save", marks)
    assert (status, "was written by another program meanwhile; move it away, then save again" in said) == (400, True)
    assert marking.out.read_text(encoding="utf-8") == "of somebody else"
    marking.out.unlink()
    assert browser.ask("POST", f"{browser.path}save", marks)[0] == 200


def test_rows_that_are_not_those_of_the_run_are_refused(source, tmp_path):
    (tmp_path / "run.yaml").write_text("model: m\nforget: ./forget.jsonl\nretain: ./forget.jsonl\n", encoding="utf-8")
    (tmp_path / "data.json").write_text(json.dumps({"forget": "0" * 64, "retain": "0" * 64}), encoding="utf-8")
    with pytest.raises(DataError, match=r"the rows in \./forget\.jsonl are not those of \.; go to where the run was made"):
        marking_of(Review(source=".", out="marks.jsonl"))


def test_save_and_end_ends_the_server(browser, marking):
    assert browser.ask("POST", f"{browser.path}end", [{"go": [], "stay": []}] * 2)[0] == 200
    assert marking.out.exists()


def test_a_file_is_written_over_only_when_that_is_asked_for(source, tmp_path):
    (tmp_path / "forget-reviewed.jsonl").touch()
    with pytest.raises(ConfigError, match=r"forget-reviewed\.jsonl exists; give --out another file, or --replace"):
        marking_of(Review(source="./forget.jsonl"))
    with pytest.raises(ConfigError, match="exists"):
        marking_of(Review(source="./forget.jsonl", out="forget.jsonl"))
    assert marking_of(Review(source="./forget.jsonl", out="forget.jsonl", replace=True)).out == Path("forget.jsonl")
    ignoring = Review(source="./forget.jsonl", out="forget.jsonl", replace=True, data=Data(ignore=("note",)))
    with pytest.raises(ConfigError, match=r"would lose the columns of --data\.ignore"):
        marking_of(ignoring)


def test_importance_is_of_a_model_of_a_run_or_of_a_file_but_not_of_two(source, tmp_path):
    (tmp_path / "run.yaml").write_text("model: m\nforget: ./forget.jsonl\nretain: ./forget.jsonl\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="is a run, whose importance is shown; leave --model out"):
        marking_of(Review(source=".", model="m"))
    with pytest.raises(ConfigError, match="left out where --importance is given"):
        Review(source="forget.jsonl", model="m", importance="importance.jsonl")
    with pytest.raises(ConfigError, match="given with --model"):
        Review(source="forget.jsonl", retain="retain.jsonl")


def test_a_row_is_written_in_the_form_that_it_needs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
    forms = [
        [{"text": "A plain text.", "spans": [[2, 7]]}],
        [{"messages": [*turns, {"role": "assistant", "content": "Vetril Honbor."}], "spans": [[0, 6]]}],
        [{"instruction": "Say it", "input": "in two words", "output": "Vetril Honbor."}],
    ]
    for number, rows in enumerate(forms):
        (tmp_path / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        examples = read_rows(f"./{number}.jsonl", settings=Data())
        (tmp_path / "back.jsonl").write_text("".join(json.dumps(line_of(e)) + "\n" for e in examples), encoding="utf-8")
        assert read_rows("./back.jsonl", settings=Data()) == examples


def test_words_are_split_as_people_do():
    answer = "O'Neil's well-known book, 12 March 1950."
    assert [answer[a:b] for a, b in words_of(answer)] == ["O'Neil's", "well-known", "book", "12", "March", "1950"]
    assert words_of("東京 is") == [(0, 1), (1, 2), (3, 5)]
    for answer in ("नरेन्द्र मोदी", "Cafe\u0301 Zoe\u0308", "وُلِدَ في بغداد", "می\u200cخواهم", "👩\u200d👧🏽 🇩🇪", "❤\ufe0f ok"):
        assert [answer[a:b] for a, b in words_of(answer)] == answer.split(), "letters keep their accents and vowel signs"
    assert ["กรุงเทพ-ไทย"[a:b] for a, b in words_of("กรุงเทพ-ไทย")] == ["ก", "รุ", "ง", "เ", "ท", "พ", "ไ", "ท", "ย"]
    assert "".join(piece["text"] for piece in pieces_of(answer, (), ())) == answer
    assert pieces_of("", (), ()) == []
    assert joined("one two, three four", [(0, 3), (4, 7), (9, 14)]) == [(0, 14)]
    assert joined("one two three", [(0, 3), (8, 13)]) == [(0, 3), (8, 13)]
