"""Records to figures."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deleatur.errors import ConfigError
from deleatur.evaluation.aggregate import answer_notes, lacking_coherence, mean, measure, measure_sets, quality
from deleatur.evaluation.metrics import METRICS, SET_METRICS
from deleatur.evaluation.metrics.table import Evidence
from deleatur.types import Record, Span


def row(said: str, *, question: str = "Where?", logp: float = -1.0) -> Record:
    answer = "In Tessholm."
    spans = (Span(start=3, end=11),)
    shown = {"id": said, "question": question, "answer": answer, "generated": said, "spans": spans}
    return Record(**shown, logp=(logp, logp, 0.0), hit=(True, False, True), ends=True)


class TestMean:
    def test_by_hand(self):
        """Of 1, 2, 3, 6 the mean is 3 and the variance (4 + 1 + 0 + 9)/3, so the standard error is √(14/3)/2."""
        assert mean([1, 2, 3, 6]) == {"value": 3.0, "n": 4, "se": pytest.approx(math.sqrt(14 / 3) / 2)}

    def test_a_single_value_has_no_error(self):
        assert mean([0.3]) == {"value": 0.3, "n": 1, "se": 0.0}

    @given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
    def test_it_is_the_standard_librarys(self, values):
        seen = mean(values)
        assert seen["value"] == pytest.approx(statistics.mean(values))
        assert seen["se"] == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)), abs=1e-12)


class TestMeasure:
    def test_every_metric_is_averaged_over_the_rows_of_its_set(self):
        """Half of the answers say the fact; probability is exp(−⅔) in each row; one of two answer tokens is a hit."""
        figures = measure({"forget": [row("In Tessholm"), row("I do not know")], "retain": [row("Tessholm")]})
        assert list(figures) == ["forget", "retain"]
        lacks = {
            "judged",
            "cut",
            "incoherent",
            "grad_norm",
            "min_k_plus",
            "normalised_probability",
            "accuracy",
            "accuracy_normalised",
        }
        assert set(figures["forget"]) == set(METRICS) - lacks - {"truth_ratio", "truth_ratio_kept"}
        assert list(figures["forget"]) == [name for name in METRICS if name in figures["forget"]]
        assert figures["forget"]["revealed"] == {"value": 0.5, "n": 2, "se": 0.5}
        assert figures["forget"]["probability"] == {"value": pytest.approx(math.exp(-2 / 3)), "n": 2, "se": 0.0}
        assert figures["forget"]["exact_memorisation"]["value"] == 0.5
        assert figures["forget"]["extraction_strength"]["value"] == 0.0
        assert figures["retain"]["revealed"]["n"] == 1

    def test_answers_whose_end_was_not_seen_are_counted_and_said(self):
        rows = [replace(row("Tess"), cut=True), replace(row("Tessholm"), cut=False), row("", question="")]
        assert measure({"forget": rows})["forget"]["cut"] == {"value": 0.5, "n": 2, "se": 0.5}
        assert answer_notes({"forget": rows, "retain": rows[1:]}, 64, "Before: ") == [
            "Before: 1 of 2 answers on forget were cut at 64 tokens (evaluation.new_tokens): what comes later was not seen"
        ]
        assert answer_notes({"forget": rows[1:]}, 64) == []
        (note,) = answer_notes({"forget": [replace(rows[0], beyond=True)]}, 64)
        assert note.endswith("what comes later was not seen; 1 of them are left out of revealed, for their fact comes later")

    def test_rows_to_which_a_metric_does_not_apply_do_not_count(self):
        figures = measure({"mixed": [row("Tessholm"), row("", question="")]})
        assert figures["mixed"]["revealed"] == {"value": 1.0, "n": 1, "se": 0.0}
        assert figures["mixed"]["probability"]["n"] == 2

    def test_a_metric_that_applies_to_no_row_is_left_out(self):
        figures = measure({"texts": [row("", question="")]})
        of_likelihood = {"probability", "loss", "min_k", "zlib", "extraction_strength", "exact_memorisation"}
        assert set(figures["texts"]) == of_likelihood


class TestMeasureWhole:
    def test_it_gives_figures_and_sentences_by_name_in_the_order_asked(self):
        """One of two trained rows is likelier than the row never seen; nothing was retrained."""
        trained, unseen = [row("Tessholm", logp=-0.1), row("Tessholm", logp=-3.0)], [row("Tessholm", logp=-1.0)]
        evidence = Evidence(records={"forget": trained, "holdout": unseen})
        found = measure_sets(evidence, ("mia_loss", "forget_quality", "j_w"))
        assert list(found) == ["mia_loss", "forget_quality", "j_w"]
        assert found["mia_loss"]["value"] == 0.5
        assert found["forget_quality"] == {
            "lacks": "needs a model retrained without the forget rows (--evaluation.retrained)"
        }
        assert found["j_w"] == {"value": 1.0, "n": 1, "se": 0.0, "asked": 2}

    def test_no_set_metrics_are_measured_without_names(self):
        assert measure_sets(Evidence(records={}), ()) == {}

    def test_a_figure_that_does_not_exist_is_refused_with_those_that_do(self):
        with pytest.raises(ConfigError, match=f"mia_los is not a set metric; there are {', '.join(SET_METRICS)}"):
            measure_sets(Evidence(records={}), ("mia_loss", "mia_los"))


NOTHING = dict.fromkeys(("fq", "rd", "uq", "fq_raw", "rd_loss"))


class TestQuality:
    def test_it_is_the_trade_off_of_revealed_on_forget_and_retain(self):
        """Forget 1 → ½ is FQ 50; retain 1 → 1 is RD 0; their harmonic mean with 100 is 66.7."""
        before = measure({"forget": [row("Tessholm")] * 2, "retain": [row("Tessholm")]})
        after = measure({"forget": [row("Tessholm"), row("no")], "retain": [row("Tessholm")]})
        found = {"fq": 50.0, "rd": 0.0, "uq": pytest.approx(200 / 3), "fq_raw": 50.0, "rd_loss": 0.0}
        assert quality(before, after) == found

    def test_an_answer_that_is_incoherent_is_not_forgotten(self):
        """Of four answers one says the fact and one is a loop: F is ½, so FQ is 50, and 75 by the bare score."""
        scored = {"start_nll": 1.0, "shuffled_nll": 8.0, "start_tokens": 9}
        before = measure({"forget": [row("Tessholm")] * 4, "retain": [row("Tessholm")]}, score="revealed")
        said = [replace(row(text), **scored) for text in ("Tessholm", "no " * 9, "In a town", "I do not know")]
        after = measure({"forget": said, "retain": [row("Tessholm")]}, score="revealed")
        assert after["forget"]["unforgotten"] == {"value": 0.5, "n": 4, "se": pytest.approx(1 / math.sqrt(12))}
        found = quality(before, after)
        assert (found["fq"], found["fq_raw"]) == (50.0, 75.0)

    def test_drift_counts_both_directions_and_loss_is_given_separately(self):
        before = measure({"forget": [row("Tessholm")], "retain": [row("Tessholm"), row("no")]})
        after = measure({"forget": [row("no")], "retain": [row("Tessholm")] * 2})
        found = quality(before, after)
        assert (found["rd"], found["rd_loss"], found["uq"]) == (100.0, 0.0, 0.0)

    def test_several_sets_are_pooled_as_the_mean_of_their_values(self):
        """Gone: (1 + ½)/2 → (½ + 0)/2 is FQ 66.7, however many rows a set has; kept: (1 + 1)/2 → (1 + ½)/2 is RD 25."""
        sides = [
            {"a": ["Tessholm"], "b": ["Tessholm", "no"], "c": ["Tessholm"], "d": ["Tessholm"] * 2},
            {"a": ["Tessholm", "no"], "b": ["no", "no"], "c": ["Tessholm"], "d": ["Tessholm", "no"]},
        ]
        before, after = (measure({n: [row(said) for said in rows] for n, rows in side.items()}) for side in sides)
        seen = quality(before, after, forget_sets=("a", "b"), retain_sets=("c", "d"))
        assert (seen["fq"], seen["rd"]) == (pytest.approx(200 / 3), pytest.approx(25))

    def test_a_set_that_lacks_the_metric_leaves_nothing_to_pool(self):
        figures = measure({"forget": [row("Tessholm")], "retain": [row("Tessholm")], "texts": [row("", question="")]})
        for gone, kept in ((("forget", "texts"), ("retain",)), (("forget",), ("retain", "elsewhere"))):
            assert quality(figures, figures, forget_sets=gone, retain_sets=kept) == NOTHING

    def test_of_plain_texts_there_is_none(self):
        texts = measure({"forget": [row("", question="")], "retain": [row("", question="")]})
        assert quality(texts, texts) == NOTHING

    def test_another_metric_can_be_weighed(self):
        before = measure({"forget": [row("x", logp=-0.1)], "retain": [row("x", logp=-0.1)]})
        after = measure({"forget": [row("x", logp=-9.0)], "retain": [row("x", logp=-0.1)]})
        seen = quality(before, after, metric="probability")
        assert seen["fq"] == pytest.approx(100 * (1 - math.exp(-2 / 3 * 8.9)))
        assert seen["rd"] == 0


class TestLackingCoherence:
    def test_it_is_said_where_answers_were_not_scored(self):
        assert "--evaluation.start" in lacking_coherence({"forget": [row("no")]})["no_coherence"]

    def test_there_is_no_note_where_answers_were_scored_or_nothing_was_evaluated(self):
        assert lacking_coherence({"forget": [replace(row("no"), start_tokens=1)]}) == {}
        assert lacking_coherence({"texts": [row("", question="")]}) == {}
