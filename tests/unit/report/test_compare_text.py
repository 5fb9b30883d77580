"""The table of methods and its four forms."""

import copy
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deleatur.report import ComparedMethod, compare_table
from deleatur.report.compare_forms import to_json, to_latex, to_markdown
from deleatur.report.compare_text import Table


@pytest.fixture
def base(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


@pytest.fixture
def shown(base: dict[str, Any]) -> Callable[..., ComparedMethod]:
    """A method with a run for each dict of changed results."""

    def make(label: str, *changes: dict[str, Any]) -> ComparedMethod:
        runs = [copy.deepcopy(base) | change | {"seed": seed} for seed, change in enumerate(changes or ({},))]
        return ComparedMethod(label=label, results=tuple(runs))

    return make


def column(table: Table, name: str) -> list[str]:
    at = [heading.rstrip(" ↑↓") for heading in table.columns].index(name)
    return [row[at] for row in table.rows]


def bold(table: Table, name: str) -> set[str]:
    at = [heading.rstrip(" ↑↓") for heading in table.columns].index(name)
    return {table.rows[i][0] for i, k in table.best if k == at}


def test_the_best_uq_comes_first_and_none_last(shown: Callable[..., ComparedMethod]) -> None:
    values = {"a": 50.0, "none": None, "b": 70.0, "nan": math.nan, "c": 0.0, "b too": 70.0}
    table = compare_table([shown(label, {"uq": uq}) for label, uq in values.items()])
    assert [row[0] for row in table.rows] == ["b", "b too", "a", "c", "none", "nan"]


def test_a_cell_is_the_mean_over_seeds_and_its_standard_error(shown: Callable[..., ComparedMethod]) -> None:
    """90, 92, 97: mean 93, deviations −3, −1, 4, so s² = 26/2 = 13 and the error is √(13/3) = 2.08."""
    table = compare_table([shown("a", {"fq": 90.0}, {"fq": 92}, {"fq": 97.0}), shown("b", {"fq": 12.34})])
    assert column(table, "FQ") == ["93.0 ± 2.1", "12.3"]
    assert column(table, "seeds") == ["3", "1"]


def test_scores_are_percent_of_the_suites_metric_on_its_sets(shown: Callable[..., ComparedMethod]) -> None:
    """Gone: mean of .2 and .4; kept: .9; in other words only one of the two gone sets was asked, so there is none."""
    after = {name: {"rouge_l": {"value": v, "n": 9, "se": 0.1}} for name, v in (("x", 0.2), ("y", 0.4), ("z", 0.9))}
    after |= {"x_paraphrased": after["x"], "z_paraphrased": after["y"]}
    suite = {
        "name": "made-up",
        "forget_sets": ["x", "y"],
        "retain_sets": ["z"],
        "score": "rouge_l",
        "judge": "made-up/judge",
    }
    table = compare_table([shown("a", {"after": after, "suite": suite})])
    assert (column(table, "forget, %"), column(table, "retain, %")) == (["30.0"], ["90.0"])
    assert column(table, "retain, paraphrased, %") == ["40.0"]
    assert not any("gone in other words" in name for name in table.columns)
    assert "made-up: forget = x, y; retain = z; score = ROUGE-L, judged by made-up/judge." in table.notes


def test_costs_and_agreement_are_read_where_they_stand(shown: Callable[..., ComparedMethod]) -> None:
    cost = {"seconds_per_step": 0.412, "cpu_seconds_per_step": 0.8, "peak_memory_bytes": 3_412_000_000, "steps": 60}
    table = compare_table([shown("a", {"cost": cost}, {"cost": cost})])
    names = ("steps", "s/step", "CPU s/step", "GB", "ROC-AUC")
    found = [column(table, name)[0] for name in names]
    assert found == ["60", "0.41 ± 0.00", "0.80 ± 0.00", "3.4 ± 0.0", "0.963 ± 0.000"]


def test_what_no_run_has_makes_no_column(shown: Callable[..., ComparedMethod]) -> None:
    table = compare_table([shown("a", {"importance": {}, "cost": {}, "before": {}, "after": {}, "uq": None})])
    assert [name.rstrip(" ↑↓") for name in table.columns] == ["method", "seeds", "FQ", "RD"]


def test_set_metrics_have_columns_or_a_reason(shown: Callable[..., ComparedMethod]) -> None:
    whole = [
        {
            "model_utility": {"value": 0.61234, "n": 9},
            "privleak": {"lacks": "needs a retrained model"},
            "p": {"value": -1.5e-9},
        },
        {"model_utility": {"lacks": "needs TOFU's sets"}, "privleak": {"lacks": "needs a retrained model"}},
    ]
    table = compare_table([shown(label, {"set_metrics": {"after": w}}) for label, w in zip("ab", whole, strict=True)])
    assert column(table, "model utility") == ["0.612", "–¹"]
    assert column(table, "p") == ["−1.5e−09", "–²"]
    assert "¹ model utility: needs TOFU's sets." in table.notes
    assert "² p: not measured." in table.notes
    assert "Left out, privleak: needs a retrained model." in table.notes
    assert not any("privleak" in name for name in table.columns)


def test_a_figure_that_some_seeds_lack_says_so(shown: Callable[..., ComparedMethod]) -> None:
    table = compare_table([shown("a", {"fq": 10.0}, {"fq": None}, {"fq": 20.0}), shown("b", {"fq": 1.0}, {"fq": math.inf})])
    assert column(table, "FQ") == ["15.0 ± 5.0¹", "1.0²"]
    assert any(note.startswith("¹ FQ: over 2 seeds only: not defined") for note in table.notes)
    assert "² FQ: over 1 seed only: no finite number." in table.notes


def test_the_best_means_are_marked_by_the_columns_direction(shown: Callable[..., ComparedMethod]) -> None:
    table = compare_table(
        [shown("a", {"fq": 90.0, "rd": 3.0}), shown("b", {"fq": 80.0, "rd": 1.0}), shown("c", {"fq": None})]
    )
    assert bold(table, "FQ") == {"a"}
    assert bold(table, "RD") == {"c"}  # .82, as the others were changed
    assert bold(table, "steps") == set()
    assert bold(table, "UQ") == set()  # all alike


def test_means_that_are_written_alike_are_best_together(shown: Callable[..., ComparedMethod]) -> None:
    table = compare_table([shown("a", {"fq": 90.01}), shown("b", {"fq": 90.02}, {"fq": 90.04}), shown("c", {"fq": 3.0})])
    assert bold(table, "FQ") == {"a", "b"}


def test_a_peers_file_is_compared_with_runs_in_what_both_have(shown: Callable[..., ComparedMethod]) -> None:
    """Its probability has a counterpart and makes a column, its own figure has none; what it does not tell it does not
    tell, and nothing is said of terms that nobody knows."""
    after = {"forget": {"probability": {"value": 0.5, "n": 0, "se": None}, "their own": {"value": 3.0, "n": 0, "se": None}}}
    empty: dict[str, Any] = {key: {} for key in ("before", "importance", "cost", "data", "run")}
    results = empty | {
        "fq": None,
        "rd": None,
        "uq": None,
        "peer": "Peer",
        "after": after,
        "set_metrics": {"after": {"j_w": {"value": 1}}},
    }
    ours = shown("ours", {"set_metrics": {"after": {"j_w": {"value": 0.25}}}})
    table = compare_table([ComparedMethod(label="theirs", results=(results,)), ours])
    assert [row[0] for row in table.rows] == ["ours", "theirs"]
    assert column(table, "probability of forget rows") == ["0.004", "0.500"]
    assert bold(table, "probability of forget rows") == {"ours"}
    assert column(table, "J_W") == ["0.25", "1"]
    assert not any("their own" in name for name in table.columns)
    assert column(table, "UQ")[1] == "–"
    assert any(note.startswith("theirs: as Peer's file has it, – where it has nothing; nothing is") for note in table.notes)
    assert not any("Not on equal terms" in note for note in table.notes)
    for made in (
        to_markdown(table),
        to_latex(table),
        to_json([ours, ComparedMethod(label="theirs", results=(results,))], table),
    ):
        assert "Peer" in made


def test_unequal_terms_come_first_in_the_notes(shown: Callable[..., ComparedMethod], base: dict[str, Any]) -> None:
    table = compare_table([shown("a"), shown("b", {"cost": base["cost"] | {"steps": 7}})])
    assert table.notes[0] == "Not on equal terms: steps is 60 for a; 7 for b."


def test_markdown_has_a_cell_for_every_text_and_escapes_its_marks(shown: Callable[..., ComparedMethod]) -> None:
    table = compare_table([shown("a|b_c*<i>`[x]"), shown("d", {"uq": 1.0})])
    head, rule, first, second, *_ = to_markdown(table).split("\n")
    cells = len(table.columns) + 1
    assert head.count("|") == rule.count("|") == second.count("|") == cells
    assert first.startswith(r"| a\|b\_c\*\<i\>\`\[x\] | 1 |")
    assert "**98.5**" in first
    assert "\n- UQ: harmonic mean of FQ and 100 − RD\n" in to_markdown(table)


def test_latex_is_a_booktabs_tabular_with_nothing_left_to_run(shown: Callable[..., ComparedMethod]) -> None:
    whole = {"after": {"p": {"lacks": "needs more"}, "q": {"value": -2.0}}}
    # q: the first method has none, footnote 1; the second has it for one seed of two, footnote 2
    table = compare_table([shown(r"[a]*\input{x}_$1~^#&%"), shown("b", {"uq": 1.0}, {"uq": 3.0, "set_metrics": whole})])
    text = to_latex(table)
    lines = text.split("\n")
    assert lines[0] == rf"\begin{{tabular}}{{ll{'r' * (len(table.columns) - 2)}}}"
    assert [lines[i] for i in (1, 3, 6, 7)] == [r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}"]
    assert lines[4].startswith(r"{[}a{]}{*}\textbackslash{}input\{x\}\_\$1\textasciitilde{}\textasciicircum{}\#\&\% & 1 & ")
    assert r"\textbf{98.5}" in lines[4]
    assert r"2.0 $\pm$ 1.0" in lines[5]
    assert r"$-$2\textsuperscript{2}" in lines[5]
    assert r"FQ $\uparrow$ & RD $\downarrow$" in lines[2]
    assert all(line.count(" & ") == len(table.columns) - 1 for line in (lines[2], lines[4], lines[5]))
    assert all(line.startswith("%") for line in lines[8:-1])


def test_json_holds_means_and_every_run(shown: Callable[..., ComparedMethod]) -> None:
    runs = [shown("low", {"uq": 1.0}), shown("high", {"uq": 50.0, "fq": None}, {"uq": 60.0, "fq": math.nan})]
    read = json.loads(to_json(runs, compare_table(runs)), parse_constant=pytest.fail)
    assert [m["method"] for m in read["methods"]] == ["high", "low"]
    high = read["methods"][0]
    assert (high["mean"]["UQ"], high["se"]["UQ"], high["mean"]["FQ"]) == (55.0, 5.0, None)
    assert [(r["seed"], r["UQ"], r["FQ"]) for r in high["runs"]] == [(0, 50.0, None), (1, 60.0, None)]
    assert read["notes"] and read["meanings"]["UQ"]


MARKUP = r"</script> <b> <!-- \\ \end{tabular} \input{x} $x$ & % # { } _ ^ ~ | || ` * [x](y) ! ^^M é 🦩".split()
MARKUP += ["\n", "\n\n# h", "\r", "\t", "\0", "\x1b[31m", "\x85", "\u2028", "\u202e", "- x", " "]
names = st.lists(st.sampled_from(MARKUP), min_size=1, max_size=4).map("".join)
MACROS = "begin toprule midrule textbf textbackslash textasciitilde textasciicircum pm times uparrow downarrow textless"
MACROS += " textgreater textsuperscript bottomrule end"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names, names, names, names)
def test_no_name_breaks_out_of_the_tables(
    shown: Callable[..., ComparedMethod], label: str, suite: str, figure: str, lacks: str
) -> None:
    """Names of methods, suites, judges and figures are whatever stands in a file. Each stays in its cell or its note."""
    named = {"name": suite, "forget_sets": ["forget"], "retain_sets": ["retain"], "score": "revealed", "judge": lacks}
    whole = {"after": {figure: {"value": 0.5}, f"no {figure}": {"lacks": lacks}}}
    table = compare_table([shown(label, {"suite": named, "set_metrics": whole}), shown("b")])
    cells, _, notes = to_markdown(table).partition("\n\n")
    assert [len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in cells.split("\n")] == [len(table.columns) + 1] * 4
    assert all(line.startswith("- ") for line in notes.rstrip("\n").split("\n"))
    assert not re.search(r"(?<!\\)(?:\\\\)*[<`]", cells + notes)
    body, _, remarks = to_latex(table).partition("\\end{tabular}\n")
    assert {*re.findall(r"\\([a-zA-Z]+)", body)} <= {*MACROS.split()}
    assert [len(re.findall(r"(?<!\\)&", line)) for line in body.split("\n")[4:6]] == [len(table.columns) - 1] * 2
    assert all(line.startswith("%") for line in remarks.splitlines())
    assert all(c.isprintable() or c in "\n\u202e" for c in (cells + notes + body + remarks))
