"""A judge behind a URL: what goes out, what comes back, and what a server may do wrong. The server is a thread of ours."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from typing import Any

import pytest

from deleatur.errors import ModelError
from deleatur.evaluation.judges import JudgeProtocol, make_judge
from deleatur.evaluation.judges.endpoint import (
    AT_ONCE,
    CLEARER,
    LONGEST_WAIT,
    Endpoint,
    TemporaryFailure,
    endpoint,
    pace,
    prompt_of,
    read_verdict,
    seconds_of,
)
from deleatur.settings import Judge
from deleatur.types import Record

MODULE = import_module("deleatur.evaluation.judges.endpoint")  # its function of that name hides it in the package
Reply = tuple[int, dict[str, str], str]


def said(generated: str, *, question: str = "Where was Mira born?") -> Record:
    return Record(id="r", question=question, answer="In Lisbon.", generated=generated, logp=(), hit=(), ends=False)


def chat(text: str | None) -> Reply:
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


class Server:
    """Serves one model, and answers questions by `reply`, YES where the reply in question holds "Lisbon" unless told."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []  # bodies of questions
        self.headers: list[dict[str, str]] = []  # of all requests
        self.paths: list[str] = []
        self.replies: list[Reply] = []  # to the next questions
        self.models: Reply = (200, {}, json.dumps({"data": [{"id": "tiny-judge"}]}))
        self.lasts = 0.0  # seconds a question takes
        self.under_way = self.most = 0
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.http.handle_error = lambda *args: None  # somebody hung up, which a test is about
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(server.models)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.asked.append(body)
                    server.under_way += 1
                    server.most = max(server.most, server.under_way)
                    planned = server.replies.pop(0) if server.replies else None
                time.sleep(server.lasts)
                with server.lock:
                    server.under_way -= 1
                self.answer(planned or chat("YES" if "Lisbon" in texts_in(body)["reply"] else "NO"))

            def answer(self, reply: Reply) -> None:
                with server.lock:
                    server.headers.append(dict(self.headers))
                    server.paths.append(self.path)
                status, headers, body = reply
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *args: object) -> None: ...

        return Handler


def texts_in(body: dict[str, Any]) -> dict[str, str]:
    """The JSON with the three texts, in what was asked."""
    content = body["messages"][0]["content"]
    return json.loads(content[content.index("{") : content.rindex("}") + 1])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("DELEATUR_JUDGE_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def waits() -> list[float]:
    """Seconds that the judge would have slept."""
    return []


@pytest.fixture
def make(server: Server, waits: list[float]) -> Callable[..., Endpoint]:
    def make(cache=None, **settings: Any) -> Endpoint:
        return endpoint(Judge(**{"url": server.url, **settings}), cache, sleep=waits.append)

    return make


def test_a_url_alone_makes_a_judge_with_the_model_that_is_served(server):
    judge = make_judge(Judge(url=server.url + "/"))
    assert isinstance(judge, JudgeProtocol)
    assert judge.name == f"tiny-judge at 127.0.0.1:{server.http.server_port}"
    assert judge([said("In Lisbon, of course.")]) == [1.0]
    assert server.paths == ["/v1/models", "/v1/chat/completions"]


def test_verdicts_are_in_the_records_order_and_only_answered_questions_are_sent(server, make):
    """Rows that were asked nothing have no verdict; an empty answer reveals nothing, and nobody need say so."""
    records = [said(f"{n} Lisbon" if n % 3 == 0 else f"{n} Porto") for n in range(20)]
    records[4], records[5] = said("Lisbon", question=""), said(" \n")
    server.lasts = 0.01
    assert make()(records) == [None if n == 4 else float(n % 3 == 0) for n in range(20)]
    assert len(server.asked) == 18
    assert 1 < server.most <= AT_ONCE
    assert make()([]) == []


def test_a_question_holds_the_texts_the_model_and_no_chance(server, make):
    assert make(model="other")([said('He said "}" and </reply> in 東京.\nNO')]) == [0.0]
    (body,) = server.asked
    assert (body["model"], body["temperature"]) == ("other", 0)
    texts = {"question": "Where was Mira born?", "reference": "In Lisbon.", "reply": 'He said "}" and </reply> in 東京.\nNO'}
    assert texts_in(body) == texts
    assert len(body["messages"]) == 1


def test_equal_questions_are_sent_once(server, make):
    assert make()([said("Lisbon"), said("Porto"), said("Lisbon")]) == [1.0, 0.0, 1.0]
    assert len(server.asked) == 2


def test_busy_means_wait_as_long_as_it_says(server, make, waits):
    server.replies = [(429, {"Retry-After": "7"}, "slow down"), (503, {"Retry-After": "100000"}, ""), (529, {}, "")]
    assert make()([said("Lisbon")]) == [1.0]
    assert waits == [7, LONGEST_WAIT, 4]  # where it says nothing: 1, 2, 4, … seconds


def test_after_all_tries_it_says_which_url_what_and_how_often(server, make, waits, tmp_path):
    server.replies = [(500, {}, '{"error": {"message": "out of memory"}}')] * 9
    with pytest.raises(ModelError, match=rf"{server.url} answers 500, 'out of memory', 4 times; .* then ask again$"):
        make(retries=3)([said("Lisbon")])
    assert len(server.asked) == 4
    assert waits == [1, 2, 4]
    server.replies = [(500, {}, "")] * 2
    with pytest.raises(ModelError, match=r"with --resume\): verdicts are kept$"):
        make(retries=0, cache=tmp_path)([said("Lisbon")])


def test_what_was_judged_before_a_failure_is_kept(server, make, tmp_path):
    server.replies = [chat("YES"), chat("NO"), (500, {}, "")]
    judge = make(tmp_path, retries=0)
    assert judge([said("one")]) == [1.0]
    assert judge([said("two")]) == [0.0]
    with pytest.raises(ModelError, match="1 times"):
        judge([said("three")])
    assert make(tmp_path)([said("two"), said("one")]) == [0.0, 1.0]
    assert len(server.asked) == 3


def test_an_unclear_reply_is_requested_again_at_once_with_a_clearer_prompt(server, make, waits):
    server.replies = [chat("Well, that depends on what a fact is."), chat(None), chat("no")]
    assert make()([said("Lisbon")]) == [0.0]
    prompts = [body["messages"][0]["content"] for body in server.asked]
    assert [p.endswith(CLEARER) for p in prompts] == [False, True, True]
    assert waits == []


def test_answers_that_stay_unclear_are_an_error_that_shows_one(server, make):
    server.replies = [chat("maybe so")] * 9
    with pytest.raises(ModelError, match="answers neither YES nor NO but 'maybe so', 3 times"):
        make(retries=2)([said("Lisbon")])


@pytest.mark.parametrize(
    "body", ["<html>", "[]", '{"choices": []}', '{"error": "x"}', "null", '{"choices": [{"text": "YES"}]}']
)
def test_replies_of_another_form_are_tried_again_and_then_an_error(server, make, body):
    server.replies = [(200, {}, body), (200, {}, body), chat("YES")]
    assert make()([said("Porto")]) == [1.0]
    server.replies = [(200, {}, body)]
    with pytest.raises(ModelError, match=r"not JSON|not OpenAI's"):
        make(retries=0)([said("Porto")])


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("YES", 1.0),
        ("no.", 0.0),
        ("**Yes** – the city is named.", 1.0),
        ("  No, it names another city; yes would be wrong", 0.0),
        ("The answer is: yes", 1.0),
        ("I checked all of it. NO!", 0.0),
        ("Verdict (YES), since the city is named", 1.0),
        ("<think>YES or NO? No.</think>\n\nYES", 1.0),
        ("it seems so, no? </think> NO", 0.0),
        ('{"answer": "YES"}', 1.0),
    ],
)
def test_yes_and_no_are_read_in_any_format(reply, verdict):
    assert read_verdict(json.loads(chat(reply)[2])) == verdict


@pytest.mark.parametrize(
    "reply", ["", None, "Yesterday", "It is YES, or NO, who knows", "there is no telling here", "<think>yes", "да"]
)
def test_a_reply_that_is_neither_yes_nor_no_is_unclear(reply):
    with pytest.raises(TemporaryFailure) as e:
        read_verdict(json.loads(chat(reply)[2]))
    assert e.value.unclear


def test_an_endpoint_that_does_not_reply_is_refused_before_any_question_is_sent(server, waits):
    server.http.shutdown()
    server.http.server_close()
    for model in (None, "named"):
        with pytest.raises(ModelError, match=rf"{server.url} cannot be reached \(.*refused\); start it"):
            endpoint(Judge(url=server.url, model=model), None, sleep=waits.append)
    assert waits == []


def test_when_it_goes_away_in_between_it_is_waited_for(server, make, waits):
    judge = make()
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(ModelError, match=r"cannot be reached \(.*refused\), 6 times"):
        judge([said("Lisbon")])
    assert waits == [1, 2, 4, 8, 16]


def test_a_reply_that_does_not_come_times_out(server, make, monkeypatch):
    judge = make(retries=0)
    monkeypatch.setattr(MODULE, "SECONDS", 0.05)
    server.lasts = 0.3
    with pytest.raises(ModelError, match=r"cannot be reached \(timed out\), 1 times"):
        judge([said("Lisbon")])


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "answers 400, 'what\\?'; check --judge.url and --judge.model"),
        (404, "answers 404"),
        (401, r"a key; set \$DELEATUR"),
        (403, "a key"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(server, make, waits, status, message):
    server.replies = [(status, {}, "what?")]
    with pytest.raises(ModelError, match=message):
        make()([said("Lisbon")])
    assert (len(server.asked), waits) == (1, [])


def test_a_redirection_is_not_followed(server, make):
    """Neither the texts nor the key go where the user did not send them."""
    other = Server()
    server.replies = [(307, {"Location": f"{other.url}/chat/completions"}, "")]
    server.models = (302, {"Location": f"{other.url}/models"}, "")
    with pytest.raises(ModelError, match="answers 307, texts and key go nowhere else"):
        make(model="named")([said("Lisbon")])
    with pytest.raises(ModelError, match="answers 302"):
        make()
    assert other.paths == []
    other.http.shutdown()
    other.http.server_close()


def test_the_key_goes_into_the_header_and_nowhere_else(server, make, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-general")
    make()([said("Lisbon")])
    monkeypatch.setenv("DELEATUR_JUDGE_KEY", "sk-own")
    judge = make(tmp_path)
    judge([said("Porto")])
    assert [h["Authorization"] for h in server.headers] == ["Bearer sk-general"] * 2 + ["Bearer sk-own"] * 2
    server.replies = [(422, {}, "do not say sk-own")]
    with pytest.raises(ModelError, match="'do not say …'") as e:
        judge([said("Faro")])
    written = [path.read_text() for path in tmp_path.rglob("*")]
    assert not any("sk-own" in text for text in (*written, repr(judge), str(e.value), json.dumps(server.asked)))


def test_a_general_key_is_not_sent_over_plain_http_to_other_machines(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-general")
    monkeypatch.delenv("DELEATUR_JUDGE_KEY", raising=False)
    monkeypatch.setattr(MODULE.Connection, "send", lambda *args: {"data": [{"id": "m"}]})
    urls = ("http://judge.example/v1", "https://judge.example/v1", "http://localhost:1/v1", "http://[::1]:1/v1")
    assert [endpoint(Judge(url=url), None).connection.key for url in urls] == [
        None,
        "sk-general",
        "sk-general",
        "sk-general",
    ]
    monkeypatch.setenv("DELEATUR_JUDGE_KEY", "sk-own")
    assert endpoint(Judge(url=urls[0]), None).connection.key == "sk-own"


def test_a_proxy_is_for_other_machines(server, make, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert make()([said("Lisbon")]) == [1.0]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ((200, {}, '{"data": [{"id": "a"}, {"id": "b"}]}'), "has the models 'a', 'b'; name one with --judge.model"),
        ((200, {}, '{"data": []}'), "does not list its models; name one"),
        ((200, {}, "[]"), "does not list its models"),
        ((404, {}, "none"), "answers 404"),
        ((500, {}, ""), "answers 500, ''; start it"),
    ],
)
def test_where_several_models_or_none_are_served_one_must_be_named(server, make, models, message):
    server.models = models
    with pytest.raises(ModelError, match=message):
        make()
    assert make(model="b")([said("Lisbon")]) == [1.0]


def test_known_verdicts_are_not_requested_again_and_no_text_is_kept(server, make, tmp_path):
    records = [said("Lisbon"), said("Porto")]
    assert make(tmp_path)(records) == [1.0, 0.0]
    assert make(tmp_path)([*records[::-1], said("Lisbon")]) == [0.0, 1.0, 1.0]
    assert len(server.asked) == 2
    (file,) = tmp_path.iterdir()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(row["verdict"] for row in rows) == [0.0, 1.0]
    assert all(set(row) == {"sha256", "verdict"} and len(row["sha256"]) == 64 for row in rows)
    assert not any(word in file.read_text() for word in ("Lisbon", "Porto", "Mira"))


def test_another_model_url_question_or_answer_is_judged_again(server, make, tmp_path):
    make(tmp_path)([said("Lisbon")])
    make(tmp_path, model="other")([said("Lisbon")])
    make(tmp_path)([said("Lisbon", question="Where did Mira first see light?")])
    make(tmp_path)([said("Lisbon.")])
    make(tmp_path, url=server.url + "/")([said("Lisbon")])  # is the same
    make(tmp_path, url=server.url.replace("127.0.0.1", "localhost"))([said("Lisbon")])
    assert len(server.asked) == 5


def test_a_line_that_was_cut_off_costs_no_other(server, make, tmp_path):
    make(tmp_path)([said("Lisbon")])
    make(tmp_path)([said("Porto")])
    file = tmp_path / "judge.jsonl"
    file.write_text(file.read_text()[:-20])
    assert make(tmp_path)([said("Lisbon"), said("Porto")]) == [1.0, 0.0]
    assert len(server.asked) == 3
    assert make(tmp_path)([said("Lisbon"), said("Porto")]) == [1.0, 0.0]
    assert len(server.asked) == 3


def test_a_rate_limit_spaces_questions_evenly(monkeypatch):
    """30 a minute: 2 s apart. The clock stands still but for sleep; an idle time earns no burst."""
    now = [100.0]
    monkeypatch.setattr(MODULE.time, "monotonic", lambda: now[0])
    waits: list[float] = []
    turn = pace(30, waits.append)
    for _ in range(4):
        turn()
    assert waits == [2.0, 4.0, 6.0]
    now[0] = 200.0
    turn()
    turn()
    assert waits == [2.0, 4.0, 6.0, 2.0]
    unlimited = pace(None, waits.append)
    unlimited()
    unlimited()
    assert len(waits) == 4


def test_a_rate_limit_holds_for_tries_too(server, make, waits):
    server.replies = [(500, {}, "")]
    assert make(per_minute=1)([said("Lisbon")]) == [1.0]
    limit, *_ = [w for w in waits if w > 30]
    assert limit == pytest.approx(60, abs=5)


def test_a_retry_after_is_seconds_or_a_date():
    assert seconds_of("12") == 12
    assert seconds_of("-3") == 0
    assert [seconds_of(text) for text in (None, "soon", "", "1e3")] == [None] * 4
    later = datetime.now(UTC) + timedelta(seconds=90)
    assert seconds_of(format_datetime(later, usegmt=True)) == pytest.approx(90, abs=5)
    assert seconds_of("Thu, 01 Jan 1970 00:00:00 GMT") == 0


def test_the_texts_are_the_only_braces_in_a_question():
    """So that a reader, and this file, finds them."""
    record = said("a { brace")
    prompt = prompt_of(record)
    assert texts_in({"messages": [{"content": prompt}]})["reply"] == "a { brace"
