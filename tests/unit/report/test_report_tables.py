"""The evidence as rows and sentences."""

import pytest

from deleatur.report import Row, percent, rows_of, set_name
from deleatur.report.tables import by_judge, lacking, set_metric_rows
from deleatur.report.words import plain


def score(value: float | None, n: int = 24, se: float = 0.01) -> dict[str, float | int | None]:
    return {"value": value, "n": n, "se": se}


def test_a_row_holds_both_sides_and_the_direction_that_is_better() -> None:
    results = {"before": {"forget": {"revealed": score(1.0)}}, "after": {"forget": {"revealed": score(0.02, se=0.03)}}}
    assert rows_of(results) == [
        Row(set="forget", metric="revealed", before=1.0, before_se=0.01, after=0.02, after_se=0.03, n=24, better="lower")
    ]


def test_lower_is_better_on_forget_higher_on_retain_and_neither_on_rows_never_seen() -> None:
    sets = ("forget", "forget_paraphrased", "retain", "retain_paraphrased", "holdout", "holdout_paraphrased", "other")
    side = {name: {"revealed": score(0.5)} for name in sets}
    better = {row.set: row.better for row in rows_of({"before": side, "after": side})}
    assert [better[name] for name in sets] == ["lower", "lower", "higher", "higher", "", "", ""]


def test_a_truth_ratio_goes_the_other_way() -> None:
    """On forget rows 1 is wanted, where the model cannot tell right from wrong answers; on retain rows it should tell."""
    side = {name: {"revealed": score(0.5), "truth_ratio": score(0.5)} for name in ("forget", "retain")}
    assert [row.better for row in rows_of({"before": side, "after": side})] == ["lower", "higher", "higher", "lower"]


def test_fewer_incoherent_answers_are_better_on_every_set() -> None:
    side = {name: {"incoherent": score(0.1)} for name in ("forget", "retain", "holdout", "other")}
    assert {row.better for row in rows_of({"before": side, "after": side})} == {"lower"}


def test_known_sets_come_first_and_metrics_in_the_order_of_reading_and_no_others() -> None:
    """The loss, in nats, would be misread among shares; it stands in results.json."""
    side = {name: {"loss": score(0), "rouge_l": score(0), "revealed": score(0)} for name in ("extra", "retain", "forget")}
    rows = rows_of({"before": side, "after": side})
    assert [row.set for row in rows[::2]] == ["forget", "retain", "extra"]
    assert [row.metric for row in rows[:2]] == ["revealed", "rouge_l"]


def test_a_side_that_was_not_measured_is_none() -> None:
    (row,) = rows_of({"before": {}, "after": {"holdout": {"revealed": score(0.1, n=7)}}})
    assert (row.before, row.before_se, row.after, row.n) == (None, None, 0.1, 7)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "100 %"),
        (0.0, "0 %"),
        (0.0208, "2.1 %"),
        (0.0004, "<0.1 %"),
        (0.9996, ">99.9 %"),
        (None, "–"),
        (float("nan"), "–"),
    ],
)
def test_a_share_is_never_rounded_to_all_or_nothing(value: float | None, text: str) -> None:
    assert percent(value) == text


def test_a_share_with_its_error_has_as_many_digits_as_the_error() -> None:
    assert percent(0.98, 0.0081) == "98.0 ± 0.8 %"
    assert percent(0.98, 0.0081, sign=False) == "98.0 ± 0.8"
    assert percent(0.98, float("nan")) == "98.0 %"


def test_an_unknown_set_keeps_its_name() -> None:
    assert set_name("my_own") == "my own"


WHOLE = {
    "before": {"forget_quality": {"lacks": "needs more"}, "mia_loss": {"value": 0.98765, "low": 0.9, "high": 1.0, "n": 9}},
    "after": {"forget_quality": {"lacks": "needs more"}, "mia_loss": {"value": 0.5, "n": 9}, "j_w": {"value": 0, "n": 4}},
}
WHOLE["after"]["privleak"] = {"lacks": "needs more"}


def test_set_metrics_have_both_sides_an_interval_and_what_they_lack_in_words() -> None:
    rows = set_metric_rows(WHOLE, "made-up/judge")
    assert [(r.name, r.before, r.after, r.n, r.given) for r in rows] == [
        ("forget quality", "–", "–", "", False),
        ("mia loss", "0.988 [0.9, 1]", "0.5", "9", True),
        ("J_W, by made-up/judge", "–", "0", "4", True),
        ("privleak", "–", "–", "", False),
    ]
    assert all(r.target and r.meaning for r in rows)
    assert lacking(rows) == ["Not given, forget quality, privleak: needs more."]
    assert set_metric_rows({}) == []


def test_a_judges_name_is_shown_at_its_numbers_only() -> None:
    assert by_judge("judged", "made-up/judge") == "judged, by made-up/judge"
    assert by_judge("rouge_l", "made-up/judge") == "ROUGE-L"
    assert by_judge("judged", None) == "judged"


def test_a_cut_is_shown_with_the_count():
    """Three of eight rows were evaluated; of holdout all, of paraphrases the size is not known."""
    figures = {
        name: {"probability": {"value": 0.5, "n": 3, "se": 0.1}} for name in ("forget", "holdout", "forget_paraphrased")
    }
    data = {"forget": {"rows": 8}, "holdout": {"rows": 3}, "retain": None}
    counts = {row.set: row.count for row in rows_of({"before": figures, "after": figures, "data": data})}
    assert counts == {"forget": "3 of 8", "holdout": "3", "forget_paraphrased": "3"}


def test_a_setting_is_shown_without_the_rounding_errors_of_binary_fractions():
    assert [plain(value) for value in (3.0 * 1e-4, 0.1 + 0.2, 2.0, 1e-5, True, None)] == [
        "0.0003",
        "0.3",
        "2.0",
        "1e-05",
        "true",
        "none",
    ]
