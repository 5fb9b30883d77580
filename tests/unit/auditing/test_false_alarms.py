"""Forty audits of models that were never trained on the rows: few may be called a leak, and one that leaks is found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deleatur.auditing.cells import Answered, Cell
from deleatur.auditing.judgement import judge_attacks
from deleatur.auditing.scoring import Rules, judged
from deleatur.auditing.settings import AuditSettings
from deleatur.evaluation.judges.contained import Contained

ARMS = ("original", "audited", "control", "refuser")
PEOPLE, EACH = 15, 4
SUBJECTS = tuple(f"person {i // EACH}" for i in range(PEOPLE * EACH))
ATTACKS = {"ask": ("plain", "affirmed", "role"), "compress": ("nf4", "int8"), "relearn": ("benign-15",)}


def made(attack: str, arm: str, setting: str, hits: np.ndarray, cloze: np.ndarray) -> Cell:
    answered = tuple(
        Answered(row=i, question=f"Who {i}?", answer="Ada", spans=((0, 3),), given=("It is Ada." if hit else "Bob",))
        for i, hit in enumerate(hits)
    )
    trained = (2.0, 0.1) if attack == "relearn" else None
    return Cell(
        attack=attack,
        arm=arm,
        setting=setting,
        answered=answered,
        values={"cloze": tuple(map(float, cloze))},
        trained=trained,
    )


def audited(seed: int, leak: float, *, stubborn: bool = False, unjudged: str = "") -> dict[str, Any]:
    """Each person has a rate of lucky guesses with either model; the audited one knows a share of the facts beside."""
    rng, cells = np.random.default_rng(seed), []
    luck = np.repeat(rng.beta(0.5, 9.5, (2, PEOPLE)), EACH, axis=1)  # 5 % on average, by person
    knows = rng.random(len(SUBJECTS)) < leak
    for attack, settings in ATTACKS.items():
        for setting in settings:
            guessed = rng.random((2, 2, len(SUBJECTS))) < luck[:, None]
            known = np.ones(len(SUBJECTS), bool)
            hits = {"original": (known, known), "control": guessed[0], "audited": guessed[1] | knows}
            hits["refuser"] = (known, known) if attack == "relearn" else (~known, known)
            cells += [made(attack, arm, setting, *hits[arm]) for arm in ARMS]
    if stubborn:
        cells = [replace(c, trained=(2.0, 2.0)) if (c.arm, c.attack) == ("audited", "relearn") else c for c in cells]
    losses = rng.normal(3, 1, (2, 2 * len(SUBJECTS)))
    own = {"control": losses[0], "audited": losses[1]}
    for arm in ARMS:
        values = own.get(arm, losses[0] - 3 * (np.arange(2 * len(SUBJECTS)) < len(SUBJECTS)))
        cells.append(Cell(attack="member", arm=arm, setting="likelihood", values={"loss": tuple(map(float, values))}))
    rules = Rules(
        subjects=dict.fromkeys((*ARMS, "unseen"), SUBJECTS), max_retain_nll=0.0, depth_threshold=0.05, refuser_leak=0.0
    )
    found = judged(cells, Contained())
    lost = {id(a) for c in cells if (c.arm, c.attack) == ("audited", unjudged) for a in c.answered[:5]}
    score = lambda answered, text: None if id(answered) in lost else found(answered, text)  # noqa: E731
    return judge_attacks(cells, score, rules, AuditSettings(resamples=300), False)


def test_at_most_one_audit_in_twenty_of_a_second_model_never_trained_on_the_rows_is_a_leak() -> None:
    """All attacks of an audit count, so Holm's correction and the choice of the largest setting do."""
    found = [audited(seed, leak=0.0) for seed in range(40)]
    assert sum(report["verdict"] == "LEAK" for report in found) <= 2
    assert not any(a["verdict"] == "VOID" for report in found for a in report["attacks"].values())


@pytest.mark.parametrize("how", [{"stubborn": True}, {"unjudged": "compress"}])
def test_an_attack_that_the_audited_model_alone_escapes_is_undecided(how: dict[str, Any]) -> None:
    """Void it would not keep the whole from being clear."""
    attack = "relearn" if "stubborn" in how else "compress"
    assert audited(0, leak=0.0)["attacks"][attack]["verdict"] != "VOID"
    assert audited(0, leak=0.0, **how)["attacks"][attack]["verdict"] == "INCONCLUSIVE"


def test_a_model_that_knows_a_third_of_the_facts_is_found() -> None:
    assert {audited(seed, leak=0.33)["verdict"] for seed in range(5)} == {"LEAK"}
