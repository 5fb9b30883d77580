"""A model fine-tuned on a small world forgets one person of it, and nobody else: the claim of the whole tool, in small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

WAYS = ("--train.batch", "3", "--train.epochs", "10", "--train.gamma", "3", "--evaluation.new-tokens", "24")


def outcome(call, home, model: Path, *more: str) -> dict:
    said = call(*home.forget("run", "--model", model, *WAYS, *more, "--json"))
    assert said.code == 0, said.err
    return json.loads(said.out)


def value(told: dict, side: str, rows: str, metric: str = "revealed") -> float:
    return told[side][rows][metric]["value"]


def lost(told: dict) -> dict[str, float]:
    """Share of the answers' probability that is gone, by set."""
    return {
        rows: 1 - value(told, "after", rows, "probability") / value(told, "before", rows, "probability")
        for rows in told["data"]
    }


def test_atwu_forgets_the_person_and_keeps_the_others(fine_tuned_model, home, call):
    """Bare FQ and RD are what their formulas make of *revealed* before, which is 1, and after."""
    told = outcome(call, home, fine_tuned_model, "--train.lr", "1e-3", "--train.epochs", "20")
    assert value(told, "before", "forget") == value(told, "before", "retain") == 1
    forgotten, kept = value(told, "after", "forget"), value(told, "after", "retain")
    assert forgotten < 0.2
    assert kept > 0.9
    assert (told["fq_raw"], told["rd"]) == (pytest.approx(100 * (1 - forgotten)), pytest.approx(100 * (1 - kept)))
    assert lost(told)["forget"] > 0.9
    assert lost(told)["retain"] < 0.1


@pytest.mark.parametrize("recipe", ["graddiff"])
def test_other_recipes_forget_too_and_damage_retained_rows_less(recipe, fine_tuned_model, home, call):
    gone = lost(outcome(call, home, fine_tuned_model, "--recipe", recipe, "--train.lr", "3e-4"))
    assert gone["forget"] > 0.3
    assert gone["forget"] > 1.3 * gone["retain"]
