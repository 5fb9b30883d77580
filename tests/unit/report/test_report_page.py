"""The page as a reader and a browser get it."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from deleatur.errors import DeleaturError
from deleatur.report import write_report
from deleatur.report.answers import SHOWN
from deleatur.report.page import MAX_HEAT_ROWS, RETAIN_SAMPLES

VOID = {"meta", "br"}
ATTACK = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> &amp; {{ 7 * 7 }}"


class Page(HTMLParser):
    """Tags with their attributes, and the text in elements of class `expected`; fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        classes = dict(attrs).get("class") or ""
        if "expected" in classes.split():
            self.texts.append("")
        if tag not in VOID:
            self.open.append((tag, classes))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        classes = [c for _, names in self.open for c in names.split()]
        if "expected" in classes and "end" not in classes:
            self.texts[-1] += data


def read(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


def rewrite(run: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    rows = [json.loads(line) for line in (run / name).read_text(encoding="utf-8").split("\n") if line]
    for row in rows:
        change(row)
    (run / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_the_report_is_written_into_the_run_folder_and_nothing_else_is(folder: Path) -> None:
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert write_report(folder) == folder / "report.html"
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "report.html"} == before


def test_the_same_run_gives_the_same_bytes(folder: Path) -> None:
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


def test_the_page_loads_nothing_and_runs_no_script(folder: Path) -> None:
    text = read(folder)
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {
        "script",
        "link",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "img",
        "image",
    }
    for _, attributes in page.tags:
        assert not any(name.startswith("on") or name in ("src", "srcset", "action", "data") for name in attributes)
        assert all((attributes.get(name) or "#").startswith("#") for name in ("href", "xlink:href"))
    assert not re.search(r"@import|https?:|url\((?!#)", text)
    policy = next(a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert (policy or "").startswith("default-src 'none';")
    assert "script-src" not in (policy or "")


def test_ids_are_unique_and_every_inner_link_has_its_goal(folder: Path) -> None:
    page = Page(read(folder))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {(a["href"] or "")[1:] for _, a in page.tags if "href" in a} <= set(ids)


def test_the_verdict_comes_before_everything_else(folder: Path) -> None:
    text = Page(read(folder)).text.replace("\N{NO-BREAK SPACE}", " ")
    line = "Revealed on forget rows: 100 % → 2.1 % (n = 24); on retain rows: 97 % → 96.2 % (n = 48)."
    body = text[text.index(line) :]
    assert body.index("Answers before and after") < body.index("Velma Dorrin") < body.index("FQ")
    for word in (
        "97.9",
        "graddiff × learned",
        "134\N{NARROW NO-BREAK SPACE}515\N{NARROW NO-BREAK SPACE}008",
        "4 min 7 s",
        "3.18 GiB",
    ):
        assert word in text


@pytest.mark.parametrize("name", ["importance.jsonl", "records/after.jsonl", "records/before.jsonl"])
def test_what_a_model_or_a_row_says_stays_text(folder: Path, name: str) -> None:
    def attack(row: dict[str, Any]) -> None:
        row.update({key: ATTACK for key in ("id", "question", "answer", "before", "after", "generated") if key in row})

    rewrite(folder, name, attack)
    page = Page(read(folder))
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert name == "records/before.jsonl" or "<script>alert(1)</script>" in page.text


def test_names_in_the_results_and_the_folder_stay_text(tmp_path: Path, make: Callable[..., Path]) -> None:
    score = {"value": 0.5, "n": 1, "se": 0.1}
    run = make(
        tmp_path / "<script>run",
        before={ATTACK: {ATTACK: score}},
        model={"name": ATTACK, ATTACK: ATTACK},
        data={ATTACK: {"source": ATTACK, "sha256": ATTACK, "rows": 3}},
        run={"loss": {"name": ATTACK}, "importance": {"name": ATTACK}, ATTACK: [ATTACK]},
        cost={ATTACK: 1},
        importance={"n": 1, ATTACK: 1},
    )
    assert not {tag for tag, _ in Page(read(run)).tags} & {"script", "img"}


def test_the_tinted_words_are_the_answers_to_the_letter(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "importance.jsonl").read_text(encoding="utf-8").split("\n") if line]
    texts = Page(read(folder)).texts
    assert [row["answer"] for row in rows if row["answer"] not in texts] == []


def test_a_tint_is_the_importance_cut_to_one_and_the_title_says_the_number(folder: Path) -> None:
    def make_two(row: dict[str, Any]) -> None:
        first, second = (
            {"start": 0, "end": 1, "importance": 1.7, "gold": True},
            {"start": 1, "end": 2, "importance": 0.256, "gold": False},
        )
        row.update(answer="ab", tokens=[first, second])  # fmt: skip

    rewrite(folder, "importance.jsonl", make_two)
    text = read(folder)
    assert '<span class="t gold" style="--g:1.00" title="importance 1.70, marked">a</span>' in text
    assert '<span class="t" style="--g:0.26" title="importance 0.26">b</span>' in text


def test_text_of_rows_finds_its_own_direction(folder: Path) -> None:
    page = Page(read(folder))
    said = [a for _, a in page.tags if "said" in (a.get("class") or "").split()]
    assert said
    assert all(a.get("dir") == "auto" for a in said)


def test_rows_beyond_the_most_are_counted(tmp_path: Path, make: Callable[..., Path]) -> None:
    text = read(make(tmp_path / "run", rows=SHOWN + MAX_HEAT_ROWS + 7))
    assert text.count('class="row"') == MAX_HEAT_ROWS + RETAIN_SAMPLES
    assert "7 more forget rows are not shown here" in text


def test_without_spans_there_is_no_agreement_and_nothing_is_underlined(tmp_path: Path, make: Callable[..., Path]) -> None:
    run = make(tmp_path / "run", importance={})

    def unmark(row: dict[str, Any]) -> None:
        for token in row["tokens"]:
            token["gold"] = None

    rewrite(run, "importance.jsonl", unmark)
    text = read(run)
    assert "Agreement" not in text
    assert "underlined" not in text
    assert 'class="t gold"' not in text


@pytest.mark.parametrize(
    ("after", "tone"), [(0.0, "good"), (0.98, "bad"), (0.3, "mixed")], ids=["forgotten", "not forgotten", "partly"]
)
def test_the_tone_of_the_verdict_is_in_its_class_and_in_words(
    tmp_path: Path, make: Callable[..., Path], after: float, tone: str
) -> None:
    """Of 98 % revealed before; the retain rows are as they were, and every answer is language."""
    sides = {
        when: {
            "forget": {"revealed": {"value": value, "n": 24, "se": 0.0}, "incoherent": {"value": 0.0, "n": 24, "se": 0.0}},
            "retain": {"revealed": {"value": kept, "n": 48, "se": 0.0}},
        }
        for when, value, kept in (("before", 0.98, 1.0), ("after", after, 1.0 if tone != "mixed" else 0.5))
    }
    text = read(make(tmp_path / "run", **sides))
    assert f'<section class="verdict {tone}"' in text
    assert re.search(r"<h1>.*(Forgotten, and|Not forgotten|Partly forgotten, but)", text)


def test_headings_go_down_one_rank_at_a_time_and_there_is_one_title(folder: Path) -> None:
    ranks = [int(tag[1]) for tag, _ in Page(read(folder)).tags if re.fullmatch("h[1-6]", tag)]
    assert ranks[0] == 1
    assert ranks.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(ranks))


def test_nothing_has_to_be_scrolled_sideways(folder: Path) -> None:
    """No table is in a scrolled box or has a least width; on narrow screens rows become blocks with their labels."""
    text = read(folder)
    assert 'class="scroll"' not in text
    assert "min-width: 38rem" not in text
    narrow = text[text.index("@media (max-width") :]
    assert "attr(data-label)" in narrow
    assert ".evidence td.move { grid-column" in narrow or "td.move { grid-column" in narrow


def test_a_bare_run_still_makes_a_page(tmp_path: Path, make: Callable[..., Path]) -> None:
    """Nothing measured, no step, no row, no number: every part says so instead of failing."""
    nothing: dict[str, Any] = {"before": {}, "after": {}, "fq": None, "rd": None, "uq": None, "importance": {}}
    nothing |= {"data": {"retain": None}, "cost": {"peak_memory_bytes": None}}
    run = make(tmp_path / "run", rows=0, steps=0, **nothing)
    (run / "records" / "after.jsonl").write_text("", encoding="utf-8")
    text = Page(read(run)).text
    for words in (
        "Nothing was measured",
        "Not defined",
        "No step was taken",
        "No forget rows",
        "No retain rows",
        "not measured",
    ):
        assert words in text


def test_nothing_revealed_is_no_proof_and_the_page_says_how_much_is_left(tmp_path: Path, make: Callable[..., Path]) -> None:
    """Rule of three: 0 of 24 leaves up to 3/24 = 12.5 %, rounded to 12."""
    run = make(tmp_path / "run", after={"forget": {"revealed": {"value": 0.0, "n": 24, "se": 0.0}}})
    assert "up to 12 % of rows of their kind" in read(run)


def test_set_metrics_are_on_the_page_with_what_they_lack_and_the_judge(tmp_path: Path, make: Callable[..., Path]) -> None:
    side = {"privleak": {"lacks": "needs a retrained model"}, "j_w": {"value": 0.25, "n": 4, "asked": 8}}
    suite = {"forget_sets": ["forget"], "retain_sets": ["retain"], "score": "judged", "judge": "made-up/judge"}
    judged = {"forget": {"judged": {"value": 0.5, "n": 4, "se": 0.1}}}
    run = make(tmp_path / "run", set_metrics={"before": side, "after": side}, suite=suite, after=judged)
    text = Page(read(run)).text
    assert text.count("needs a retrained model") == 1  # once for both sides
    assert "J_W, by made-up/judge" in text
    assert "judged, by made-up/judge" in text
    assert "Set metrics" not in read(make(tmp_path / "bare"))


def test_half_of_a_character_is_written_as_one_that_browsers_replace(folder: Path) -> None:
    rewrite(folder, "records/after.jsonl", lambda row: row.update(generated="\ud83d half"))
    assert "&#55357; half" in read(folder)


def test_a_folder_that_cannot_be_written_is_refused(folder: Path) -> None:
    (folder / "report.html").mkdir()
    with pytest.raises(DeleaturError, match="cannot be written"):
        write_report(folder)
    assert not (folder / "report.html.part").exists()
