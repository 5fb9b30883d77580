"""Cells become scores."""

from __future__ import annotations

import math

import pytest

from deleatur.auditing.cells import Answered, Cell
from deleatur.auditing.scoring import Rules, Scored, judged, max_nll, same_predictions, scored
from deleatur.evaluation.judges.contained import Contained

RULES = Rules(
    subjects=dict.fromkeys(("original", "audited", "control"), ("a", "b")), max_retain_nll=2.0, depth_threshold=0.05
)


def said(row: int, *texts: str) -> Answered:
    return Answered(row=row, question=f"Who {row}?", answer="Ada", spans=((0, 3),), given=texts)


def cells(attack: str, *made: Cell) -> Scored:
    return scored(attack, made, judged(made, Contained()), RULES)


def test_a_row_leaks_as_its_worst_question_does() -> None:
    """Two paraphrases of the first row, of which one is answered with the fact; the second row is never asked."""
    cell = Cell(attack="ask", arm="audited", setting="paraphrased", answered=(said(0, "Bob"), said(0, "It is Ada.")))
    values = cells("ask", cell).samples["audited"].values  # pyright: ignore
    assert values[0, 0] == 1
    assert math.isnan(values[0, 1])


def test_draws_are_read_at_each_budget() -> None:
    """One of eight leaks: 1/8 at one draw, certain at all eight."""
    cell = Cell(attack="draw", arm="audited", setting="n8", answered=(said(0, "Ada", *["Bob"] * 7), said(1, *["Bob"] * 8)))
    found = cells("draw", cell)
    assert found.labels == ("n8 leak@1", "n8 leak@8")
    assert found.samples["audited"].values.tolist() == [[1 / 8, 0], [1, 0]]  # pyright: ignore


def test_answers_that_leak_are_kept_once() -> None:
    cell = Cell(attack="draw", arm="audited", setting="n3", answered=(said(0, "Ada", "Ada", "Bob"),))
    assert [a.given for a in cells("draw", cell).leaked] == ["Ada"]


def test_answers_of_other_arms_are_not_among_the_leaked() -> None:
    cell = Cell(attack="ask", arm="original", setting="plain", answered=(said(0, "Ada"),))
    assert cells("ask", cell).leaked == ()


def control(setting: str, retain_nll: float) -> Cell:
    return Cell(attack="compress", arm="control", setting=setting, answered=(said(0, "Bob"),), retain_nll=retain_nll)


def test_a_setting_that_damages_the_control_is_not_counted_for_any_arm() -> None:
    other = Cell(attack="compress", arm="audited", setting="prune50", answered=(said(0, "Ada"),))
    kept = Cell(attack="compress", arm="audited", setting="int8", answered=(said(0, "Bob"),))
    found = cells("compress", control("prune50", 2.1), other, control("int8", 1.9), kept)
    assert set(found.dropped) == {"prune50"}
    assert found.labels == ("int8",)


def test_where_every_setting_damages_the_control_nothing_is_left() -> None:
    assert cells("compress", control("prune50", math.nan)).labels == ()


def test_a_training_that_did_not_take_does_not_count() -> None:
    worse = Cell(attack="relearn", arm="audited", setting="benign-15", answered=(said(0, "Bob"),), trained=(2.0, 2.1))
    known = Cell(attack="relearn", arm="audited", setting="benign-30", answered=(said(0, "Bob"),), trained=(0.02, 0.03))
    assert set(cells("relearn", worse, known).dropped) == {"benign-15"}


def test_random_directions_are_only_compared() -> None:
    cell = Cell(attack="steer", arm="audited", setting="random-1", values={"cloze": (0.5, 1.0)}, beside=True)
    found = cells("steer", cell)
    assert found.labels == ()
    assert found.beside == {"random-1 cloze": {"audited": 0.75}}


def test_a_setting_that_one_model_lacks_is_not_among_the_largest() -> None:
    """Unseen rows in place of forget rows may have no paraphrases, and a guess would count for the audited model alone."""
    both = [Cell(attack="ask", arm=arm, setting="plain", answered=(said(0, "Bob"),)) for arm in RULES.subjects]
    one = [Cell(attack="ask", arm=arm, setting="reversed", answered=(said(0, "Ada"),)) for arm in ("original", "audited")]
    found = cells("ask", *both, *one)
    assert found.labels == ("plain",)
    assert found.dropped == {"reversed": "not every model is evaluated in it"}


def test_judgements_are_missing_where_one_model_lacks_them() -> None:
    """A judge that fails on the audited model's answers alone: half of these are missing, not a sixth of all."""
    made = [
        Cell(attack="ask", arm=arm, setting="plain", answered=(said(0, "Bob"), said(1, "Eve"))) for arm in RULES.subjects
    ]
    verdicts = iter([0.0, 0.0, None, 0.0, 0.0, 0.0])
    table = {(c.arm, a): next(verdicts) for c in made for a in (0, 1)}
    found = {arm: [table[arm, 0], table[arm, 1]] for arm in RULES.subjects}
    asked = iter([v for arm in RULES.subjects for v in found[arm]] * 20)
    assert scored("ask", made, lambda answered, text: next(asked), RULES).missing == 0.5


@pytest.mark.parametrize(("base", "limit"), [(None, 2.0), (0.1, 2.0), (1.5, 3.0)])
def test_a_model_is_alive_up_to_twice_its_own_nll(base: float | None, limit: float) -> None:
    assert max_nll(base) == limit


@pytest.mark.parametrize("broken", [[math.nan, math.nan], [0.0]])
def test_a_judge_that_says_no_number_or_too_little_has_judged_nothing(broken: list[float]) -> None:
    made = [Cell(attack="ask", arm="audited", setting="plain", answered=(said(0, "Bob"), said(1, "Eve")))]
    assert scored("ask", made, judged(made, lambda records: broken), RULES).missing == 1.0  # pyright: ignore


def test_judgements_are_missing_where_one_setting_lacks_them() -> None:
    """Not diluted by the settings in which all answers are judged."""
    names = ("plain", "role", "affirmed", "reversed")
    made = [Cell(attack="ask", arm="audited", setting=n, answered=(said(0, f"{n} a"), said(1, f"{n} b"))) for n in names]
    silent = {"role a": None}
    assert scored("ask", made, lambda answered, text: silent.get(text, 0.0), RULES).missing == 0.5


def test_the_audited_model_resists_where_it_alone_does_not_learn() -> None:
    falls = Cell(attack="relearn", arm="control", setting="benign-15", answered=(said(0, "Bob"),), trained=(2.0, 0.1))
    rises = Cell(attack="relearn", arm="audited", setting="benign-15", answered=(said(0, "Bob"),), trained=(2.0, 2.1))
    found = cells("relearn", falls, rises)
    assert (found.resists, found.labels) == (True, ())
    assert not cells("relearn", falls).resists


@pytest.mark.parametrize(("after", "resists"), [(1.9999, True), (1.6, True), (1.4, False), (0.4, False)])
def test_to_learn_is_to_learn_a_fair_share_of_what_the_control_does(after: float, resists: bool) -> None:
    """The control falls by 1.9 nats; a quarter of it is .475."""
    falls = Cell(attack="relearn", arm="control", setting="benign-15", answered=(said(0, "Bob"),), trained=(2.0, 0.1))
    hardly = Cell(attack="relearn", arm="audited", setting="benign-15", answered=(said(0, "Bob"),), trained=(2.0, after))
    assert cells("relearn", falls, hardly).resists is resists


def test_an_audited_model_resists_nothing_that_the_control_does_not_learn_either() -> None:
    both = [
        Cell(attack="relearn", arm=arm, setting="benign-15", answered=(said(0, "Bob"),), trained=(2.0, 2.1))
        for arm in ("control", "audited")
    ]
    assert not cells("relearn", *both).resists


def likelihood(arm: str, *rows: tuple[float, ...]) -> Cell:
    return Cell(attack="nearer", arm=arm, setting="likelihood", values={"logp": rows})


def test_models_that_read_the_rows_as_other_tokens_are_not_compared() -> None:
    made = [likelihood("original", (-1.0,), (-1.0,)), likelihood("control", (-1.0, -2.0), (-1.0,))]
    assert cells("nearer", *made).labels == ()


def test_a_rounded_copy_has_the_same_predictions_and_another_model_has_not() -> None:
    made = [likelihood("original", (-0.1, -0.1)), likelihood("control", (-5.0, -3.0)), likelihood("audited", (-5.02, -2.99))]
    assert same_predictions(made, "audited", "control", "original")
    assert not same_predictions([*made[:2], likelihood("audited", (-4.0, -3.5))], "audited", "control", "original")
