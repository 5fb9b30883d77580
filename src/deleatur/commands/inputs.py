"""What a command reads before it loads a model: rows and suites, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from deleatur.config.method import MethodSettings
from deleatur.config.run_config import Run
from deleatur.data.encode import encode_rows, make_encoder
from deleatur.data.files import files_read
from deleatur.data.rows import read_rows, refuse_overlap, root_of
from deleatur.data.suites import read_suite
from deleatur.data.windows import windows
from deleatur.errors import ConfigError, ModelError
from deleatur.evaluation.metrics.folding import folded
from deleatur.modeling.checks import check_finite, check_known, check_room
from deleatur.modeling.loading import load_tokenizer
from deleatur.protocols import AimsAtLevel, Prepares
from deleatur.settings import Data
from deleatur.types import Encoded, Example, Suite

# figures of a user's own rows: always, with holdout rows, and with a retrained model
WORST = ("j_w", "j_avg")
UNSEEN = ("mia_loss", "mia_min_k", "mia_min_k_plus", "mia_zlib", "mia_grad_norm", "specific_nll", "other_nll")
REASONING = "[the model's own reasoning]"  # where rows are shown and no model is loaded
RETRAINED = ("forget_quality", "privleak", "mia_reference")


def suite_of(run: Run) -> Suite:
    """The run's benchmark, or its own forget, retain and holdout rows as one; checked."""
    if run.suite is not None:
        suite = read_suite(run.suite, run.data)
    else:
        sources = run.sources
        for_held = replace(run.data, columns=(), ignore=(), turns="last")  # held rows are written by us
        settings = {name: for_held if name == "held" else run.data for name in sources}
        given = {name: source for name, source in sources.items() if source is not None}
        sets = {name: read_rows(source, settings=settings[name]) for name, source in given.items()}
        suite = rows_suite(free_held(sets))
        compared = RETRAINED if run.evaluation.retrained else ()
        suite = replace(suite, set_metrics=(*WORST, *(UNSEEN if run.holdout else ()), *compared))
    pairs = [("forget", "retain"), ("forget", "holdout"), *([("retain", "holdout")] if run.suite is None else [])]
    for own, name in pairs:
        if {own, name} <= suite.sets.keys():
            refuse_overlap(suite.sets[own], suite.sets[name], name, own=own)
    by_judge = run.judge.kind != "contained" and suite.score == "revealed"
    return replace(suite, score="judged") if by_judge else suite


def free_held(sets: Mapping[str, tuple[Example, ...]]) -> dict[str, tuple[Example, ...]]:
    """The sets, of held rows only those that ask what no forget row asks: an answer cannot be held and forgotten at once."""
    asked = {folded(e.question) for e in sets.get("forget", ())}
    held = tuple(e for e in sets.get("held", ()) if folded(e.question) not in asked)
    return {name: held if name == "held" else rows for name, rows in sets.items() if name != "held" or held}


def rows_suite(sets: Mapping[str, tuple[Example, ...]]) -> Suite:
    """A user's own rows: every set is evaluated."""
    return Suite(name="rows", sets=sets, evaluated_sets=tuple(sets), set_metrics=WORST)


def check_trained(suite: Suite) -> None:
    """Refuse a benchmark that has nothing to forget. Of a user's own rows those to keep can be made."""
    if missing := [n for n in ("forget", "retain") if n not in suite.sets and not (n == "retain" and suite.name == "rows")]:
        raise ConfigError(
            f"the suite {suite.name} has no {missing[0]} rows; use it with deleatur evaluate --suite {suite.name}"
        )


def encode_sets(
    sets: Mapping[str, tuple[Example, ...]], tokenizer: PreTrainedTokenizerBase, data: Data
) -> dict[str, list[Encoded]]:
    """Every set's rows as token ids."""
    encoder = make_encoder(tokenizer, data)
    return {name: encode_rows(encoder, windows(encoder, examples)) for name, examples in sets.items()}


def reading_notes(rows: Mapping[str, Sequence[Encoded]], sources: Mapping[str, str | None], data: Data) -> list[str]:
    """Sentences on what was read and is not trained or evaluated as a whole, and from which files."""
    notes = []
    for name, encoded in rows.items():
        if files := files_read(sources.get(name), root_of(data)):
            read = f"The {len(encoded)} {name} rows are those of {', '.join(files)}"
            notes.append(f"{read}; give one of these files for its rows alone")
        if cut := [row for row in encoded if row.cut]:
            remedy = "" if any(row.example.prompt for row in cut) else "; --data.split makes windows of them"
            limit = f"data.max_length {data.max_length}"
            notes.append(
                f"{len(cut)} of {len(encoded)} {name} rows are longer than {limit} and are cut at the answer's end{remedy}"
            )
        earlier = sum(any(role == "assistant" for role, _ in row.example.prompt) for row in encoded)
        if earlier and data.turns == "last":
            seen = f"{earlier} of {len(encoded)} {name} rows hold earlier answers, which are context alone"
            notes.append(f"{seen}; --data.turns each makes a row of every answer")
    return notes


def encode_first(run: Run, count: int) -> tuple[dict[str, list[Encoded]], dict[str, int], PreTrainedTokenizerBase]:
    """The first rows of each set, the sizes of the sets, and the tokenizer; the model itself is not loaded."""
    sets, tokenizer = suite_of(run).sets, load_tokenizer(run.model)
    first = {name: rows[:count] for name, rows in sets.items()}
    if make_encoder(tokenizer, run.data).reasons:
        first = {name: tuple(replace(e, reasoning=REASONING) for e in rows) for name, rows in first.items()}
    return encode_sets(first, tokenizer, run.data), {name: len(rows) for name, rows in sets.items()}, tokenizer


def check_level(method: MethodSettings, rows: Mapping[str, list[Encoded]]) -> None:
    """Refuse a wish to stop at the level of rows that are not there."""
    known = rows.get("holdout") or isinstance(method.importance, Prepares)
    if isinstance(method.loss, AimsAtLevel) and method.loss.level is None and not known:
        raise ConfigError("loss.level is unknown: give holdout rows, a level in nats, or an importance that selects tokens")


def check_usable(model: PreTrainedModel, rows: Mapping[str, list[Encoded]], name: str) -> None:
    """Refuse the model of this name where its weights are broken, or rows are longer than it can read."""
    check_finite(model, ModelError, f"the model {name}; use an intact copy")
    check_known(model, rows, name)
    check_room(model, rows, name)
