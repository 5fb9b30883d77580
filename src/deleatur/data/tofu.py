"""TOFU: made-up authors, of whom 1, 5 or 10 % are to be forgotten (Maini et al., 2401.06121)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from deleatur.data.files import Row, read, refusal, show, under
from deleatur.data.rows import known_part, read_as, root_of
from deleatur.settings import Data
from deleatur.types import Example, Span, Suite

RETAIN = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
FINE_TUNED = {"tenth": (40, 4), "twenty": (20, 2), "six": (6, 2)}  # authors to fine-tune on, and to forget
ANNOTATIONS = "tofu/annotations/uds_forget10_367"
AUTHOR, LARGEST = 20, 400  # rows about one author; rows of forget10, of which the smaller forget sets are the ends
SET_METRIC_NAMES = (
    "model_utility",
    "forget_quality",
    "privleak",
    "mia_loss",
    "mia_min_k",
    "mia_min_k_plus",
    "mia_zlib",
    "mia_grad_norm",
    "mia_reference",
    "specific_nll",
    "other_nll",
    "j_w",
    "j_avg",
)


def suite(part: str | None, settings: Data) -> Suite:
    """`forget01`, `forget05` or `forget10`; for a model fine-tuned on only the last 40 of the 200 authors that forgets 4
    `tenth`, on 20, that forgets 2, `twenty`, and on 6, of which it forgets 2, `six`.

    Where the annotations of the unlearning depth score (gnueaj/unlearning-depth-score) are under the root, forget rows have
    their entities as spans.
    """
    part = known_part("tofu", part, (*RETAIN, *FINE_TUNED))
    sets = (
        _few(*FINE_TUNED[part], settings)
        if part in FINE_TUNED
        else {
            "forget": _marked(_read(f"{part}_perturbed", settings), settings),
            "retain": _read(RETAIN[part], settings),
            "retain_perturbed": _read("retain_perturbed", settings),
            "holdout": _read(part.replace("forget", "holdout"), settings),
        }
    )
    sets |= {name: _read(f"{name}_perturbed", settings) for name in ("real_authors", "world_facts")}
    evaluated = tuple(name for name in sets if name != "retain")
    return Suite(
        name=f"tofu/{part}",
        sets=sets,
        evaluated_sets=evaluated,
        retain_sets=("retain_perturbed",),
        set_metrics=SET_METRIC_NAMES,
    )


def _few(authors: int, forgotten: int, settings: Data) -> dict[str, tuple[Example, ...]]:
    """The last authors, the very last of them to forget; those of the others that have wrong answers are evaluated."""
    full, last = _read("full", settings), _read("forget10_perturbed", settings)
    if [e.question for e in full[-LARGEST:]] != [e.question for e in last]:
        raise refusal("tofu/full", f"its last {len(last)} rows are not those of tofu/forget10_perturbed; get both anew")
    authors_rows = (*full[:-LARGEST], *last)[-authors * AUTHOR :]
    return {
        "forget": _marked(authors_rows[-forgotten * AUTHOR :], settings),
        "retain": authors_rows[: -forgotten * AUTHOR],
        "retain_perturbed": last[-authors * AUTHOR : -forgotten * AUTHOR],
        "holdout": _read("holdout05", settings)[: forgotten * AUTHOR],
    }


def _read(name: str, settings: Data) -> tuple[Example, ...]:
    return read_as(f"tofu/{name}", f"locuslab/TOFU/{name}:train", settings, _to_rows)


def _to_rows(row: Row) -> Iterable[Mapping[str, object]]:
    paraphrase = row.cells.get("paraphrased_question")
    yield {
        "question": row.cells.get("question"),
        "answer": row.cells.get("answer"),
        "paraphrases": None if paraphrase is None else [paraphrase],
        "restated": row.cells.get("paraphrased_answer"),
        "wrong": row.cells.get("perturbed_answer"),
    }


def _marked(forget: tuple[Example, ...], settings: Data) -> tuple[Example, ...]:
    """The rows, which end where forget10 ends, with the annotated entity of each as its span."""
    path = under(ANNOTATIONS, root_of(settings))
    rows = dict(enumerate(forget, LARGEST - len(forget)))  # by their place in forget10
    for row in () if path is None else read(str(path), None):
        match row.cells:
            case {"idx": int(place), "entity_char_span": [int(start), int(end)], "entity": str(entity)}:
                example = rows.get(place)
            case _:
                raise refusal(row.place, "the annotation lacks idx, entity or entity_char_span; get the file anew")
        if example is None:
            continue
        if not entity or example.answer[start:end] != entity:
            seen = f"characters {start} to {end} of the answer {show(example.answer)} are not {show(entity)}"
            raise refusal(row.place, f"{seen}; annotations and rows do not belong together")
        rows[place] = replace(example, spans=(*example.spans, Span(start=start, end=end)))
    return tuple(rows.values())
