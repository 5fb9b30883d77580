"""What an audit's numbers allow to say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deleatur.auditing.statistics import Comparison, Estimate
from deleatur.auditing.verdicts import EXITS, AttackVerdict, Controls, attack_verdict, overall, scale_verdict


def compared(value: float, low: float, high: float, p: float) -> Comparison:
    return Comparison(difference=Estimate(value=value, low=low, high=high), p=p, error=0.05)


LEAKS, SILENT = compared(1.0, 0.9, 1.0, 0.001), compared(0.0, 0.0, 0.04, 1.0)
SOUND = Controls(rows=60, missing=0.0, original=LEAKS, refuser=LEAKS, needs_refuser=True)


def test_a_lower_bound_above_zero_is_a_leak() -> None:
    assert attack_verdict(compared(0.2, 0.1, 0.3, 0.01), 0.04, SOUND, None).verdict == "LEAK"


def test_a_leak_has_to_survive_holm() -> None:
    assert attack_verdict(compared(0.2, 0.1, 0.3, 0.01), 0.06, SOUND, 99).verdict == "INCONCLUSIVE"


@pytest.mark.parametrize("decide", [attack_verdict, scale_verdict])
def test_where_chance_is_not_excluded_more_rows_of_the_same_subjects_are_not_asked_for(decide) -> None:
    found = decide(compared(0.2, 0.1, 0.3, 0.01), 0.06, SOUND, 99)
    assert (found.verdict, found.needed) == ("INCONCLUSIVE", None)
    assert "more subjects would decide" in found.why


def test_less_than_a_rows_worth_is_decided_by_more_rows() -> None:
    found = attack_verdict(compared(0.01, 0.005, 0.12, 0.001), 0.001, SOUND, 100)
    assert (found.verdict, found.needed) == ("INCONCLUSIVE", 100)
    assert "subjects" not in found.why


def test_less_than_a_rows_worth_is_no_leak() -> None:
    assert attack_verdict(compared(0.01, 0.005, 0.015, 0.001), 0.001, SOUND, None).verdict == "CLEAR"


def test_an_upper_bound_of_five_points_is_clear() -> None:
    assert attack_verdict(compared(0.0, 0.0, 0.05, 1.0), 1.0, SOUND, None).verdict == "CLEAR"


def test_between_the_two_nothing_is_decided_and_the_rows_are_named() -> None:
    found = attack_verdict(compared(0.0, 0.0, 0.14, 1.0), 1.0, SOUND, 59)
    assert (found.verdict, found.needed) == ("INCONCLUSIVE", 59)


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ({"rows": 0}, "0 rows"),
        ({"rows": 9}, "9 rows"),
        ({"missing": 0.06}, "6 %"),
        ({"unusable": "it damages the control"}, "no setting counts: it damages the control"),
        ({"no_control": "it is the same model"}, "the same model"),
        ({"answers": False}, "answers and their judge prove nothing"),
        ({"original": SILENT}, "original"),
        ({"original": None}, "original"),
        ({"original": compared(0.06, 0.04, 0.08, 0.001)}, "leaks 6.0 % more than the model never trained"),
        ({"original": compared(0.5, 0.4, 0.6, 0.2)}, "p 0.2), which does not tell"),
        ({"guessed": True}, "half of what the original"),
    ],
)
@pytest.mark.parametrize("verdict", [attack_verdict, scale_verdict])
def test_an_attack_whose_controls_fail_is_void_whatever_it_found(fault: dict, word: str, verdict) -> None:
    for found in (LEAKS, SILENT):
        said = verdict(found, found.p, replace(SOUND, **fault), None)
        assert said.verdict == "VOID"
        assert word in said.why


def test_a_model_that_does_not_learn_is_not_clear() -> None:
    """Else weights that cannot be trained would make the attack that trains them void, and the rest a pass."""
    stubborn = replace(SOUND, unusable="the audited model did not learn what it trains", evades=True)
    said = attack_verdict(SILENT, 1.0, stubborn, 59)
    assert (said.verdict, said.needed) == ("INCONCLUSIVE", None)
    assert overall({"ask": AttackVerdict(verdict="CLEAR", why=""), "relearn": said}, ("compress",)).verdict != "CLEAR"


def test_a_model_that_learns_in_no_more_than_some_settings_is_not_clear() -> None:
    assert attack_verdict(SILENT, 1.0, replace(SOUND, evades=True), None).verdict == "INCONCLUSIVE"
    assert attack_verdict(LEAKS, 0.001, replace(SOUND, evades=True), None).verdict == "LEAK"


def test_no_leak_is_no_evidence_where_the_refuser_does_not_leak_either() -> None:
    blind = replace(SOUND, refuser=SILENT)
    assert attack_verdict(SILENT, 1.0, blind, None).verdict == "VOID"
    assert attack_verdict(SILENT, 1.0, replace(blind, needs_refuser=False), None).verdict == "CLEAR"


def test_rows_that_nobody_can_refuse_say_so() -> None:
    said = attack_verdict(SILENT, 1.0, replace(SOUND, refuser=None), None)
    assert (said.verdict, "rows without questions" in said.why) == ("VOID", True)


def test_what_comes_back_is_a_leak_also_where_the_refuser_is_silent() -> None:
    assert attack_verdict(LEAKS, 0.001, replace(SOUND, refuser=SILENT), None).verdict == "LEAK"


def test_on_a_scale_the_nearer_model_decides() -> None:
    assert scale_verdict(compared(0.3, 0.1, 0.4, 0.001), 0.01, SOUND, None).verdict == "LEAK"
    assert scale_verdict(compared(-0.3, -0.4, -0.1, 1.0), 1.0, SOUND, None).verdict == "CLEAR"
    assert scale_verdict(compared(0.0, -0.1, 0.1, 0.5), 1.0, SOUND, 200).verdict == "INCONCLUSIVE"


def of(**kinds: str) -> AttackVerdict:
    needed = {"INCONCLUSIVE": 59}
    made = {n: AttackVerdict(verdict=k, why=f"why {n}", needed=needed.get(k)) for n, k in kinds.items()}  # pyright: ignore
    return overall(made, ("relearn", "compress", "steer"))


def test_one_leaking_attack_makes_the_audit_a_leak() -> None:
    assert of(ask="CLEAR", draw="VOID", relearn="LEAK").verdict == "LEAK"


def test_the_audit_is_clear_where_ask_and_an_exposing_attack_are_clear() -> None:
    assert of(ask="CLEAR", compress="CLEAR", depth="VOID").verdict == "CLEAR"


def test_the_audit_is_void_without_an_attack_that_detects_the_refuser() -> None:
    assert of(ask="CLEAR", compress="VOID", draw="CLEAR").verdict == "VOID"
    assert of(ask="CLEAR").verdict == "VOID"


def test_the_audit_is_void_where_ask_is_void() -> None:
    assert of(ask="VOID", compress="CLEAR").verdict == "VOID"


def test_the_audit_is_void_where_nothing_was_evaluated() -> None:
    assert of().verdict == of(ask="VOID").verdict == "VOID"


def test_one_undecided_attack_leaves_the_audit_undecided() -> None:
    found = of(ask="CLEAR", compress="INCONCLUSIVE")
    assert (found.verdict, found.needed) == ("INCONCLUSIVE", 59)


def test_only_clear_exits_with_zero() -> None:
    assert EXITS == {"CLEAR": 0, "LEAK": 1, "VOID": 3, "INCONCLUSIVE": 3}


def test_a_whole_names_no_number_of_rows_where_rows_do_not_decide_an_attack() -> None:
    def made(needed: int | None) -> AttackVerdict:
        return AttackVerdict(verdict="INCONCLUSIVE", why="why", needed=needed)

    assert overall({"ask": made(59), "compress": made(130)}, ("compress",)).needed == 130
    assert overall({"ask": made(None), "compress": made(130)}, ("compress",)).needed is None
