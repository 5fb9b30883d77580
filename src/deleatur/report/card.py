"""The model card of an exported run: what was to be forgotten, how, and with what evidence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import yaml

from deleatur.report.redact import place_last, redact_results
from deleatur.report.tables import METRIC_LABELS, metric_name, percent, rows_of, set_name
from deleatur.report.verdict import verdict
from deleatur.report.words import flat, plain
from deleatur.run_folder.file_types import RunResults
from deleatur.run_folder.schema import Folder

LIMITS = (
    "The evidence is for these rows and these phrasings, with greedy answers. Another phrasing, sampling, a few steps of "
    "training or quantisation may bring the knowledge back.",
    "The base model still has it: whoever has both can compare them. What is published of the difference between the two, "
    "an adapter for example, gives it back.",
    "A standard error speaks of the choice of rows only, and is 0 where all rows agree, however few they are.",
)


def model_card(
    folder: Folder, *, version: str, licence: str | None, named: bool = False, requests: Sequence[str] = ()
) -> str:
    """README.md as the hub reads it. The rows go by their SHA-256, unless they are to be `named`; `requests` are lines."""
    original, results = folder.results, redact_results(folder.results)
    base = results["model"]["name"]
    on_hub = base == original["model"]["name"] and base.count("/") == 1
    head = {
        "license": licence,
        "base_model": base if on_hub else None,
        "base_model_relation": "finetune" if on_hub else None,
    }
    head |= {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["unlearning", "deleatur"]}
    front = yaml.safe_dump({k: v for k, v in head.items() if v is not None}, sort_keys=False)
    parts = [
        f"---\n{front}---",
        f"# {_escaped(place_last(base).rpartition('/')[2])}, with {_count(results)} unlearned",
        *_forgotten_rows(folder, named),
        *(("## Deletion requests", "\n".join(f"- {line}" for line in requests)) if requests else ()),
        "## How",
        *_method(results, version),
        "## Evidence",
        *_evidence(results),
        "## Limits",
        "\n".join(f"- {line}" for line in LIMITS),
        "## Base model and licence",
        f"Base model: {_escaped(base)}. Licence: {_escaped(licence) if licence else 'not known here; the base model says'}.",
    ]
    return "\n\n".join(parts) + "\n"


def _count(results: RunResults) -> str:
    n = (results["data"].get("forget") or {}).get("rows", 0)
    return f"{n} row{'' if n == 1 else 's'}"


def _forgotten_rows(folder: Folder, named: bool) -> Iterator[str]:
    data = folder.results["data"]
    yield "## What it was trained to forget"
    known = {name: part for name, part in data.items() if part and "sha256" in part}
    yield "\n".join(
        f"- {set_name(name)}: {part.get('rows')}, SHA-256 `{part.get('sha256')}`" for name, part in known.items()
    )
    yield "The hash is of the rows' prompts, answers and spans as JSON, so that whoever has the rows can check it."
    if named:
        rows = [row["question"] or row["answer"] for row in folder.importance]
        yield f"Of the rows to forget, {len(rows)} were evaluated:"
        yield "\n".join(f"- {_escaped(text)}" for text in rows)


def _method(results: RunResults, version: str) -> Iterator[str]:
    run = results["run"]
    yield (
        f"{_escaped(run['loss']['name'])} × {_escaped(run['importance']['name'])} (forget loss × token importance), "
        f"{results['cost'].get('steps', '?')} steps, by deleatur {version}."
    )
    lines = [f"{key}: {json.dumps(plain(value), ensure_ascii=False)[1:-1]}" for key, value in flat(run).items()]
    yield (
        "<details><summary>Every setting</summary>\n\n```yaml\n" + "\n".join(lines).replace("```", "") + "\n```\n</details>"
    )


def _evidence(results: RunResults) -> Iterator[str]:
    found = verdict(results)
    yield f"**{_escaped(found.headline)}.**"
    yield "\n".join(f"- {_escaped(line)}" for line in found.reasons)
    scores = [f"{k.upper()} {results[k]:.1f}" for k in ("fq", "rd", "uq") if results.get(k) is not None]
    if scores:
        yield f"{' · '.join(scores)} (forgotten %, drift on retain %, harmonic mean of the first and 100 − the second)"
    rows = rows_of(results)
    lines = ["| rows | metric | before, % | after, % | n |", "|---|---|---:|---:|---:|"]
    for row in rows:
        before, after = (
            percent(value, se, sign=False) for value, se in ((row.before, row.before_se), (row.after, row.after_se))
        )
        lines.append(f"| {_escaped(set_name(row.set))} | {metric_name(row.metric)} | {before} | {after} | {row.count} |")
    yield "\n".join(lines)
    yield "± one standard error over the n rows. " + "; ".join(
        f"*{name}*: {meaning}" for key, (name, meaning) in METRIC_LABELS.items() if any(row.metric == key for row in rows)
    )
    if found.notes:
        yield "Notes: " + " ".join(map(_escaped, found.notes))


def _escaped(text: str) -> str:
    """As text in Markdown, on one line."""
    marks = "\\`*_{}[]<>()#|!&"
    return "".join(f"\\{c}" if c in marks else c for c in " ".join(str(text).split()))
