"""The page of methods side by side, and its figures."""

import copy
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from deleatur.errors import ConfigError, DataError
from deleatur.report import ComparedMethod, gather, write_comparison
from deleatur.report.compare_figures import Dot, agreement, frontier, labels
from deleatur.report.figures import courses

ATTACK = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> & {{ 7 * 7 }} $x_1$ --> \\input"
PAGE = ("table.md", "table.tex", "table.json", "report.html")


class Tags(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def runs(tmp_path: Path, make: Callable[..., Path]) -> list[ComparedMethod]:
    """Three methods, of which the second has two seeds."""
    places = []
    for name, seed, uq in (("npo", 0, 71.5), ("graddiff", 0, 82.0), ("graddiff", 1, 84.0), ("ceu", 0, None)):
        settings = {"loss": {"name": name}, "importance": {"name": "uniform"}, "seed": seed, "train": {"lr": 1e-5}}
        places.append(make(tmp_path / name / f"seed-{seed}", run=settings, uq=uq))
    return gather(places)


def changed(runs: list[ComparedMethod], **changes: Any) -> list[ComparedMethod]:
    return [
        ComparedMethod(label=run.label, results=tuple(copy.deepcopy(r) | changes for r in run.results), steps=run.steps)
        for run in runs
    ]


def page(runs: list[ComparedMethod], out: Path) -> Tags:
    return Tags(write_comparison(runs, out).read_text(encoding="utf-8"))


def test_four_files_are_written_and_the_page_returned(runs: list[ComparedMethod], tmp_path: Path) -> None:
    out = tmp_path / "new" / "comparison"
    assert write_comparison(runs, out) == out / "report.html"
    assert sorted(p.name for p in out.iterdir()) == sorted(PAGE)


def test_the_same_runs_give_the_same_bytes(runs: list[ComparedMethod], tmp_path: Path) -> None:
    first, second = (write_comparison(runs, tmp_path / name).parent for name in "ab")
    assert [(first / name).read_bytes() for name in PAGE] == [(second / name).read_bytes() for name in PAGE]


def test_the_page_says_who_is_first_and_shows_every_number(runs: list[ComparedMethod], tmp_path: Path) -> None:
    text = page(runs, tmp_path / "out").text
    assert "graddiff has the highest UQ: 83.0 ± 1.0." in text
    assert "Next comes npo with 71.5." in text
    assert "3 methods, 4 runs, on made-up/Tiny-135M-Instruct" in text
    for cell in json.loads((tmp_path / "out" / "table.json").read_text(encoding="utf-8"))["methods"]:
        assert cell["method"] in text


def test_equal_scores_share_a_place(runs: list[ComparedMethod], tmp_path: Path) -> None:
    text = page(changed(runs, uq=9.0), tmp_path / "out").text
    assert "npo, graddiff and ceu share the highest UQ: 9.0." in text
    assert "Next" not in text
    low = [ComparedMethod(label=f"low {i}", results=run.results) for i in range(5) for run in changed(runs[:1], uq=1.0)]
    text = page([*low, *changed(runs[1:2], uq=9.0)], tmp_path / "other").text
    assert "graddiff has the highest UQ: 9.0 ± 0.0." in text
    assert "Next come low 0, low 1, low 2 and 2 more with 1.0." in text


def test_the_page_loads_nothing_and_runs_no_script(runs: list[ComparedMethod], tmp_path: Path) -> None:
    tags = page(runs, tmp_path / "out").tags
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe", "object", "embed", "base", "form", "img", "image"}
    for _, attributes in tags:
        assert not any(name.startswith("on") or name in ("src", "srcset", "action", "data") for name in attributes)
        assert all((attributes.get(name) or "#").startswith("#") for name in ("href", "xlink:href"))
    assert not re.search(r"@import|https?:|url\((?!#)", (tmp_path / "out" / "report.html").read_text(encoding="utf-8"))


def test_ids_are_unique_and_every_inner_link_has_its_goal(runs: list[ComparedMethod], tmp_path: Path) -> None:
    tags = page(runs, tmp_path / "out").tags
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {(a["href"] or "")[1:] for _, a in tags if "href" in a} <= set(ids)


def test_names_of_methods_models_and_settings_stay_text(runs: list[ComparedMethod], tmp_path: Path) -> None:
    odd = changed(
        runs,
        run={"loss": {"name": ATTACK}, "importance": {"name": ATTACK}, ATTACK: ATTACK},
        model={"name": ATTACK},
        set_metrics={"after": {ATTACK: {"lacks": ATTACK}, f"{ATTACK} too": {"value": 1.0}}},
        suite={"name": ATTACK, "forget_sets": ["forget"], "retain_sets": ["retain"], "score": "revealed", "judge": ATTACK},
    )
    odd = [
        ComparedMethod(label=f"{ATTACK} {i}", results=run.results, places=(ATTACK,) * len(run.results), steps=run.steps)
        for i, run in enumerate(odd)
    ]
    odd.append(changed(odd[:1], model={"name": "other"}, cost={"steps": 1})[0])
    found = page(odd, tmp_path / "out")
    assert not {tag for tag, _ in found.tags} & {"script", "img"}
    assert "<script>alert(1)</script>" in found.text


def test_unequal_terms_are_above_the_table(runs: list[ComparedMethod], tmp_path: Path) -> None:
    other = changed(runs[:1], cost={"steps": 3})[0]
    text = page([other, *runs[1:]], tmp_path / "out").text
    assert 0 < text.index("Not on equal terms: steps is") < text.index("Means over seeds")


def test_a_page_of_peers_files_alone_names_no_model_and_no_settings(tmp_path: Path) -> None:
    empty: dict[str, Any] = {key: {} for key in ("before", "importance", "cost", "data", "run")}
    after = {"forget": {"probability": {"value": 0.5, "n": 0, "se": None}}}
    results = empty | {"fq": None, "rd": None, "uq": None, "peer": "Peer", "after": after}
    runs = [ComparedMethod(label=name, results=(results,), places=(f"{name}.json",)) for name in ("one", "two")]
    text = write_comparison(runs, tmp_path / "out").read_text(encoding="utf-8")
    assert "2 methods, 2 runs</p>" in text
    assert "by Peer" in text and "probability of forget rows" in text


def test_a_single_bare_run_still_makes_a_page(runs: list[ComparedMethod], tmp_path: Path) -> None:
    """Nothing measured, no step: no figure, no course, and the page says why there is no first."""
    nothing: dict[str, Any] = {"before": {}, "after": {}, "fq": None, "rd": None, "uq": None, "importance": {}, "cost": {}}
    bare = [ComparedMethod(label=run.label, results=run.results) for run in changed(runs[:1], **nothing)]
    text = page(bare, tmp_path / "out").text
    assert "No method has a UQ" in text
    assert "Figures" not in text
    assert "Course" not in text


def test_the_folder_of_a_run_keeps_its_own_report(folder: Path, runs: list[ComparedMethod]) -> None:
    (folder / "report.html").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="folder of a run"):
        write_comparison(runs, folder)
    assert (folder / "report.html").read_text(encoding="utf-8") == "mine"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, runs: list[ComparedMethod]) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be made"):
        write_comparison(runs, tmp_path / "file" / "out")


def test_courses_are_of_the_best_methods_only(runs: list[ComparedMethod], tmp_path: Path) -> None:
    many = [
        ComparedMethod(label=f"m{i}", results=changed(runs[:1], uq=float(i))[0].results, steps=runs[0].steps)
        for i in range(9)
    ]
    text = page(many, tmp_path / "out").text
    assert "of the 6 methods with the highest UQ" in text
    tags = Tags((tmp_path / "out" / "report.html").read_text(encoding="utf-8")).tags
    assert sum(tag == "figure" for tag, _ in tags) == 6 + 2


def test_the_courses_share_one_scale() -> None:
    """Of equal steps but for a tenfold NLL the lines differ; the marks of the scale are the same."""
    steps = [{"step": k, "loss": 0.0, "forget_nll": k / 4, "retain_nll": 0.1, "importance": 1.0} for k in range(1, 9)]
    high = [s | {"forget_nll": 10 * s["forget_nll"]} for s in steps]
    one, other = courses([("a", steps), ("none", []), ("b", high)])
    assert (one.title, other.title) == ("a", "b")
    marks = [re.findall(r">(\d+)</text>", chart.svg) for chart in (one, other)]
    assert marks[0] == marks[1]
    assert "20" in marks[0]


def test_the_frontier_names_every_method_and_the_model_before(runs: list[ComparedMethod]) -> None:
    chart = frontier(runs)
    assert chart is not None
    assert ElementTree.fromstring(chart.svg).tag == "svg"
    assert "each small ring is one run" in chart.caption
    assert set(re.findall(r">([a-z]+)</text>", chart.svg)) == {"npo", "graddiff", "ceu", "before"}


def test_agreement_is_drawn_from_the_highest_down(runs: list[ComparedMethod]) -> None:
    values = {"npo": 0.3, "graddiff": 0.9, "ceu": 0.5}
    chart = agreement([changed([run], importance={"roc_auc": values[run.label]})[0] for run in runs])
    assert chart is not None
    names = re.findall(r">(npo|graddiff|ceu)</text>", chart.svg)
    assert names == ["npo", "ceu", "graddiff"]  # axes count from below


def test_figures_of_nothing_are_none(runs: list[ComparedMethod]) -> None:
    assert frontier(changed(runs, after={})) is None
    assert agreement(changed(runs, importance={})) is None


def test_no_label_covers_another_a_dot_or_the_edge() -> None:
    """Forty dots, many in rows as equal scores make them."""
    dots = [Dot(name=f"method-{i}", x=37.0 * (i % 8) + 3, y=30.0 * (i // 8) + 3) for i in range(40)]
    made = list(labels(dots, 300.0, 200.0))
    assert made
    for i, label in enumerate(made):
        assert label.x >= 0 and label.y >= 0 and label.x + label.width <= 300 and label.y + label.height <= 200
        assert not any(label.meets(o.x, o.y, o.width, o.height) for o in made[:i])
        assert not any(label.meets(d.x, d.y, 0.0, 0.0) for d in dots if d != label.dot)


def test_dots_that_coincide_share_a_label_and_many_are_counted() -> None:
    dots = [Dot(name=f"m{i}", x=100.0 + 0.1 * i, y=100.0) for i in range(6)]
    (label,) = labels(dots, 300.0, 200.0)
    assert label.text == "m0\nm1\nm2\nand 3 more"


def test_the_first_dots_are_named_first() -> None:
    """Between two dots on axes of a line's height there is room for one name of twenty letters, whosever comes first."""
    left, right = Dot(name="a" * 20, x=5.0, y=6.0), Dot(name="b" * 20, x=120.0, y=6.0)
    assert [label.dot for label in labels([left, right], 125.0, 12.0)] == [left]
    assert [label.dot for label in labels([right, left], 125.0, 12.0)] == [right]
