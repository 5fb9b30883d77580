"""MUSE: news and books that a model was trained on (Shi et al., 2407.06460)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from deleatur.data.files import Row
from deleatur.data.rows import continued, known_part, read_as
from deleatur.settings import Data
from deleatur.types import Example, Suite

FOLDS = {f"news-{kind}-{k}": (kind, f"forget_{k}") for kind in ("sust", "scal") for k in range(1, 5)}
PARTS = {"news": ("raw", "forget"), "books": ("raw", "forget")} | FOLDS  # what is to be forgotten
CHARACTERS = 4  # of English to a token, about
SET_METRIC_NAMES = ("privleak", "mia_loss", "mia_min_k", "mia_min_k_plus", "mia_zlib", "mia_grad_norm", "mia_reference")


def suite(part: str | None, settings: Data) -> Suite:
    """`news` or `books`; `news-scal-1` to `-4`, growing forget sets; `news-sust-1` to `-4`, requests one after the other.

    For the latter each run begins with the model that the one before left: `--suite muse/news-sust-2 --model runs/1/model`.
    Texts, of which some are whole books, are cut between words into pieces of about `settings.max_length` tokens. Retain
    rows are `retain1`, set apart for training. `forget_mia` and `holdout` are PrivLeak's texts. The paper sets answered
    questions before `knowmem` questions, which stand alone here; it has 128 new tokens for `verbmem_f`, 32 for `knowmem`.
    """
    part = known_part("muse", part, PARTS)
    corpus = part.partition("-")[0]

    def read(config: str, split: str, to_rows: Callable[[Row], Iterable[Mapping[str, object]]]) -> tuple[Example, ...]:
        """The rows of one set, from the root or the hub."""
        hub = f"muse-bench/MUSE-{corpus.title()}/{config}:{split}"
        return read_as(f"muse/{corpus}/{config}/{split}", hub, settings, to_rows)

    def pieces(row: Row) -> Iterable[Mapping[str, object]]:
        """The text as pieces that fit the longest row."""
        text = row.cells.get("text")
        for piece in cut(text, CHARACTERS * settings.max_length) if isinstance(text, str) else [text]:
            yield {"text": piece}

    sets = {
        "forget": read(*PARTS[part], pieces),
        "retain": read("raw", "retain1", pieces),
        "verbmem_f": tuple(map(continued, read("verbmem", "forget", lambda row: [_only(row, "prompt", "gt")]))),
        "knowmem_f": read("knowmem", "forget_qa", lambda row: [_only(row, "question", "answer")]),
        "knowmem_r": read("knowmem", "retain_qa", lambda row: [_only(row, "question", "answer")]),
        "forget_mia": read("privleak", "forget", lambda row: [_only(row, "text")]),
        "holdout": read("privleak", "holdout", lambda row: [_only(row, "text")]),
    }
    return Suite(
        name=f"muse/{part}",
        sets=sets,
        evaluated_sets=tuple(name for name in sets if name != "retain"),
        forget_sets=("verbmem_f", "knowmem_f"),
        retain_sets=("knowmem_r",),
        score="rouge_l",
        set_metrics=SET_METRIC_NAMES,
    )


def cut(text: str, longest: int) -> list[str]:
    """Pieces of at most `longest` characters that end before whitespace wherever they can; joined they are the text.

    A text of whitespace alone is one piece, and such a piece at the end is dropped.
    """
    pieces = re.findall(rf"(?s).{{1,{longest}}}(?=\s|\Z)|.{{1,{longest}}}", text)
    return [piece for piece in pieces if piece.strip()] or [text]


def _only(row: Row, *columns: str) -> Mapping[str, object]:
    return {column: row.cells.get(column) for column in columns}
