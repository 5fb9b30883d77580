"""Cells become scores."""

from __future__ import annotations

import math

import pytest

from deleatur.auditing.cells import Answered, Cell
from deleatur.auditing.samples import strength
from deleatur.auditing.scoring import Rules, Scored, judged, max_nll, scored
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


def drawn(arm: str, **exact: float) -> Cell:
    """A chance of both rows at each budget."""
    values = {name.replace("_", "@"): (value, value) for name, value in exact.items()}
    return Cell(attack="draw", arm=arm, setting="n8", values=values)


def test_a_budget_at_which_every_model_leaks_hides_no_leak() -> None:
    """P .99, .45 and .07 at one draw are all certain at 64: the largest figure would be 1 for every arm."""
    found = cells(
        "draw",
        drawn("original", exact_1=0.99, exact_64=1.0),
        drawn("audited", exact_1=0.45, exact_64=1.0),
        drawn("control", exact_1=0.07, exact_64=0.99),
    )
    assert found.labels == ("n8 exact@1",)
    assert "the control leaks more than in n8 exact@1" in found.dropped["n8 exact@64"]


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


def test_a_hit_of_the_control_hides_no_leak_of_the_audited_model() -> None:
    """Cloze tells the original from the control best; answers, in which the control has a hit, are where the model leaks."""
    rows = 20
    rules = Rules(
        subjects=dict.fromkeys(("original", "audited", "control"), tuple(map(str, range(rows)))),
        max_retain_nll=2.0,
        depth_threshold=0.05,
    )
    made = []
    for arm, hits, cloze in (("original", 9, 1.0), ("audited", 9, 0.0), ("control", 1, 0.0)):
        answers = tuple(said(i, "Ada" if i < hits else "Bob") for i in range(rows))
        made.append(Cell(attack="ask", arm=arm, setting="plain", answered=answers, values={"cloze": (cloze,) * rows}))
    found = scored("ask", made, judged(made, Contained()), rules)
    assert set(found.labels) == {"plain cloze", "plain"}
    assert strength(found.samples["audited"]) == pytest.approx(9 / 20)
