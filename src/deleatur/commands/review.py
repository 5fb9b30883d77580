"""`deleatur review`: a page on this machine alone, on which a person marks which words of forget rows must go."""

from __future__ import annotations

import json
import re
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from deleatur.commands.request_options import Review
from deleatur.config.recipes import RECIPES
from deleatur.config.run_config import from_yaml
from deleatur.data.rows import read_rows
from deleatur.errors import ConfigError, DataError
from deleatur.importance import Novelty
from deleatur.progress import Progress
from deleatur.report.review_page import joined, pieces_of, review_page, words_of
from deleatur.run_folder.file_types import AnswerImportance, TokenImportance
from deleatur.run_folder.schema import read_importance, read_row_hashes, write_lines
from deleatur.run_folder.writer import digest_rows
from deleatur.types import Encoded, Example, Span

HOST = "127.0.0.1"
MAX_BYTES = 50_000_000  # of what the page sends
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(kw_only=True)
class Marking:
    """The rows as marked so far, where they are from, and the file that the marks go to, with what it held last."""

    rows: tuple[Example, ...]
    source: str
    out: Path
    importance: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    held: bytes | None = None
    writing: Lock = field(default_factory=Lock)

    def page(self, nonce: str) -> str:
        """The page as HTML; `nonce` allows its own script and style."""
        rows = [
            {"id": e.id, "question": e.question, "answer": e.answer, "spans": [(s.start, s.end, s.keep) for s in e.spans]}
            for e in self.rows
        ]
        return review_page(rows, name=self.source, out=str(self.out), nonce=nonce, importance=self.importance)

    def save(self, sent: object) -> str:
        """Write the rows with these marks, atomically; returns a sentence. Raises DataError for marks of other rows, and
        where the file was written by somebody else."""
        if not isinstance(sent, list) or len(sent) != len(self.rows):
            raise DataError(f"marks of {len(self.rows)} rows are needed")
        with self.writing:
            marked = tuple(replace(e, spans=changed_spans(e, marks)) for e, marks in zip(self.rows, sent, strict=True))
            if self.out.exists() and self.out.read_bytes() != self.held:
                raise DataError(f"{self.out} was written by another program meanwhile; move it away, then save again")
            write_lines(self.out, map(line_of, marked))
            self.out.chmod(0o600)  # the rows' text is for its owner alone
            self.rows, self.held = marked, self.out.read_bytes()
        count = sum(bool(e.spans) for e in marked)
        return f"Saved: {count} of {len(marked)} rows have marks, in {self.out}."


def changed_spans(example: Example, marks: Any) -> tuple[Span, ...]:
    """The row's spans as they were where its marks are as the page showed them, else those of the marks, and the row's own
    that touch no word, which the page cannot show."""
    chosen, words = spans_of(example.answer, marks), words_of(example.answer)
    shown = [(s.start, s.end, s.keep) for s in example.spans]
    pieces = [p for p in pieces_of(example.answer, shown, ()) if p["word"]]
    begun = {kind: [[p["start"], p["end"]] for p in pieces if p["mark"] == kind] for kind in ("go", "stay")}
    if chosen == spans_of(example.answer, begun):
        return example.spans
    unseen = [s for s in example.spans if not any(s.start < end and start < s.end for start, end in words)]
    kept = [s for s in unseen if not any(s.start < c.end and c.start < s.end for c in chosen)]
    return tuple(sorted((*chosen, *kept), key=lambda span: span.start))


def spans_of(answer: str, marks: Any) -> tuple[Span, ...]:
    """Spans of marked words, {"go": [[start, end], …], "stay": […]}. Raises DataError for what is no word of the answer."""
    words = set(words_of(answer))
    kinds = ("go", "stay")
    if not isinstance(marks, dict) or not all(isinstance(marks.get(kind), list) for kind in kinds):
        raise DataError("a row's marks are two lists, go and stay")
    chosen = [[tuple(m) for m in marks[kind] if isinstance(m, list) and {*map(type, m)} == {int}] for kind in kinds]
    if sum(map(len, chosen)) != sum(len(marks[kind]) for kind in kinds) or not {*chosen[0], *chosen[1]} <= words:
        raise DataError("a mark is not a word of its row's answer")
    if set(chosen[0]) & set(chosen[1]):
        raise DataError("a word cannot both go and stay")
    spans = [Span(start=start, end=end, keep=keep) for keep in (False, True) for start, end in joined(answer, chosen[keep])]
    return tuple(sorted(spans, key=lambda span: span.start))


def line_of(example: Example) -> dict[str, Any]:
    """A row as a file has it, in the form that its turns need."""
    turns = [{"role": role, "content": text} for role, text in (*example.prompt, ("assistant", example.answer))]
    plain = len(turns) == 2 and turns[0]["role"] == "user"
    form = {"question": example.question, "answer": example.answer} if plain else {"messages": turns}
    row = {"id": example.id, "subject": example.subject} | (form if example.prompt else {"text": example.answer})
    spans = [[s.start, s.end] if not s.keep else {"start": s.start, "end": s.end, "keep": True} for s in example.spans]
    more = {"paraphrases": [*example.paraphrases], "alternates": [*example.alternates], "restated": example.restated}
    more |= {"wrong": [*example.wrong]}
    kept = {name: value for name, value in more.items() if value}
    return {name: value for name, value in row.items() if value is not None} | kept | {"spans": spans}


def marking_of(command: Review, progress: Progress = Progress()) -> Marking:
    """The rows and where their marks go. Raises DataError or ConfigError; a file is never written over unasked."""
    path = Path(command.source)
    run = from_yaml(path / "run.yaml") if (path / "run.yaml").is_file() else None
    if run is not None and run.forget is None:
        raise ConfigError(
            f"{path} is a run on a suite, whose rows are not yours to mark; give a run on rows, or a file of rows"
        )
    source = str(run.forget) if run is not None else command.source
    out = Path(command.out or f"{Path(source).stem}-reviewed.jsonl")
    held = out.read_bytes() if out.is_file() else None
    rows = read_rows(source, settings=command.data if run is None else run.data)
    prompts = {len(e.prompt) == 1 and e.prompt[0][0] == "user" for e in rows if e.prompt}
    if len(prompts) > 1:  # one file has rows of one form
        raise ConfigError(f"{source} has single questions and conversations; review them as two files")
    if run is not None and all(e.prompt for e in rows) and _began_with(path) not in (None, digest_rows(rows)):
        raise DataError(f"the rows in {source} are not those of {path}; go to where the run was made, or restore the file")
    if out.suffix not in (".jsonl", ".ndjson"):
        raise ConfigError(f"--out is {out}, but must be a file that ends in .jsonl")
    if out.exists() and not command.replace:
        raise ConfigError(f"{out} exists; give --out another file, or --replace to write over it")
    if command.data.ignore and out.exists() and out.samefile(source):
        raise ConfigError(f"{out} would lose the columns of --data.ignore; give --out another file")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"{out.absolute().parent} is not a folder; give --out a file in one that is there")
    if command.model is not None and run is not None:
        raise ConfigError(f"{path} is a run, whose importance is shown; leave --model out, or give a file of rows")
    shades = [Path(command.importance)] if command.importance is not None else [path / "importance.jsonl"] if run else []
    lines = [line for shade in shades for line in read_importance(shade)]
    if command.model is not None:
        lines = start_importance(command, command.model, progress)
    by_text = {(line["question"], line["answer"]): line["tokens"] for line in lines}
    importance = {e.id: by_text[e.question, e.answer] for e in rows if (e.question, e.answer) in by_text}
    return Marking(rows=rows, source=source, out=out, importance=importance, held=held)


def _began_with(run: Path) -> str | None:
    """The hash of the run's forget rows; None before they were read."""
    path = run / "data.json"
    return read_row_hashes(path)["forget"] if path.exists() else None


def start_importance(command: Review, model: str, progress: Progress) -> list[AnswerImportance]:
    """The importance that the default recipe begins with, of the command's rows. Raises DeleaturError."""
    from deleatur.commands.retain_rows import start_session
    from deleatur.modeling.reference import start_of
    from deleatur.modeling.start_pass import StartPass

    run = RECIPES["atwu"].run(model=model, forget=command.source, retain=command.retain, data=command.data)
    session = start_session(run, progress)
    progress.phase("How much each word matters")
    first = StartPass(session.model, batch=run.evaluation.batch)
    fixed = Novelty().prepare(start_of(first, session.rows, precision=run.train.precision))
    return [
        AnswerImportance(question=row.example.question, answer=row.example.answer, tokens=tokens_of(row, values.tolist()))
        for row in session.rows["forget"]
        for values in [fixed.values[row]]
    ]


def tokens_of(row: Encoded, values: Sequence[float]) -> list[TokenImportance]:
    """Where each scored token stands in the answer, and its importance."""
    return [
        TokenImportance(start=a, end=b, importance=value, gold=False)
        for (a, b), value in zip(row.offsets, values, strict=True)
    ]


def serve(marking: Marking, port: int, begun: Callable[[str], None]) -> None:
    """Serve the page until it is ended there or by Ctrl-C; `begun` hears its address, which has an unguessable part.

    Raises ConfigError where the port is taken.
    """
    token = secrets.token_urlsafe(32)
    try:
        server = Server((HOST, port), partial(Handler, marking, token))
    except OSError as e:
        raise ConfigError(f"port {port} is not available ({e.strerror}); give another --port, or none") from e
    begun(f"http://{HOST}:{server.server_port}/{token}/")
    try:
        server.serve_forever(poll_interval=0.05)
    except KeyboardInterrupt:
        pass  # what was saved is saved
    finally:
        server.server_close()


class Server(ThreadingHTTPServer):
    """The page's server: a browser that hangs up leaves no traceback in the terminal."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over connections that were broken; print the rest as it is."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Answers a request: with nothing without the token in its path and this server's own name in its Host header."""

    server_version, sys_version = "deleatur", ""

    def __init__(self, marking: Marking, token: str, *request: Any) -> None:
        self.marking, self.token = marking, token
        super().__init__(*request)  # answers it

    def do_GET(self) -> None:
        """Send the page."""
        if (place := self.allowed()) is None:
            return
        if place != "":
            self.reply(404, "There is only one page.")
            return
        nonce = secrets.token_urlsafe(16)
        policy = f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'"
        policy += "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        self.reply(200, self.marking.page(nonce), kind="text/html", more={"Content-Security-Policy": policy})

    def do_POST(self) -> None:
        """Save the marks that were sent; with `end` also stop the server."""
        if (place := self.allowed()) is None:
            return
        length = self.headers.get("Content-Length", "")
        if place not in ("save", "end") or self.headers.get_content_type() != "application/json":
            self.reply(404, "Unknown address.")
        elif not re.fullmatch("[0-9]{1,12}", length) or int(length) > MAX_BYTES:
            self.reply(413, "That is too much.")
        else:
            self.save(self.rfile.read(int(length)), end=place == "end")

    def save(self, body: bytes, *, end: bool) -> None:
        """Save the marks and reply with what was saved, or why not."""
        try:
            self.reply(200, self.marking.save(json.loads(body)))
        except (ValueError, RecursionError, DataError) as e:
            self.reply(400, f"Not saved: {e}.")
        except OSError as e:
            self.reply(500, f"Not saved: {self.marking.out} cannot be written ({e.strerror}).")
        else:
            if end:
                Thread(target=self.server.shutdown).start()

    def allowed(self) -> str | None:
        """The path after the token; None where the request is refused."""
        hosts = [f"{name}:{self.connection.getsockname()[1]}" for name in (HOST, "localhost")]
        origin = self.headers.get("Origin")
        _, given, *rest = (*self.path.split("?")[0].split("/"), "")
        known = secrets.compare_digest(given.encode(), self.token.encode())
        if known and self.headers.get("Host") in hosts and origin in (None, *(f"http://{host}" for host in hosts)):
            return "/".join(rest).rstrip("/")
        self.reply(403, "This page is for whoever started it.")
        return None

    def reply(self, code: int, text: str, *, kind: str = "text/plain", more: Mapping[str, str] | None = None) -> None:
        """Send a response with the security headers."""
        data = text.encode("utf-8", errors="replace")
        self.send_response(code)
        for name, value in (HEADERS | dict(more or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged: addresses hold the token."""
