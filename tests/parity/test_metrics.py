"""Every metric against its published definition, restated in metrics_table.py."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from metrics_table import (
    FORMULAS,
    KINDS,
    WHOLE_FORMULAS,
    Case,
    ask,
    cases,
    deviation,
    exact_memorisation,
    main,
    make_answer,
    peers_extraction_strength,
    ratio_of,
    record_of,
    records_of,
    whole_deviation,
)

from deleatur.evaluation.metrics import METRICS, SET_METRICS
from deleatur.evaluation.metrics.memorisation import extraction_strength
from deleatur.evaluation.metrics.table import Evidence
from deleatur.evaluation.metrics.truth import wrong_over_right

CLOSE = 1e-4


def case_of(**changed) -> Case:
    plain = Case(make_answer(5, "half", 7), None, (), True, "A town by the sea.", "A town, a town, a town.")
    return replace(plain, **changed)


def test_every_metric_but_our_own_has_a_formula():
    """revealed, cut, incoherent and nearness are ours; judged and grad_norm are numbers that the record brings along."""
    assert {*FORMULAS, "revealed", "cut", "incoherent", "judged", "grad_norm"} == set(METRICS)
    assert {*WHOLE_FORMULAS, "mia_grad_norm", "j_w", "j_avg", "specific_nll", "other_nll"} == set(SET_METRICS)


@pytest.mark.parametrize("name", [*FORMULAS])
def test_a_metric_is_its_published_definition(name):
    """On answers of 1 to 257 tokens with an end and without, of which all, some or no first choices are right, with ties
    and certain predictions, with 0 to 4 wrong answers."""
    assert all(deviation(name, case) <= CLOSE for case in cases())


@pytest.mark.parametrize("name", [*WHOLE_FORMULAS])
def test_a_set_metric_is_its_published_definition(name):
    assert all(whole_deviation(name, seed) <= CLOSE for seed in range(5))


def test_the_cases_hold_every_edge_that_they_are_there_for():
    made = [(case, record_of(case)) for case in cases()]
    hits = [record.hit[: len(record.hit) - record.ends] for _, record in made]
    assert any(h and all(h) for h in hits)
    assert any(h and not any(h) for h in hits)
    assert any(h and h[-1] and not all(h) for h in hits)
    assert any(not h for h in hits), "an answer of nothing but its end"
    assert {len(record.wrong) for _, record in made} == {0, 1, 2, 3, 4}
    assert any(min(record.deviation) < 1e-3 for _, record in made)
    assert {record.restated is None for _, record in made} == {True, False}


@pytest.mark.parametrize(("kind", "hit"), [("tie before", False), ("tie behind", True)])
def test_a_tie_is_the_first_choice_of_the_lower_id(kind, hit):
    """argmax takes the first of equals, in records as among peers, so a label is hit if the rival's id is higher."""
    case = case_of(answer=make_answer(6, kind, 3))
    record = record_of(case)
    assert set(record.hit) == {hit}
    assert METRICS["exact_memorisation"].of(record) == exact_memorisation(case) == float(hit)


class TestPeersFloor:
    @pytest.mark.parametrize("kind", KINDS)
    def test_extraction_strength_is_the_peers_but_where_the_last_token_is_wrong(self, kind):
        for seed in range(20):
            case = case_of(answer=make_answer(2 + seed, kind, seed))
            record = record_of(case)
            n = len(record.logp) - 1
            ours, peers = extraction_strength(record), peers_extraction_strength(case)
            if record.hit[-2]:
                assert ours == pytest.approx(peers)
            else:
                assert (ours, peers) == (0.0, pytest.approx(1 / n))

    def test_a_model_that_knows_nothing_scores_the_mean_of_1_over_n_with_the_peers(self):
        """Answers of 4 and 8 tokens: (1/4 + 1/8)/2, where ours is 0."""
        blank = [case_of(answer=make_answer(n + 1, "none", n)) for n in (4, 8)]
        assert sum(map(peers_extraction_strength, blank)) / 2 == pytest.approx(0.1875)
        assert [extraction_strength(record_of(case)) for case in blank] == [0.0, 0.0]


def test_the_peers_ratio_is_the_inverse_of_tofus():
    """OpenUnlearning's wrong / right, in which 1e-10 is added to the right one, times TOFU's right / wrong is 1."""
    ratios = [case for case in cases() if case.wrong]
    assert ratios
    assert all(wrong_over_right(record_of(case)) * ratio_of(case) == pytest.approx(1, rel=1e-3) for case in ratios)


def test_words_differ_from_nltks_at_contractions_alone():
    """RWKU's NLTK has do + n't where we have don + ' + t: nine pairs of its words, ten of ours, each once."""
    case = case_of(said="I don't know the town by the old sea")
    assert FORMULAS["fluency"](case) == pytest.approx((2 / 3 * math.log2(9) + 4 / 3 * math.log2(8)) / 2)
    assert METRICS["fluency"].of(record_of(case)) == pytest.approx((2 / 3 * math.log2(10) + 4 / 3 * math.log2(9)) / 2)


@pytest.mark.parametrize("name", ["forget_quality", "mia_reference", "privleak"])
def test_nothing_distinguishes_the_retrained_model_from_itself(name):
    """p = 1; every difference of losses is 0 and half of the pairs tie; no distance of the attack from itself."""
    records = records_of(ask(0))
    figure = SET_METRICS[name].of(Evidence(records=records, retrained=records))
    assert figure["value"] == {"forget_quality": 1.0, "mia_reference": 0.5, "privleak": 0.0}[name]


def test_the_table_has_a_line_for_each(capsys):
    main()
    said = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert said == ["metric", *FORMULAS, *WHOLE_FORMULAS]
