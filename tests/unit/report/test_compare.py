"""Which runs are seeds of one method, and what is said where methods did not meet on equal terms."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deleatur.errors import ConfigError, DataError
from deleatur.report import ComparedMethod, gather
from deleatur.report.compare import unequal

Make = Callable[..., Path]
GRADDIFF: dict[str, Any] = {"loss": {"name": "graddiff", "saturation": 5.0}, "importance": {"name": "uniform"}}
NPO: dict[str, Any] = {"loss": {"name": "npo", "beta": 0.1}, "importance": {"name": "uniform"}}


def settings(method: dict[str, Any], **more: Any) -> dict[str, Any]:
    return method | {"model": "m", "out": "somewhere", "seed": 0, "train": {"lr": 1e-5, "epochs": 5}} | more


def labels(runs: list[ComparedMethod]) -> list[tuple[str, tuple[int, ...]]]:
    return [(run.label, run.seeds) for run in runs]


def test_runs_that_differ_in_seed_and_folder_alone_are_one_method(tmp_path: Path, make: Make) -> None:
    keeps = {1: {"every": 50, "newest": 1}, 0: {"every": None, "newest": 2}}  # checkpoints decide no result
    seeds = [make(tmp_path / f"a-{s}", run=settings(GRADDIFF, seed=s, out=f"a-{s}", keep=keep)) for s, keep in keeps.items()]
    other = make(tmp_path / "b", run=settings(NPO))
    (first, second) = gather([seeds[0], other, seeds[1]])
    assert (first.label, first.seeds) == ("a-1", (0, 1))
    assert first.places == (str(seeds[1]), str(seeds[0]))
    assert (second.label, second.pair) == ("b", "npo × uniform")


@pytest.mark.parametrize(
    "changed", [{"train": {"lr": 2e-5, "epochs": 5}}, {"model": "another"}, {"importance": {"name": "wga"}}]
)
def test_any_other_setting_makes_another_method(tmp_path: Path, make: Make, changed: dict[str, Any]) -> None:
    runs = gather([make(tmp_path / "a", run=settings(NPO)), make(tmp_path / "b", run=settings(NPO, seed=1) | changed)])
    assert labels(runs) == [("a", (0,)), ("b", (1,))]


def test_a_bench_names_its_methods_by_the_folder_of_their_seeds(tmp_path: Path, make: Make) -> None:
    places = [
        make(tmp_path / name / f"seed-{s}", run=settings(m, seed=s))
        for name, m in (("x", NPO), ("y", GRADDIFF))
        for s in (0, 1)
    ]
    assert labels(gather(places)) == [("x", (0, 1)), ("y", (0, 1))]


def test_methods_of_one_name_are_shown_by_full_path(tmp_path: Path, make: Make) -> None:
    one, other = make(tmp_path / "x" / "run", run=settings(NPO)), make(tmp_path / "y" / "run", run=settings(GRADDIFF))
    assert [run.label for run in gather([one, other])] == [str(one), str(other)]


def test_a_result_file_may_name_method_and_seed_itself(tmp_path: Path, folder: Path) -> None:
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    files = [tmp_path / "one.json", tmp_path / "two.v2.json"]
    for path, more in zip(files, ({"method": "mine", "seed": 7}, {}), strict=True):
        path.write_text(json.dumps(results | more), encoding="utf-8")
    mine, two = gather(files)
    (whole,) = gather([folder / "results.json"])
    assert (mine.label, mine.seeds, mine.steps) == ("mine", (7,), ())
    assert (two.label, whole.label) == ("two.v2", "run-1")


def test_the_steps_are_the_first_seeds(tmp_path: Path, make: Make) -> None:
    late = make(tmp_path / "late", run=settings(NPO, seed=5), steps=3)
    early = make(tmp_path / "early", run=settings(NPO, seed=2), steps=4)
    (run,) = gather([late, early])
    assert len(run.steps) == 4


def test_a_name_is_shown_on_one_line_and_can_be_written(tmp_path: Path, make: Make) -> None:
    (run,) = gather([make(tmp_path / "a\n  b\udcff")])
    assert run.label == "a b?"


def test_the_same_run_twice_would_count_twice_and_is_refused(tmp_path: Path, make: Make) -> None:
    one, copy = make(tmp_path / "one", run=settings(NPO)), make(tmp_path / "copy", run=settings(NPO, out="copy"))
    with pytest.raises(ConfigError, match=r"one and .*copy are the same method with seed 0") as caught:
        gather([one, copy])
    assert "\n" not in str(caught.value)


def test_a_comparison_of_nothing_is_refused_in_one_sentence(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    for places in ([], [folder, tmp_path / "empty"], [tmp_path / "nowhere"], [tmp_path / "nowhere.json"]):
        with pytest.raises(ConfigError, match="no finished run") as caught:
            gather(places)
        assert "\n" not in str(caught.value)


def test_a_broken_file_is_named(folder: Path) -> None:
    (folder / "results.json").write_text('{"schema_version": 2', encoding="utf-8")
    with pytest.raises(DataError, match=r"run-1/results\.json is not valid JSON"):
        gather([folder])
    (folder / "results.json").write_text('{"schema_version": 2, "set_metrics": 3}', encoding="utf-8")
    with pytest.raises(DataError, match=r"run-1/results\.json has no 'before'"):
        gather([folder])


def test_methods_on_equal_terms_are_not_warned_of(tmp_path: Path, make: Make) -> None:
    """Loss, importance, rate and weights are a method's own; seeds and folders are nobody's."""
    one = make(tmp_path / "a", run=settings(NPO))
    other = make(tmp_path / "b", run=settings(GRADDIFF, seed=3, out="b", train={"lr": 1e-3, "epochs": 5}))
    assert list(unequal(gather([one, other]))) == []


def test_each_unequal_term_is_said_with_who_had_what(tmp_path: Path, make: Make, folder: Path) -> None:
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    data = results["data"] | {"retain": results["data"]["retain"] | {"sha256": "0123456789abcdef"}}
    del data["holdout"]
    plain = {"evaluation": {"rows": 48}}
    odd = {"data": data, "cost": results["cost"] | {"steps": 61}, "model": {"name": "n"}}
    places = [make(tmp_path / name, run=settings(NPO | {"loss": {"name": name}}, **plain)) for name in "abcd"]
    places.append(make(tmp_path / "e", run=settings(GRADDIFF, evaluation={"rows": 9}), **odd))
    own = results["data"]
    assert set(unequal(gather(places))) == {
        "Not on equal terms: evaluation.rows is 48 for 4 methods; 9 for e.",
        f"Not on equal terms: retain rows is {own['retain']['sha256'][:12]} for 4 methods; 0123456789ab for e.",
        f"Not on equal terms: holdout rows is {own['holdout']['sha256'][:12]} for 4 methods; none for e.",
        "Not on equal terms: steps is 60 for 4 methods; 61 for e.",
        "Not on equal terms: model is made-up/Tiny-135M-Instruct for 4 methods; n for e.",
    }


def test_a_setting_that_older_runs_lack_is_no_difference(tmp_path: Path, make: Make) -> None:
    old, new = settings(NPO), settings(GRADDIFF, judge={"kind": "contained"})
    suite = {"name": "rows", "forget_sets": ["forget"], "retain_sets": ["retain"], "score": "revealed"}
    assert list(unequal(gather([make(tmp_path / "a", run=old), make(tmp_path / "b", run=new, suite=suite)]))) == []


def test_the_judge_is_one_of_the_terms(tmp_path: Path, make: Make) -> None:
    suites = [{"forget_sets": ["forget"], "retain_sets": ["retain"], "score": score} for score in ("revealed", "judged")]
    methods = zip("ab", (NPO, GRADDIFF), suites, strict=True)
    runs = gather([make(tmp_path / name, run=settings(m), suite=suite) for name, m, suite in methods])
    assert list(unequal(runs)) == ["Not on equal terms: suite.score is revealed for a; judged for b."]
