"""The search: the recipe first, the published ranges, nothing done twice."""

from __future__ import annotations

import json
import math

import pytest

from deleatur.commands.tuning import read_trials, search, space_of, values_of, with_values
from deleatur.config.recipes import RECIPES
from deleatur.errors import ConfigError, Diverged

RATES = (1e-6, 5e-5)


def run_of(method: str):
    return RECIPES[method].run(model="m", forget="f", retain="r").method


def look(run, log, *, trials=6, value_of, seed=0):
    return search(run, trials=trials, rates=RATES, seed=seed, log=log, value_of=value_of)


def near(target: float):
    """Best where the rate is `target`, by factors."""
    return lambda run: -abs(math.log(run.train.lr / target))


def test_the_ranges_are_those_of_the_paper():
    """2606.06320: lr 1e-6..5e-5, weights .1..5, β .1..10 (NPO .05...2, SimNPO 2..3 with δ 0..2, SatImp 1..10 and .1..5)."""
    npo = space_of(run_of("npo"), RATES)
    assert npo == {
        "train.lr": (1e-6, 5e-5, True),
        "train.alpha": (0.1, 5.0, True),
        "train.gamma": (0.1, 5.0, True),
        "loss.beta": (0.05, 0.2, False),
    }
    assert space_of(run_of("simnpo"), RATES)["loss.delta"] == (0.0, 2.0, False)
    assert {"importance.beta1", "importance.beta2"} <= space_of(run_of("satimp"), RATES).keys()
    assert space_of(run_of("atwu-scorer"), RATES)["loss.saturation"] == (0.1, 10.0, True)


def test_what_a_method_does_without_is_not_searched():
    """No retain term: no alpha. No saturation: none is tried. A retain weight that follows a bound sets itself."""
    assert "train.alpha" not in space_of(run_of("gradascent"), RATES)
    assert "loss.saturation" not in space_of(run_of("graddiff"), RATES)
    assert "train.alpha" not in space_of(run_of("pdu"), RATES)


@pytest.mark.parametrize("method", RECIPES)
def test_every_recipe_starts_inside_the_rates_and_takes_values_back(method):
    run = run_of(method)
    values = values_of(run, RATES)
    assert RATES[0] <= values["train.lr"] <= RATES[1]
    moved = with_values(run, {k: v * 1.01 if k == "train.lr" else v for k, v in values.items()})
    assert moved.train.lr == values["train.lr"] * 1.01
    assert with_values(moved, values_of(run)) == run


def test_the_first_trial_has_the_recipes_own_settings(tmp_path):
    seen = []
    look(run_of("npo"), tmp_path / "t.jsonl", trials=2, value_of=lambda run: seen.append(run) or 0.0)
    assert seen[0] == run_of("npo")
    assert len(seen) == 2


def test_a_single_trial_is_the_recipe_and_need_not_be_run(tmp_path):
    best = look(run_of("npo"), tmp_path / "t.jsonl", trials=1, value_of=lambda run: pytest.fail("nothing to choose"))
    assert best == values_of(run_of("npo"), RATES)


def test_the_best_trial_wins_and_every_value_is_in_its_range(tmp_path):
    log = tmp_path / "t.jsonl"
    best = look(run_of("npo"), log, trials=12, value_of=near(4e-6))
    trials = read_trials(log)
    assert len(trials) == 12
    assert best == max(trials, key=lambda t: t["value"])["values"]
    for trial in trials[1:]:
        for path, (low, high, _) in space_of(run_of("npo"), RATES).items():
            assert low <= trial["values"][path] <= high


@pytest.mark.parametrize("killed", [1, 3, 5])
def test_an_interrupted_search_does_no_trial_twice_and_ends_as_an_uninterrupted_one(killed, tmp_path):
    whole = tmp_path / "whole.jsonl"
    best = look(run_of("npo"), whole, value_of=near(4e-6))
    done = 0

    def dies(run):
        nonlocal done
        done += 1
        if done > killed:
            raise KeyboardInterrupt
        return near(4e-6)(run)

    log = tmp_path / "t.jsonl"
    with pytest.raises(KeyboardInterrupt):
        look(run_of("npo"), log, value_of=dies)
    with log.open("a") as f:
        f.write('{"number": 9, "val')  # a kill in the middle of a line
    again = []
    assert look(run_of("npo"), log, value_of=lambda run: again.append(run) or near(4e-6)(run)) == best
    assert len(again) == 6 - killed
    assert log.read_bytes() == whole.read_bytes()


def test_another_seed_tries_other_values(tmp_path):
    look(run_of("npo"), tmp_path / "a", value_of=near(1e-5), trials=3)
    look(run_of("npo"), tmp_path / "b", value_of=near(1e-5), trials=3, seed=1)
    assert (tmp_path / "a").read_text() != (tmp_path / "b").read_text()


def test_a_trial_that_diverges_is_ranked_last_and_reported(tmp_path):
    def value_of(run):
        if run == run_of("npo"):
            raise Diverged("loss is nan")
        return -100.0

    log = tmp_path / "t.jsonl"
    best = look(run_of("npo"), log, trials=2, value_of=value_of)
    assert best == read_trials(log)[1]["values"]
    assert json.loads(log.read_text().split("\n")[0])["value"] is None


def test_a_search_in_which_all_diverge_says_so(tmp_path):
    def value_of(run):
        raise Diverged("loss is nan")

    with pytest.raises(Diverged, match=r"all 2 trials.*lower --rates"):
        look(run_of("npo"), tmp_path / "t.jsonl", trials=2, value_of=value_of)


def test_without_optuna_one_trial_runs_and_more_are_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    assert look(run_of("npo"), tmp_path / "a", trials=1, value_of=lambda run: 0.0)["train.lr"] == 2.6e-5
    with pytest.raises(ConfigError, match="optuna"):
        look(run_of("npo"), tmp_path / "b", trials=2, value_of=lambda run: 0.0)
