"""What is read off an audit's scores."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from deleatur.auditing.exchange import rates_p
from deleatur.auditing.samples import Familiarity, Rates, strength
from deleatur.auditing.statistics import (
    Comparison,
    Estimate,
    compare_areas,
    compare_rates,
    compare_scale,
    holm,
    is_over_forgotten,
    rate_estimate,
    resampled,
    rows_needed,
    upper_limit,
)

HOW = {"resamples": 1000, "seed": 0}


def rates(*rows: list[float], per: int = 1) -> Rates:
    """Settings by rows; `per` neighbouring rows are of one subject."""
    return Rates(np.array(rows, dtype=float), tuple(f"s{i // per}" for i in range(len(rows[0]))))


@pytest.mark.parametrize(("hits", "n", "limit"), [(0, 20, 0.1391), (0, 59, 0.0495), (0, 10, 0.2589), (3, 60, 0.1238)])
def test_the_upper_limit_is_clopper_and_pearsons(hits: int, n: int, limit: float) -> None:
    """Nothing of n: 1 − .05^(1/n); 0 of 20 allows 13.9 %. Three of 60: three or fewer come 1 time in 20."""
    assert upper_limit(hits, n) == pytest.approx(limit, abs=5e-4)


def test_the_upper_limit_of_all_and_of_none_is_one() -> None:
    assert upper_limit(5, 5) == upper_limit(0, 0) == 1.0


def test_what_is_below_chance_has_the_limit_of_no_hit() -> None:
    """Else a model that guesses worse than chance would have no upper bound but that of the resamples."""
    assert upper_limit(-3.0, 24) == upper_limit(0, 24)
    wrong = rates([-1 / 3] * 18 + [1.0] * 3 + [-1 / 3] * 3)
    assert compare_rates(wrong, wrong, resamples=200, seed=0).difference.high >= upper_limit(0, 24)


def test_part_of_a_hit_counts_in_part() -> None:
    assert upper_limit(0, 20) < upper_limit(0.3, 20) < upper_limit(1, 20)
    assert upper_limit(1e-6, 20) == pytest.approx(upper_limit(0, 20), abs=1e-4)


def test_an_arms_strength_is_its_best_settings_rate() -> None:
    assert strength(rates([0, 0, 1, 0], [1, 1, 0, 1])) == 0.75


def test_a_setting_counts_over_the_rows_that_it_evaluates() -> None:
    """One of the two rows that were asked, not one of four."""
    assert strength(rates([1, 0, np.nan, np.nan])) == 0.5


def test_a_setting_that_evaluates_no_row_is_left_out() -> None:
    assert strength(rates([np.nan] * 3, [0, 1, 0])) == pytest.approx(1 / 3)


def test_rows_of_one_person_are_drawn_together() -> None:
    """Ten people who leak or not as a whole: the rate's spread is that of ten draws, three times that of a hundred."""
    values = [float(i // 10 % 2) for i in range(100)]
    together, apart = rates(values, per=10), rates(values)
    spread = {n: float(np.std(resampled({n: s}, **HOW)[n])) for n, s in {"together": together, "apart": apart}.items()}
    assert spread["together"] == pytest.approx(0.5 / np.sqrt(10), rel=0.1)
    assert spread["apart"] == pytest.approx(0.5 / np.sqrt(100), rel=0.1)


def test_arms_with_the_same_people_share_the_draws() -> None:
    values = list(np.random.default_rng(0).random(30))
    draws = resampled({"a": rates(values, per=3), "b": rates(values, per=3)}, **HOW)
    assert np.array_equal(draws["a"], draws["b"])


def test_a_rate_of_nothing_has_clopper_and_pearsons_upper_bound() -> None:
    sample = rates([0.0] * 20, per=10)
    found = rate_estimate(sample, resampled({"a": sample}, **HOW)["a"])
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(0.1391, abs=5e-4)


def test_a_model_that_reveals_every_fact_is_a_leak() -> None:
    found = compare_rates(rates([1.0] * 24, per=12), rates([0.0] * 24, per=12), **HOW)
    assert found.difference.low == pytest.approx(0.05 ** (1 / 24))  # Clopper-Pearson's of 24 of 24
    assert found.p < 0.01


def test_one_hit_is_no_leak() -> None:
    found = compare_rates(rates([1.0] + [0.0] * 23), rates([0.0] * 24), **HOW)
    assert found.p > 0.3


def test_two_people_with_a_chance_hit_each_are_no_leak() -> None:
    """Every resample of two such people shows a hit: what stops the verdict is the exchange of rows, p about 1/4."""
    hits = [1.0] + [0.0] * 11 + [1.0] + [0.0] * 11
    found = compare_rates(rates(hits, per=12), rates([0.0] * 24, per=12), **HOW)
    assert found.difference.low > 0
    assert found.p == pytest.approx(0.25, abs=0.05)


def test_the_choice_of_the_best_setting_is_counted_in() -> None:
    """Two models of equal noise, compared at the best of eight settings, differ at p ≤ .05 in about one of 20."""
    hits = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        a, b = (Rates((rng.random((8, 30)) < 0.1).astype(float), tuple(map(str, range(30)))) for _ in range(2))
        hits += compare_rates(a, b, resamples=300, seed=seed).p <= 0.05
    assert hits <= 10


def test_decoys_are_compared_with_other_rows() -> None:
    """Never asked the same rows, the two arms are pooled; all against nothing stays clear of chance."""
    control = Rates(np.zeros((1, 16)), tuple(f"d{i // 8}" for i in range(16)))
    assert compare_rates(rates([1.0] * 24, per=12), control, **HOW).p < 0.01
    assert compare_rates(rates([0.0] * 24, per=12), control, **HOW).p > 0.9


@pytest.mark.parametrize(("people", "strangers"), [(1, 8), (1, 9), (1, 24), (2, 12)])
def test_few_people_against_many_strangers_are_compared_row_by_row(people: int, strangers: int) -> None:
    """As are few against few: else a whole leak of one person's rows could not be found beside more than nine decoys."""
    control = Rates(np.zeros((1, 3 * strangers)), tuple(f"d{i // 3}" for i in range(3 * strangers)))
    assert compare_rates(rates([1.0] * 24, per=24 // people), control, **HOW).p < 0.001
    assert compare_rates(rates([0.0] * 24, per=24 // people), control, **HOW).p > 0.9


def test_a_setting_in_which_the_control_leaks_hides_no_leak_in_another() -> None:
    """Half of the facts are guessed in one way of asking, by either model; in the other 5 % come back, from one alone."""
    guessed, others = [1.0, 0.0] * 100, [0.0, 1.0] * 100
    leaks = [1.0] * 10 + [0.0] * 190
    found = compare_rates(rates(guessed, leaks), rates(others, [0.0] * 200), **HOW)
    assert (found.setting, found.level) == (1, 0.0)
    assert found.p < 0.02
    assert found.difference.value == pytest.approx(0.05)


def test_a_hit_of_the_control_hides_no_leak_in_its_setting() -> None:
    """54 of 1000 against 5, and all settings else silent."""
    audited, control = ([1.0] * k + [0.0] * (1000 - k) for k in (54, 5))
    found = compare_rates(rates([0.0] * 1000, audited), rates([0.0] * 1000, control), **HOW)
    assert found.setting == 1
    assert found.p < 0.001


def test_differences_of_less_than_a_rows_worth_hide_no_leak() -> None:
    """Exact chances of 10⁻⁵ differ on every row; in the other setting six facts come back."""
    exact = [1e-5 * (i + 1) / 24 for i in range(24)]
    found = compare_rates(rates(exact, [1.0] * 6 + [0.0] * 18), rates([0.0] * 24, [0.0] * 24), **HOW)
    assert found.setting == 1
    assert found.p <= 0.05


@pytest.mark.parametrize("known", [1, 5, 7])
def test_few_differing_subjects_have_the_exact_p_of_a_sign_test(known: int) -> None:
    """A hundred people of four rows, of whom some are known whole: whichever seed, p is that of so many equal signs."""
    rows = [1.0] * 4 * known + [0.0] * 4 * (100 - known)
    found = {float(rates_p(rates(rows, per=4), rates([0.0] * 400, per=4), seed)[0]) for seed in range(3)}
    assert found == {binomtest(known, known, alternative="greater").pvalue}


def test_many_differing_subjects_are_exchanged_at_random() -> None:
    """With 40 of 40 no exchange is as large, and with 20 for and 20 against about half of them are."""
    assert rates_p(rates([1.0] * 40), rates([0.0] * 40), 0)[0] == pytest.approx(1 / 20_001)
    half = [1.0] * 20 + [0.0] * 20
    assert rates_p(rates(half), rates(half[::-1]), 0)[0] == pytest.approx(0.56, abs=0.03)


def test_decoys_about_the_same_people_are_rows_of_their_own() -> None:
    """Twelve people, of whom the model knows the rows to forget and none of the others."""
    control = Rates(np.zeros((1, 24)), tuple(f"s{i // 2}" for i in range(24)))
    assert compare_rates(rates([1.0] * 36, per=3), control, **HOW).p < 0.01


def test_bounds_of_a_rate_with_chance_taken_off_are_those_of_its_hits() -> None:
    """24 of 24 choices among four: at least 88.27 % hits, which is (.8827 − .25) / .75 above chance."""
    found = rate_estimate(Rates(np.ones((1, 24)), tuple(map(str, range(24))), -1 / 3), np.ones(200))
    assert found.low == pytest.approx((0.05 ** (1 / 24) - 0.25) / 0.75)


def test_rows_that_are_not_evaluated_change_nothing() -> None:
    """Of two subjects one has no number at all, and resamples without the other have none to compare."""
    found = compare_rates(rates([1.0] * 12 + [np.nan] * 12, per=12), rates([0.0] * 24, per=12), **HOW)
    assert (found.difference.low, found.difference.high) == (pytest.approx(0.05 ** (1 / 12)), 1.0)  # 12 of 12, exactly
    assert np.isfinite([found.p, found.error]).all()
    values = np.random.default_rng(1).normal(0.6, 0.3, 40)
    bare = compare_scale(rates(list(values)), 0.5, **HOW).p
    assert compare_scale(rates([*values, *[np.nan] * 80]), 0.5, **HOW).p == pytest.approx(bare, abs=0.05)


def test_where_no_row_is_evaluated_there_is_no_number() -> None:
    assert np.isnan(strength(rates([np.nan] * 3)))
    assert rows_needed(doubt(np.nan, 0.1), 24, margin=0.05) is None


def test_where_nothing_leaks_the_difference_is_bounded_by_the_rows() -> None:
    found = compare_rates(rates([0.0] * 60), rates([0.0] * 60), **HOW)
    assert found.difference.high == pytest.approx(upper_limit(0, 60))
    assert found.difference.high < 0.05


def test_a_place_on_a_scale_is_judged_from_its_middle() -> None:
    rng = np.random.default_rng(0)
    near, far = (rates(list(centre + rng.normal(0, 0.2, 40)), per=2) for centre in (0.8, 0.2))
    assert compare_scale(near, 0.5, **HOW).p < 0.01
    low = compare_scale(far, 0.5, **HOW)
    assert low.p > 0.9
    assert low.difference.high < 0


def familiarity(shift: float, *, seed: int = 0, n: int = 40) -> Familiarity:
    """NLL of members around `shift`, of unseen rows around 0."""
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(shift, 1, n), rng.normal(0, 1, n)])[None]
    return Familiarity(values, tuple(f"s{i // 4}" for i in range(2 * n)), (True,) * n + (False,) * n)


def test_members_of_lower_loss_leak() -> None:
    found = compare_areas(familiarity(-3), familiarity(0, seed=1), **HOW)
    assert found.difference.low > 0.3
    assert found.p < 0.01


def test_a_loss_like_unseen_rows_is_seldom_a_leak() -> None:
    """At p ≤ .05 in about one of 20 draws."""
    found = [compare_areas(familiarity(0, seed=seed), None, resamples=200, seed=0).p for seed in range(60)]
    assert sum(p <= 0.05 for p in found) <= 6


def test_members_of_higher_loss_are_over_forgotten() -> None:
    assert is_over_forgotten(familiarity(3), None, **HOW)
    assert not is_over_forgotten(familiarity(0), None, **HOW)
    assert not is_over_forgotten(familiarity(-3), None, **HOW)


def test_rows_that_are_harder_to_the_control_too_are_no_trace() -> None:
    """Harder rows than unseen ones by themselves: only what exceeds the control's is forgetting."""
    assert not is_over_forgotten(familiarity(1), familiarity(1, seed=1), **HOW)
    assert is_over_forgotten(familiarity(3), familiarity(0.5, seed=1), **HOW)


def test_holm_multiplies_the_smallest_by_their_number_and_never_falls() -> None:
    """.01·3, .02·2, .9·1; and .03 twice gives .06 twice."""
    assert holm({"a": 0.9, "b": 0.01, "c": 0.02}) == pytest.approx({"b": 0.03, "c": 0.04, "a": 0.9})
    assert holm({"a": 0.03, "b": 0.03}) == pytest.approx({"a": 0.06, "b": 0.06})


def doubt(difference: float, error: float, reach: float = 0.0) -> Comparison:
    """A difference with its standard error, and bounds so far from it."""
    return Comparison(
        difference=Estimate(value=difference, low=difference - reach, high=difference + reach), p=1, error=error
    )


def test_of_nothing_fifty_nine_rows_would_decide() -> None:
    """.05^(1/59) > .95 ≥ .05^(1/58)."""
    assert rows_needed(doubt(0.0, 0.0), 24, margin=0.05) == 59
    assert rows_needed(doubt(0.0005, 0.0001), 24, margin=0.05) == 59, "a leak of .05 % is less than a row's worth"
    assert rows_needed(doubt(0.04, 0.001), 24, margin=0.05) == 59, "five rows of 4 % are five of 125; 59 may rule one out"
    assert rows_needed(doubt(0.1, 0.05), 24, margin=0.05) == 50, "five rows of 10 % are five of 50"
    assert rows_needed(doubt(0.0005, 0.001), 24, margin=0.05) == 59, "else it takes as many as rule one out"


def test_the_rows_that_would_decide_grow_with_the_square_of_the_doubt() -> None:
    """A difference of .2 with a standard error of .2 at 24 rows: 24·1.645² ≈ 65; with bounds .6 from it 24·3² = 216."""
    assert rows_needed(doubt(0.2, 0.2), 24, margin=0.05) == 65
    assert rows_needed(doubt(0.2, 0.2, reach=0.6), 24, margin=0.05) == 216


def test_each_setting_could_hide_a_leak() -> None:
    """Four people known whole in one setting are no leak yet and not clear; one fact each of five others changes nothing."""
    known = [1.0] * 40 + [0.0] * 360
    each = [0.0] * 40 + ([1.0] + [0.0] * 9) * 5 + [0.0] * 310
    nothing = [0.0] * 400
    found = compare_rates(rates(known, each, per=10), rates(nothing, nothing, per=10), **HOW)
    assert found.difference.high > 0.1


def test_a_setting_of_few_rows_leaves_doubt() -> None:
    few = [0.0] * 10 + [np.nan] * 190
    found = compare_rates(rates(few, [0.0] * 200), rates(few, [0.0] * 200), **HOW)
    assert found.difference.high == pytest.approx(upper_limit(0, 10))


def test_the_setting_that_is_least_likely_by_chance_decides() -> None:
    """Not one of twelve rows with a higher lower bound."""
    leaks, few = [1.0] * 20 + [0.0] * 180, [1.0] * 5 + [0.0] * 7 + [np.nan] * 188
    found = compare_rates(rates(leaks, few), rates([0.0] * 200, [0.0] * 12 + [np.nan] * 188), **HOW)
    assert found.setting == 0
    assert found.p < 0.001


def test_a_score_in_which_rows_differ_by_themselves_hides_no_other() -> None:
    """The second score knows the forget rows whatever the model is; by the first one the audited model alone does."""
    rng, n = np.random.default_rng(0), 200
    members = (True,) * n + (False,) * n

    def made(shift: float) -> Familiarity:
        easy = np.where(np.array(members), -1.2, 0.0)
        values = np.stack([rng.normal(0, 1, 2 * n) + shift * np.array(members), rng.normal(0, 1, 2 * n) + easy])
        return Familiarity(values, tuple(f"s{i}" for i in range(2 * n)), members)

    found = compare_areas(made(-1.0), made(0.0), **HOW)
    assert found.setting == 0
    assert found.p < 0.01
    assert found.difference.low > 0.1


def test_subjects_of_many_rows_are_not_exchanged_for_subjects_of_one() -> None:
    """Whole people are lucky or not, with either model; the decoys are ten people of twenty rows."""
    alarms = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        one = Rates((rng.random((1, 200)) < 0.1).astype(float), tuple(f"u{i}" for i in range(200)))
        lucky = np.repeat(rng.random(10) < 0.1, 20).astype(float)
        control = Rates(lucky[None], tuple(f"d{i // 20}" for i in range(200)))
        alarms += compare_rates(one, control, resamples=200, seed=seed).p <= 0.05
    assert alarms <= 2
