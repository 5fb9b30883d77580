"""The table of methods as Markdown, LaTeX and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from deleatur.report.compare import ComparedMethod
from deleatur.report.compare_columns import cell, columns_of
from deleatur.report.compare_text import Table, ordered
from deleatur.report.words import one_line


def to_markdown(table: Table) -> str:
    """A Markdown table with its notes; the best means are bold."""
    lines = [" | ".join(map(_md, table.columns)), " | ".join(["---", "---", *["---:"] * (len(table.columns) - 2)])]
    for i, row in enumerate(table.rows):
        lines.append(" | ".join(f"**{_md(t)}**" if (i, k) in table.best else _md(t) for k, t in enumerate(row)))
    notes = [*map(_md, table.notes), *(f"{_md(name)}: {_md(meaning)}" for name, meaning in table.meanings)]
    return "\n".join(f"| {line} |" for line in lines) + "\n\n" + "".join(f"- {note}\n" for note in notes)


def to_latex(table: Table) -> str:
    """A tabular for the package booktabs; the best means are bold, notes are comments."""
    lines = [" & ".join(map(_tex, table.columns))]
    for i, row in enumerate(table.rows):
        lines.append(" & ".join(rf"\textbf{{{_tex(t)}}}" if (i, k) in table.best else _tex(t) for k, t in enumerate(row)))
    head, *body = (rf"{line} \\" for line in lines)
    begin = rf"\begin{{tabular}}{{ll{'r' * (len(table.columns) - 2)}}}"
    notes = [f"% {one_line(note)}" for note in table.notes]
    return "\n".join([begin, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", *notes]) + "\n"


def to_json(runs: Sequence[ComparedMethod], table: Table) -> str:
    """Means, standard errors and every run's numbers, in the order of the table, and the notes."""
    columns = columns_of(runs)
    methods = [
        {
            "method": run.label,
            "loss × importance": run.pair,
            "mean": {c.name: cell(run, c).mean for c in columns},
            "se": {c.name: cell(run, c).se for c in columns},
            "runs": [
                {"seed": seed, "place": place} | {c.name: None if isinstance(v := c.of(r), str) else v for c in columns}
                for seed, place, r in zip(run.seeds, run.places or [None] * len(run.seeds), run.results, strict=True)
            ],
        }
        for run in ordered(runs)
    ]
    meanings = dict(table.meanings)
    return json.dumps({"methods": methods, "meanings": meanings, "notes": table.notes}, indent=2, ensure_ascii=False) + "\n"


TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "−": "$-$"}
TEX |= {c: f"\\{c}" for c in "&%$#_{}"} | {"±": r"$\pm$", "×": r"$\times$", "↑": r"$\uparrow$", "↓": r"$\downarrow$"}
TEX |= {c: f"{{{c}}}" for c in "[]*"} | {
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}  # a line break would take [ and * as its own
RAISED = {c: rf"\textsuperscript{{{d}}}" for d, c in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}


def _tex(text: str) -> str:
    return "".join((TEX | RAISED).get(c, c) for c in one_line(text))


def _md(text: str) -> str:
    return "".join(f"\\{c}" if c in r"\`*_[]<>|~#" else c for c in one_line(text))
