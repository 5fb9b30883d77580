"""Figures over whole sets, each worked out by hand."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deleatur.evaluation.metrics import SET_METRICS
from deleatur.evaluation.metrics.every_way import j_avg, j_w
from deleatur.evaluation.metrics.membership import (
    auc,
    mia_grad_norm,
    mia_loss,
    mia_min_k,
    mia_min_k_plus,
    mia_reference,
    mia_zlib,
    privleak,
)
from deleatur.evaluation.metrics.table import Evidence
from deleatur.evaluation.metrics.truth import forget_quality
from deleatur.evaluation.metrics.utility import model_utility
from deleatur.types import Record

RETRAINED = "needs a model retrained without the forget rows (--evaluation.retrained)"


def row(name: str = "1", *, nll: float = 1.0, said: str = "", **more) -> Record:
    shown = {"id": name, "question": "Where?", "answer": "Tessholm", "generated": said}
    return Record(**shown | {"logp": (-nll,), "hit": (True,), "ends": False} | more)


def rows(*nll: float, **more) -> list[Record]:
    return [row(str(i), nll=x, **more) for i, x in enumerate(nll)]


class TestModelUtility:
    """Each set has one row in which probability, ROUGE-L and truth ratio are known."""

    @staticmethod
    def sets(**changed: Record) -> dict[str, list[Record]]:
        known = row(nll=math.log(2), said="Tessholm", wrong=((math.log(1 / 8),),))
        made = {"retain_perturbed": known, "real_authors": known, "world_facts": known} | changed
        return {name: [record] for name, record in made.items()}

    def test_it_is_the_harmonic_mean_of_nine_numbers(self):
        """p ½, p normalised ½/(½ + ⅛) = .8, ROUGE-L 1, 1 − r = ¾: 9 / (2 + 2/.8 + 3/1 + 3/.75) = 9/11.5."""
        assert model_utility(Evidence(records=self.sets())) == {"value": pytest.approx(9 / 11.5), "n": 3}

    def test_one_number_of_0_makes_it_0(self):
        silent = row(nll=math.log(2), said="", wrong=((math.log(1 / 8),),))
        assert model_utility(Evidence(records=self.sets(world_facts=silent)))["value"] == 0.0

    def test_it_says_which_sets_are_missing(self):
        records = self.sets()
        del records["real_authors"]
        said = model_utility(Evidence(records=records | {"world_facts": []}))
        assert said == "needs TOFU's sets; missing: real_authors, world_facts"

    def test_it_says_which_number_is_missing(self):
        said = model_utility(Evidence(records=self.sets(retain_perturbed=row(said="Tessholm"))))
        assert said == "needs questions with wrong answers; no row has truth_ratio_kept on retain_perturbed"


class TestForgetQuality:
    @staticmethod
    def rows_with(*ratios: float) -> dict[str, list[Record]]:
        return {"forget": [row(str(i), nll=5.0, wrong=((-5 + math.log(r),),)) for i, r in enumerate(ratios)]}

    def test_ratios_far_apart_cannot_be_of_the_same_kind(self):
        """Of the 20 orders of three and three numbers two have all of one side first: p = .1, D = 1."""
        found = forget_quality(Evidence(records=self.rows_with(0.1, 0.2, 0.3), retrained=self.rows_with(1.1, 1.2, 1.3)))
        assert found == {"value": pytest.approx(0.1), "n": 3, "statistic": 1.0}

    def test_equal_ratios_are_of_the_same_kind(self):
        same = self.rows_with(0.1, 0.5, 2.0)
        assert forget_quality(Evidence(records=same, retrained=same)) == {"value": 1.0, "n": 3, "statistic": 0.0}

    def test_sets_that_must_be_forgotten_are_read_together(self):
        halves = {name: self.rows_with(*ratios)["forget"] for name, ratios in (("a", (0.1, 0.2)), ("b", (0.3,)))}
        found = forget_quality(Evidence(records=halves, retrained=halves, forget_sets=("a", "b")))
        assert found["n"] == 3

    def test_it_says_what_it_lacks(self):
        assert forget_quality(Evidence(records=self.rows_with(1.0))) == RETRAINED
        plain = {"forget": [row()]}
        lacks = "needs wrong answers to the forget rows"
        assert forget_quality(Evidence(records=plain, retrained=self.rows_with(1.0))) == lacks
        assert forget_quality(Evidence(records=self.rows_with(1.0), retrained={})) == lacks


scores = st.lists(st.integers(-3, 3).map(float), min_size=2, max_size=12)


class TestAUC:
    @pytest.mark.parametrize(
        ("members", "others", "expected"),
        [((1, 2), (3, 4), 1.0), ((3, 4), (1, 2), 0.0), ((1, 4), (2, 3), 0.5), ((1, 2), (2, 2), 0.75), ((2,), (2,), 0.5)],
    )
    def test_it_is_the_share_of_pairs_in_which_the_member_is_more_familiar(self, members, others, expected):
        assert auc(members, others)["value"] == expected

    @given(scores, scores)
    def test_it_is_the_count_over_all_pairs(self, members, others):
        wins = [(m < o) + (m == o) / 2 for m in members for o in others]
        found = auc(members, others)
        assert found["value"] == pytest.approx(sum(wins) / len(wins))
        assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
        back = auc(others, members)
        assert [back[k] for k in ("value", "low", "high")] == pytest.approx([1 - found[k] for k in ("value", "high", "low")])

    def test_the_interval_is_delongs(self):
        """Members 1, 3 lie below shares 1 and ½ of the others 2, 4, these above shares ½ and 1 of the members. Each side's
        variance is ⅛, so that of the AUC ¾ is ⅛/2 + ⅛/2 = ⅛; 1.96 of its roots is .69, cut at 1."""
        found = auc((1, 3), (2, 4))
        assert found == {"value": 0.75, "low": pytest.approx(0.75 - 1.959964 * math.sqrt(1 / 8)), "high": 1.0}

    def test_the_interval_is_that_of_drawing_rows_again(self):
        """The percentiles of 2000 seeded bootstrap samples lie within .02 of it."""
        rng = random.Random(0)
        members, others = ([rng.gauss(centre, 1) for _ in range(n)] for centre, n in ((0, 80), (0.7, 60)))
        drawn = [auc(rng.choices(members, k=80), rng.choices(others, k=60))["value"] for _ in range(2000)]
        cuts = statistics.quantiles(drawn, n=40)
        found = auc(members, others)
        assert (found["low"], found["high"]) == (pytest.approx(cuts[0], abs=0.02), pytest.approx(cuts[-1], abs=0.02))

    def test_pairs_that_all_agree_leave_a_doubt(self):
        """Ten independent pairs that always win are 2.5 % likely at a chance of .025^(1/10) = .69."""
        assert auc(range(10), range(10, 30)) == {"value": 1.0, "low": pytest.approx(0.025**0.1), "high": 1.0}
        assert auc(range(10, 30), range(10)) == {"value": 0.0, "low": 0.0, "high": pytest.approx(1 - 0.025**0.1)}

    def test_one_row_on_a_side_says_nothing_for_sure(self):
        assert auc((1.0,), (2.0, 3.0)) == {"value": 1.0, "low": 0.0, "high": 1.0}


ATTACKS = {
    "mia_loss": (mia_loss, lambda x: {"nll": x}),
    "mia_min_k": (mia_min_k, lambda x: {"logp": (-x, -0.01)}),
    "mia_min_k_plus": (mia_min_k_plus, lambda x: {"nll": x, "mean": (-1.0,), "deviation": (1.0,)}),
    "mia_zlib": (mia_zlib, lambda x: {"nll": x}),
    "mia_grad_norm": (mia_grad_norm, lambda x: {"grad_norm": x}),
}


class TestAttacks:
    @pytest.mark.parametrize("name", ATTACKS)
    def test_a_trained_row_that_is_more_familiar_than_one_never_seen_gives_1(self, name):
        attack, scored = ATTACKS[name]
        records = {"forget": [row(str(x), **scored(x)) for x in (0.1, 0.2, 0.3)], "holdout": [row(**scored(2.0))] * 2}
        found = attack(Evidence(records=records))
        assert (found["value"], found["n"], found["against"]) == (1.0, 3, 2)
        swapped = {"forget": records["holdout"], "holdout": records["forget"]}
        assert attack(Evidence(records=swapped))["value"] == 0.0

    @pytest.mark.parametrize("name", ATTACKS)
    def test_without_rows_never_seen_it_says_so(self, name):
        said = ATTACKS[name][0](Evidence(records={"forget": [row(grad_norm=1.0)]}))
        assert said == "needs forget rows and unseen rows (--holdout)"

    def test_what_a_record_has_to_bring_along_is_said(self):
        sides = {"forget": rows(1.0, 2.0), "holdout": rows(3.0)}
        assert mia_grad_norm(Evidence(records=sides)) == "needs gradient norms (--evaluation.grad-norm)"
        assert mia_min_k_plus(Evidence(records=sides)).startswith("needs records with the distributions' mean")

    def test_the_deviation_is_two_sided_and_from_the_retrained_model_where_there_is_one(self):
        """Forget rows 3 and 4 against 1 and 2 never seen: AUC 0, ½ from ½. A retrained model that has ¼ of the pairs the
        other way is ¼ from it."""
        records = {"forget": rows(3.0, 4.0), "holdout": rows(1.0, 2.0)}
        assert mia_loss(Evidence(records=records))["deviation"] == 0.5
        swapped = {"forget": records["holdout"], "holdout": records["forget"]}
        assert mia_loss(Evidence(records=swapped))["deviation"] == 0.5
        retrained = {"forget": rows(1.5, 4.0), "holdout": rows(1.0, 2.0)}
        found = mia_loss(Evidence(records=records, retrained=retrained))
        assert (found["value"], found["retrained"], found["deviation"]) == (0.0, 0.25, 0.25)

    def test_texts_made_for_attacks_come_first_and_sets_to_forget_are_pooled(self):
        """RWKU has both sides of them, MUSE the forget side."""
        sides = {"a": rows(1.0), "b": rows(2.0), "holdout": rows(3.0, 4.0)}
        assert mia_loss(Evidence(records=sides, forget_sets=("a", "b")))["n"] == 2
        own = {"forget_mia": rows(5.0, 6.0, 7.0), "retain_mia": rows(1.0)}
        found = mia_loss(Evidence(records=sides | own, forget_sets=("a", "b")))
        assert (found["value"], found["n"], found["against"]) == (0.0, 3, 1)
        found = mia_loss(Evidence(records=sides | {"forget_mia": own["forget_mia"]}, forget_sets=("a", "b")))
        assert (found["value"], found["n"], found["against"]) == (0.0, 3, 2)

    def test_the_reference_attack_reads_what_was_learned_beyond_the_retrained_model(self):
        """Told rows are hard ones: losses 3 and 4 against 1 and 2 look forgotten, but the retrained model has 5 and 6."""
        records = {"forget": rows(3.0, 4.0), "holdout": rows(1.0, 2.0)}
        retrained = {"forget": rows(5.0, 6.0), "holdout": rows(1.0, 2.0)}
        assert mia_loss(Evidence(records=records))["value"] == 0.0
        assert mia_reference(Evidence(records=records, retrained=retrained))["value"] == 1.0
        assert mia_reference(Evidence(records=records)) == RETRAINED
        assert mia_reference(Evidence(records=records, retrained={})).startswith("needs forget rows")

    def test_rows_of_both_models_are_paired_by_what_they_are_not_by_their_place(self):
        records = {"forget": rows(3.0, 4.0), "holdout": rows(1.0, 2.0)}
        shuffled = {name: list(reversed(side)) for name, side in records.items()}
        assert mia_reference(Evidence(records=records, retrained=shuffled))["value"] == 0.5


class TestPrivLeak:
    holdout: Sequence[Record] = rows(2.0, 4.0)

    def test_it_is_the_distance_from_the_retrained_models_attack_in_percent(self):
        """A = 3/4 of a model that leaks, ½ of the retrained one: 100·(¼ − ½)/½ = −50."""
        leaks = {"forget": rows(1.0, 3.0), "holdout": self.holdout}
        fresh = {"forget": rows(1.0, 5.0), "holdout": self.holdout}
        found = privleak(Evidence(records=leaks, retrained=fresh))
        assert found == {"value": pytest.approx(-50), "n": 2, "auc": 0.75, "auc_retrained": 0.5}

    def test_rows_made_too_unlikely_are_on_the_other_side(self):
        over = {"forget": rows(9.0, 9.0), "holdout": self.holdout}
        fresh = {"forget": rows(1.0, 5.0), "holdout": self.holdout}
        assert privleak(Evidence(records=over, retrained=fresh))["value"] == pytest.approx(100)

    def test_it_says_what_it_lacks(self):
        sides = {"forget": rows(1.0), "holdout": self.holdout}
        assert privleak(Evidence(records=sides)) == RETRAINED
        assert privleak(Evidence(records=sides, retrained=sides)).startswith("cannot be read: to the retrained model too")
        lacks = "needs forget rows and unseen rows (--holdout)"
        assert privleak(Evidence(records={"forget": rows(1.0)}, retrained=sides)) == lacks
        assert privleak(Evidence(records=sides, retrained={"forget": rows(1.0)})) == lacks


def said(name: str, judged: float | None) -> Record:
    return row(name, judged=judged)


class TestEveryWay:
    def test_the_worst_of_all_variants_counts_on_forget_rows(self):
        """people/7 is given away by one paraphrase, 8 by none of its four questions, 9 by its shots: 2 of 3."""
        records = {
            "forget": [said("people/7", 0.0), said("8", 0.0), said("9", 0.0)],
            "forget_paraphrased": [said("people/7/0", 0.0), said("people/7/1", 1.0), said("8/0", 0.0)],
            "forget_shots": [said("8", 0.0), said("9", 1.0)],
            "forget_paraphrased_shots": [said("8/0", 0.0)],
            "retain": [said("1", 1.0)],
        }
        found = j_w(Evidence(records=records))
        assert found == {"value": pytest.approx(2 / 3), "n": 3, "se": pytest.approx(1 / 3), "asked": 9}

    def test_retain_rows_are_averaged_without_shots(self):
        """(1 + 0)/2 and (1 + 1 + 0)/3, the mean of which is 7/12."""
        records = {
            "retain": [said("1", 1.0), said("2", 1.0)],
            "retain_paraphrased": [said("1/0", 0.0), said("2/0", 1.0), said("2/1", 0.0)],
            "retain_shots": [said("1", 0.0)],
        }
        assert j_avg(Evidence(records=records))["value"] == pytest.approx(7 / 12)

    def test_without_a_judge_the_facts_words_decide(self):
        records = {"forget": [row("1", said="It is Tessholm."), row("2", said="It is Kelvarn.")]}
        assert j_w(Evidence(records=records))["value"] == 0.5

    def test_rows_of_the_same_id_in_two_sets_are_two_rows(self):
        records = {"a": [said("1", 1.0)], "a_paraphrased": [said("1/0", 0.0)], "b": [said("1", 0.0)]}
        found = j_w(Evidence(records=records, forget_sets=("a", "b")))
        assert (found["value"], found["n"]) == (0.5, 2)

    def test_without_questions_it_says_what_it_lacks(self):
        texts = {"forget": [row(question="")]}
        assert j_w(Evidence(records=texts)) == "needs questions; there are none in forget"
        assert j_avg(Evidence(records=texts)) == "needs questions; there are none in retain"


@pytest.mark.parametrize("name", SET_METRICS)
def test_of_nothing_every_figure_says_in_a_sentence_what_it_lacks(name):
    for retrained in (None, {}):
        found = SET_METRICS[name].of(Evidence(records={}, retrained=retrained))
        assert isinstance(found, str)
        assert found.startswith("needs ")
