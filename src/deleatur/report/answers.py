"""Answers before and after, set by set: what a reader of the page sees first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from deleatur.data.spacing import evenly_spaced
from deleatur.evaluation.metrics.revealed import UNSPACED, marked_piece, share_revealed
from deleatur.report.heat import Piece, end_importance, heat_spans
from deleatur.report.tables import Row, percent
from deleatur.run_folder.schema import Folder
from deleatur.settings import SELECTED

SHOWN = 3  # rows of a kind
KINDS = {"forget": "must go", "retain": "must stay", "holdout": "never in any training"}


def answer_groups(folder: Folder, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Forget, retain and unseen rows, some of each at even distances, with their answers before and after."""
    groups = []
    for kind, role in KINDS.items():
        shown = evenly_spaced(heated_rows(folder) if kind == "forget" else answered_rows(folder, kind), SHOWN)
        score = next((r for r in rows if r.set == kind and r.metric in ("judged", "revealed")), None)
        if shown:
            groups.append({"kind": kind, "role": role, "score": score, "rows": shown})
    return groups


def heated_rows(folder: Folder) -> list[dict[str, Any]]:
    """Every forget row of importance.jsonl, its answer in pieces with their importance."""
    facts = {r["id"]: _facts(r) for r in folder.after if r["set"] == "forget"}
    shown = []
    for row in folder.importance:
        pieces, end = heat_spans(row["answer"], row["tokens"]), end_importance(row["answer"], row["tokens"])
        tinted = [(*_blank_before(p.text), p.importance, tint(p.importance), p.gold) for p in pieces]
        heat = {"pieces": tinted, "selected": selected(pieces), "end": end, "end_tint": tint(end)}
        shown.append({"row": row, **heat, **sides(row, facts.get(row["id"], []))})
    return shown


def answered_rows(folder: Folder, kind: str) -> list[dict[str, Any]]:
    """Rows of another kind, which have no importance."""
    before = {r["id"]: r["generated"] for r in folder.before if r["set"] == kind}
    shown = []
    for record in folder.after:
        if record["set"] == kind:
            row = record | {"before": before.get(record["id"], ""), "after": record["generated"]}
            shown.append({"row": row, "pieces": [], "selected": [], "end": None, **sides(row, _facts(record))})
    return shown


def sides(row: Mapping[str, Any], facts: Sequence[str]) -> dict[str, Any]:
    """Both answers, cut where they say the marked parts of the right one, and in words whether they do."""
    shares = {side: share_said(row, row[side], facts) for side in ("before", "after")}
    return {side: {"cut": cut_at(row[side], facts), "share": share, "says": says(share)} for side, share in shares.items()}


def share_said(row: Mapping[str, Any], text: str, facts: Sequence[str]) -> float | None:
    """The share of the marked facts that a text says, as *revealed* counts them; None where none is marked."""
    return share_revealed(row["question"], row["answer"], text, map(marked_piece, facts)) if facts else None


def says(share: float | None) -> str:
    """The same in words."""
    return "" if share is None else "does not say it" if share == 0 else "says it" if share == 1 else "says part of it"


def cut_at(text: str, facts: Iterable[str]) -> list[tuple[str, bool]]:
    """The text in pieces, which joined are the text, each with whether it is one of the facts; case is no matter."""
    wanted = [
        re.escape(fact) if UNSPACED.search(fact) else rf"(?<!\w){re.escape(fact)}(?!\w)"
        for fact in sorted(facts, key=len, reverse=True)
    ]
    parts = re.split(f"({'|'.join(wanted)})", text, flags=re.IGNORECASE) if wanted else [text]
    return [(part, bool(k % 2)) for k, part in enumerate(parts) if part]


def selected(pieces: Iterable[Piece]) -> list[str]:
    """The parts of an answer whose tokens have high importance: what the tint shows, in words."""
    runs = groupby(pieces, lambda p: p.importance is not None and p.importance > SELECTED)
    texts = ("".join(piece.text for piece in run).strip(" \n\t.,;:!?“”\"'()") for high, run in runs if high)
    return [text for text in texts if len(text) > 1 or UNSPACED.search(text)]  # a letter of a word says nothing


def tint(importance: float | None) -> str:
    """How strong the background is, 0 to 1."""
    return "0" if importance is None or not importance > 0 else f"{min(importance, 1.0):.2f}"


def score_line(score: Row | None) -> str:
    """The kind's score in a few words; empty where it was not measured."""
    if score is None:
        return ""
    return f"{score.metric}: {percent(score.before)} → {percent(score.after)} (n = {score.n})"


def _facts(record: Mapping[str, Any]) -> list[str]:
    """The marked parts of a record's answer that must go."""
    texts = (record["answer"][s["start"] : s["end"]].strip() for s in record.get("spans") or () if not s.get("keep"))
    return [text for text in texts if text]


def _blank_before(text: str) -> tuple[str, str]:
    """The blank that many tokens begin with, which is not tinted, and the word; a token of blanks only is tinted."""
    word = text.lstrip() or text
    return text[: len(text) - len(word)], word
