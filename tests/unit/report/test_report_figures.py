"""The course of a run as figures."""

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from deleatur.report.figures import MAX_POINTS, charts


def steps(count: int, **fixed: Any) -> list[dict[str, Any]]:
    names = ("loss", "forget_nll", "retain_nll", "importance")
    return [{"step": k, **dict.fromkeys(names, k / count), **fixed} for k in range(1, count + 1)]


def test_no_step_makes_no_figure() -> None:
    assert charts([]) == []


def test_the_three_figures_are_well_formed_and_say_in_words_where_they_begin_and_end() -> None:
    made = charts(steps(4))
    assert [c.title for c in made] == ["Loss", "NLL, nats per token", "Mean importance, forget tokens"]
    assert made[0].caption == "0.25 → 1 from the first to the last step."
    assert made[1].caption == "forget 0.25 → 1, retain 0.25 → 1 from the first to the last step."
    for chart in made:
        assert ElementTree.fromstring(chart.svg).tag == "svg"


def test_colours_come_from_the_page_and_letters_stay_text() -> None:
    for chart in charts(steps(4)):
        assert set(re.findall(r"#[0-9a-f]{6}\b", chart.svg)) <= {"#ffffff", "#000000"}  # of shapes that are not painted
        assert "var(--muted)" in chart.svg
        assert ">step</text>" in chart.svg


def test_the_same_steps_make_the_same_bytes() -> None:
    assert charts(steps(9)) == charts(steps(9))


def test_no_two_figures_share_an_id() -> None:
    ids = [i for chart in charts(steps(5)) for i in re.findall(r' id="([^"]*)"', chart.svg)]
    assert len(ids) == len(set(ids))
    used = {
        u for chart in charts(steps(5)) for u in re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', chart.svg) for u in u if u
    }
    assert used <= set(ids)


def test_a_long_run_is_drawn_as_means_and_says_so() -> None:
    (loss, _, _) = charts(steps(10 * MAX_POINTS))
    assert loss.caption.endswith("; each point is the mean of 10 steps.")
    assert len(loss.svg) < 30_000


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), 1e300, 0.0])
def test_numbers_that_cannot_be_drawn_do_not_stop_the_page(value: float | None) -> None:
    assert len(charts(steps(3, loss=value))) == 3


def test_one_step_is_a_point() -> None:
    assert "<use " in charts(steps(1))[0].svg
