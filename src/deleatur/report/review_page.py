"""The page on which a person marks which words of forget rows must go: its words, their shade and their marks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from deleatur.data.words import MARKS, SIGNS
from deleatur.evaluation.metrics.revealed import UNSPACED
from deleatur.report.heat import heat_spans
from deleatur.report.render import render

LETTER = rf"\w[{MARKS}{SIGNS}]*"
EMOJI = "\u2190-\u2bff\U0001f000-\U0001faff"
WORD = re.compile(rf"(?:{LETTER})+(?:['’.-](?:{LETTER})+)*|[{EMOJI}][{EMOJI}{MARKS}]*")
Range = tuple[int, int]


def words_of(answer: str) -> list[Range]:
    """Where the words of an answer begin and end; emoji are words, and in scripts without blanks each character is one."""
    found: list[Range] = []
    for match in WORD.finditer(answer):
        if UNSPACED.search(match[0]):
            found += [(match.start() + c.start(), match.start() + c.end()) for c in re.finditer(LETTER, match[0])]
        else:
            found.append(match.span())
    return found


def review_page(
    rows: Sequence[Mapping[str, Any]], *, name: str, out: str, nonce: str, importance: Mapping[str, Sequence[Any]]
) -> str:
    """The page. Each row has `id`, `question`, `answer` and `spans` as (start, end, keep); tokens by id give the shade."""
    shown = [
        {"question": row["question"], "pieces": pieces_of(row["answer"], row["spans"], importance.get(row["id"], ()))}
        for row in rows
    ]
    view = {"name": name, "out": out, "nonce": nonce, "rows": shown, "shaded": bool(importance)}
    return render("review.html.jinja", view)


def pieces_of(answer: str, spans: Sequence[tuple[int, int, bool]], tokens: Sequence[Any]) -> list[dict[str, Any]]:
    """The answer in words and what is between them, joined exactly the answer; a word is marked where a span touches it."""
    importance: list[float | None] = []
    for piece in heat_spans(answer, tokens):
        importance += [piece.importance] * len(piece.text)
    words = words_of(answer)
    pieces, known = [], set(words)
    for start, end in pairwise(sorted({0, len(answer), *(place for word in words for place in word)})):
        touching = {keep for a, b, keep in spans if a < end and start < b}
        high = max((i for i in importance[start:end] if i is not None), default=None)
        mark = "go" if False in touching else "stay" if True in touching else ""
        shade = round(10 * min(max(high or 0.0, 0.0), 1.0))
        value = "" if high is None else f"{high:.2f}"
        place = {"text": answer[start:end], "start": start, "end": end, "word": (start, end) in known}
        pieces.append(place | {"mark": mark, "shade": shade, "importance": value})
    return pieces


def joined(answer: str, marked: Sequence[Range]) -> list[Range]:
    """Marked words as spans: neighbours become one where only blanks or marks of punctuation stand between them."""
    spans: list[Range] = []
    for start, end in sorted(marked):
        if spans and _is_gap(answer[spans[-1][1] : start]):
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans


def _is_gap(text: str) -> bool:
    return len(text) <= 2 and not re.search(r"\w", text)
