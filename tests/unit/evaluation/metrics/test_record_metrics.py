"""Metrics of one record, each worked out by hand."""

from __future__ import annotations

import math
import unicodedata
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deleatur.evaluation.judges.contained import Contained
from deleatur.evaluation.metrics import METRICS
from deleatur.evaluation.metrics.accuracy import accuracy, accuracy_normalised
from deleatur.evaluation.metrics.familiarity import grad_norm, min_k, min_k_plus, zlib_loss
from deleatur.evaluation.metrics.fluency import fluency, repetitiveness
from deleatur.evaluation.metrics.memorisation import exact_memorisation, extraction_strength
from deleatur.evaluation.metrics.probability import loss, normalised_probability, probability
from deleatur.evaluation.metrics.revealed import judged, revealed
from deleatur.evaluation.metrics.rouge import rouge_1, rouge_l
from deleatur.evaluation.metrics.truth import truth_ratio, truth_ratio_kept, wrong_over_right
from deleatur.types import Record, Span

ANSWER = "Runa Feldt was born in Tessholm."


def make(**changed) -> Record:
    given = {
        "id": "1",
        "question": "Where was she born?",
        "answer": ANSWER,
        "generated": "",
        "logp": (-1.0,),
        "hit": (True,),
    }
    return Record(**(given | {"ends": False} | changed))


def marked(*texts: str, keep: bool = False, answer: str = ANSWER) -> tuple[Span, ...]:
    return tuple(Span(start=answer.index(t), end=answer.index(t) + len(t), keep=keep) for t in texts)


def hits(pattern: str, *, ends: bool = True) -> Record:
    """1 for a first choice that is right; the last one stands for the end of turn where there is one."""
    return make(hit=tuple(c == "1" for c in pattern), ends=ends)


def test_an_answer_cut_before_the_right_one_comes_to_the_fact_reveals_neither_all_nor_nothing():
    cut = make(generated="Runa Feldt was", spans=marked("Tessholm"), cut=True)
    assert revealed(cut) == 0
    assert revealed(make(generated="Runa Feldt was", spans=marked("Tessholm"), cut=True, beyond=True)) is None


class TestProbability:
    def test_it_is_the_geometric_mean_of_the_tokens_probabilities(self):
        """½ · ¼ · 1 has the third root ½."""
        record = make(logp=(math.log(1 / 2), math.log(1 / 4), 0.0))
        assert probability(record) == pytest.approx(0.5)

    def test_the_end_of_turn_counts(self):
        assert probability(make(logp=(0.0, math.log(1 / 9)), ends=True)) == pytest.approx(1 / 3)

    @given(st.lists(st.floats(-50, 0), min_size=1, max_size=20))
    def test_it_is_between_the_least_and_the_most_likely_token(self, logp):
        value = probability(make(logp=tuple(logp)))
        assert math.exp(min(logp)) * (1 - 1e-9) <= value <= math.exp(max(logp)) * (1 + 1e-9)

    def test_the_loss_is_its_logarithm_the_other_way_round(self):
        record = make(logp=(-0.5, -1.5, -4.0), ends=True)
        assert loss(record) == pytest.approx(2.0)
        assert probability(record) == pytest.approx(math.exp(-2))


def logs(*probabilities: float) -> tuple[float, ...]:
    return tuple(map(math.log, probabilities))


class TestAgainstWrongAnswers:
    """The right answer ¼ · 1 has the geometric mean ½, the wrong ones ⅛ and ½ · ½, of another length, have ⅛ and ½."""

    record = make(logp=logs(1 / 4, 1), wrong=(logs(1 / 8), logs(1 / 2, 1 / 2)))

    def test_normalised_probability_is_the_right_ones_share(self):
        """½ of ½ + ⅛ + ½."""
        assert normalised_probability(self.record) == pytest.approx(4 / 9)

    def test_the_ratio_averages_wrong_answers_geometrically(self):
        """√(⅛ · ½) is ¼, over ½."""
        assert wrong_over_right(self.record) == pytest.approx(1 / 2)
        assert truth_ratio(self.record) == pytest.approx(1 / 2)
        assert truth_ratio_kept(self.record) == pytest.approx(1 / 2)

    def test_an_answer_in_other_words_replaces_the_answer(self):
        """It has 1/16: r is 4, and its inverse ¼ says how far from 1."""
        record = make(logp=self.record.logp, wrong=self.record.wrong, restated=logs(1 / 16))
        assert wrong_over_right(record) == pytest.approx(4)
        assert truth_ratio(record) == pytest.approx(1 / 4)
        assert truth_ratio_kept(record) == 0.0
        assert normalised_probability(record) == pytest.approx(4 / 9)

    def test_equally_likely_answers_cannot_be_distinguished(self):
        record = make(logp=logs(0.3, 0.3), wrong=(logs(0.3),) * 3)
        assert truth_ratio(record) == pytest.approx(1)
        assert truth_ratio_kept(record) == pytest.approx(0, abs=1e-9)
        assert normalised_probability(record) == pytest.approx(1 / 4)

    def test_vanishing_probabilities_still_give_numbers(self):
        record = make(logp=(-2000.0,), wrong=((-2000.0,), (-1.0,)))
        values = [f(record) for f in (normalised_probability, truth_ratio, truth_ratio_kept)]
        assert all(v is not None and 0 <= v <= 1 for v in values)

    def test_accuracy_compares_sums_and_its_normalised_form_means(self):
        """Sums −1.39 against −2.08 and −1.39, a tie; means −0.69 against −2.08 and −0.69, a tie too. A tie is no answer."""
        assert accuracy(self.record) == 0.0
        likelier = make(logp=logs(1 / 4, 0.999), wrong=(logs(1 / 8), logs(0.26)))
        assert (accuracy(likelier), accuracy_normalised(likelier)) == (0.0, 1.0)
        assert accuracy(make(logp=logs(1 / 2), wrong=(logs(1 / 3), logs(0.9, 0.1)))) == 1.0

    def test_accuracy_compares_what_wrong_answers_were_made_of(self):
        """The original wording is likelier than the wrong answers, the restated one, from which those were made, is not."""
        record = make(logp=(-1.0,), restated=(-5.0,), wrong=((-2.0,), (-6.0,)))
        assert (accuracy(record), accuracy_normalised(record)) == (0.0, 0.0)
        assert accuracy(make(logp=(-9.0,), restated=(-1.0,), wrong=((-2.0,),))) == 1.0

    def test_without_wrong_answers_there_is_none_of_these(self):
        named = ("normalised_probability", "truth_ratio", "truth_ratio_kept", "accuracy", "accuracy_normalised")
        assert [METRICS[name].of(make(restated=(-1.0,))) for name in named] == [None] * 5


class TestFamiliarity:
    @pytest.mark.parametrize(
        ("logp", "expected"),
        [
            ((-1.0, -5.0, -2.0, -3.0, -4.0), 4.5),  # 40 % of five are two: 5 and 4
            ((-1.0, -5.0, -2.0, -3.0), 5.0),  # of four, one and a half: one
            ((-1.0, -5.0), 5.0),  # of two, less than one: one
            ((-2.0,), 2.0),
        ],
    )
    def test_min_k_is_the_mean_nll_of_the_least_likely_tokens(self, logp, expected):
        assert min_k(make(logp=logp)) == expected
        assert min_k(make(logp=(*logp, -99.0), ends=True)) == expected, "the end of turn does not count"

    def test_min_k_plus_is_in_deviations_from_the_mean(self):
        """(−4 + 2)/½ = −4, (−1 + 2)/1 = 1, 0: the 40 % of three are one, and −(−4) is 4."""
        record = make(logp=(-4.0, -1.0, -2.0), mean=(-2.0, -2.0, -2.0), deviation=(0.5, 1.0, 3.0))
        assert min_k_plus(record) == pytest.approx(4)

    def test_a_certain_distribution_has_a_deviation_of_a_thousandth(self):
        assert min_k_plus(make(logp=(-0.002,), mean=(-0.001,), deviation=(0.0,))) == pytest.approx(1.0)

    def test_an_answer_of_nothing_but_its_end_has_neither(self):
        record = make(logp=(-1.0,), ends=True, mean=(-1.0,), deviation=(1.0,))
        assert (min_k(record), min_k_plus(record)) == (None, None)

    def test_records_without_a_mean_have_no_min_k_plus(self):
        assert min_k_plus(make(logp=(-1.0, -2.0))) is None

    def test_zlib_loss_is_the_loss_over_the_packed_bytes(self):
        record = make(answer="süß " * 40, logp=(-1.0, -3.0))
        assert zlib_loss(record) == 2 / len(zlib.compress(("süß " * 40).encode()))
        assert zlib_loss(record) > zlib_loss(make(answer="".join(map(chr, range(200, 360))), logp=(-1.0, -3.0)))

    def test_grad_norm_and_judged_are_the_records_own(self):
        assert (grad_norm(make(grad_norm=2.5)), grad_norm(make())) == (2.5, None)
        assert (judged(make(judged=0.25)), judged(make())) == (0.25, None)


class TestFluency:
    def test_words_that_all_differ_have_the_most(self):
        """Five words are four pairs and three triples: H₂ = 2 bits, H₃ = log₂ 3."""
        expected = (2 / 3 * 2 + 4 / 3 * math.log2(3)) / 2
        assert fluency(make(generated="one two three four five")) == pytest.approx(expected)

    def test_repetitiveness_is_the_sum_of_which_it_is_half(self):
        assert repetitiveness(make(generated="one two three four five")) == pytest.approx(2 / 3 * 2 + 4 / 3 * math.log2(3))

    def test_one_word_over_and_over_has_none(self):
        assert fluency(make(generated="novels " * 50)) == 0.0

    def test_pairs_and_triples_count_by_how_often_they_occur(self):
        """a b a b a: pairs ab, ba twice each, 1 bit; triples aba twice and bab once, log₂ 3 − 2/3 bits."""
        expected = (2 / 3 * 1 + 4 / 3 * (math.log2(3) - 2 / 3)) / 2
        assert fluency(make(generated="a b a b a")) == pytest.approx(expected)

    @pytest.mark.parametrize("said", ["", "Tessholm", "…"])
    def test_fewer_than_two_words_have_none(self, said):
        assert fluency(make(generated=said)) == 0.0

    def test_scripts_without_blanks_are_read_sign_by_sign(self):
        assert fluency(make(generated="他生于北京市")) == fluency(make(generated="他 生 于 北 京 市")) > 1

    def test_without_a_question_there_is_none(self):
        assert fluency(make(question="", generated="one two three")) is None

    @given(st.text(alphabet="abc xyz.", max_size=60))
    def test_it_is_at_least_0_and_at_most_the_logarithm_of_the_words(self, said):
        words = max(1, len(said))
        assert 0 <= fluency(make(generated=said)) <= math.log2(words) + 1e-9


class TestExtractionStrength:
    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("11111", 1.0),  # all of four
            ("00000", 0.0),
            ("11101", 0.0),  # the last answer token is wrong: nothing to the end is right
            ("01111", 0.75),
            ("10111", 0.5),
            ("00010", 0.25),  # the end of turn does not count
            ("11", 1.0),  # one token
            ("01", 0.0),
            ("10", 1.0),
        ],
    )
    def test_it_is_the_share_of_the_answer_that_follows_by_itself(self, pattern, expected):
        """1 − k/n, k the first of n tokens from which all first choices are right."""
        assert extraction_strength(hits(pattern)) == expected

    def test_without_an_end_of_turn_every_token_counts(self):
        assert extraction_strength(hits("0011", ends=False)) == 0.5

    def test_an_answer_of_nothing_but_its_end_has_none(self):
        assert extraction_strength(hits("1")) is None
        assert exact_memorisation(hits("1")) is None

    @given(st.lists(st.booleans(), min_size=1, max_size=30))
    def test_it_is_never_more_than_exact_memorisation(self, pattern):
        """The right tail is a part of what is right; the two agree at 0 hits and at all."""
        record = make(hit=tuple(pattern))
        strength, exact = extraction_strength(record), exact_memorisation(record)
        assert 0 <= strength <= exact <= 1
        assert (exact == 1) == (strength == 1)
        by_definition = next((1 - k / len(pattern) for k in range(len(pattern) + 1) if all(pattern[k:])), None)
        assert strength == pytest.approx(by_definition)


def test_exact_memorisation_is_the_share_of_right_first_choices_at_any_place():
    """Of 1, 0, 1, 1 three are right; the end of turn does not count."""
    assert exact_memorisation(hits("10110")) == 0.75
    assert exact_memorisation(hits("1011", ends=False)) == 0.75
    assert exact_memorisation(hits("0001")) == 0.0


class TestRouge:
    @pytest.mark.parametrize(
        ("generated", "expected"),
        [
            (ANSWER, 1.0),
            ("", 0.0),
            ("Tessholm", 1 / 6),
            ("Born in Tessholm was Runa Feldt", 3 / 6),  # the longest common subsequence is "born in tessholm"
            ("runa FELDT, was bearing in TESSHOLM and more and more and more", 5 / 6),  # recall: what is added costs nothing
        ],
    )
    def test_it_is_the_recall_of_the_longest_common_subsequence(self, generated, expected):
        assert rouge_l(make(generated=generated)) == pytest.approx(expected)

    def test_words_are_compared_by_their_stems(self):
        """admires, admired → admir"""
        assert rouge_l(make(answer="many admired books", generated="many admires book")) == 1.0

    def test_rouge_1_does_not_ask_for_an_order(self):
        assert rouge_1(make(generated="Tessholm in born was Feldt Runa")) == 1.0
        assert rouge_1(make(generated="Runa, Runa, Runa")) == pytest.approx(1 / 6)

    def test_without_a_question_there_is_none(self):
        assert rouge_l(make(question="")) is None
        assert rouge_1(make(question="")) is None


class TestRevealed:
    def test_it_is_the_share_of_the_spans_that_the_answer_says(self):
        spans = marked("Runa Feldt", "Tessholm")
        assert revealed(make(spans=spans, generated="She comes from Tessholm.")) == 0.5
        assert revealed(make(spans=spans, generated="Runa Feldt? In Tessholm!")) == 1.0
        assert revealed(make(spans=spans, generated="I do not know.")) == 0.0
        assert revealed(make(spans=spans, generated="")) == 0.0

    def test_a_piece_has_to_occur_as_complete_words_in_order(self):
        spans = marked("Runa Feldt")
        for said in ("Feldt Runa", "Runa the Feldt", "Runa Feldtmann", "Aruna Feldt", "Runa"):
            assert revealed(make(spans=spans, generated=said)) == 0.0, said

    def test_what_the_question_gives_away_does_not_count(self):
        record = make(question="Where was Runa Feldt born?", spans=marked("Runa Feldt", "Tessholm"))
        assert revealed(make(**fields(record, generated="Runa Feldt was born in Kelvarn."))) == 0.0
        assert revealed(make(**fields(record, generated="In Tessholm."))) == 1.0

    def test_pieces_in_the_question_count_where_all_are_in_it(self):
        record = make(question="Was Runa Feldt born in Tessholm?", spans=marked("Runa Feldt", "Tessholm"))
        assert revealed(make(**fields(record, generated="Yes, in Tessholm."))) == 0.5

    def test_a_piece_that_is_marked_twice_counts_once(self):
        answer = "Runa, Runa of Tessholm"
        spans = (Span(start=0, end=4), Span(start=6, end=10), *marked("Tessholm", answer=answer))
        assert revealed(make(answer=answer, spans=spans, generated="Tessholm")) == 0.5

    def test_without_spans_it_is_the_share_of_content_words(self):
        """Content of "Runa Feldt was born in Tessholm.": runa, feldt, born, tessholm; "born" is in the question."""
        assert revealed(make(generated="Feldt was not in it")) == pytest.approx(1 / 3)

    def test_an_answer_of_stop_words_alone_is_compared_by_them(self):
        assert revealed(make(question="Did she?", answer="No, not so.", generated="no")) == pytest.approx(1 / 3)

    def test_spans_to_keep_are_no_fact_to_hide(self):
        """Beside spans to forget they do not count; alone they leave the answer's content words."""
        both = (*marked("Tessholm"), *marked("Runa Feldt", keep=True))
        assert revealed(make(spans=both, generated="Runa Feldt")) == 0.0
        assert revealed(make(spans=marked("Runa Feldt", keep=True), generated="Tessholm")) == pytest.approx(1 / 3)

    def test_case_and_punctuation_make_no_difference(self):
        spans = marked("Runa Feldt")
        for said in ("RUNA FELDT", "runa-feldt", "“Runa”  Feldt…", "Runa\nFeldt's"):
            assert revealed(make(spans=spans, generated=said)) == 1.0, said

    @pytest.mark.parametrize(
        ("fact", "said"),
        [
            ("Zoë Ångström", unicodedata.normalize("NFD", "zoë ångström")),
            ("Straße", "STRASSE"),
            ("ﬁnland", "Finland"),
            ("Ｒｕｎａ", "runa"),
            ("ΣΊΣΥΦΟΣ", "σίσυφος"),
            ("فارس الدلمون", "هو فارس الدلمون."),
        ],
    )
    def test_the_encoding_of_letters_makes_no_difference(self, fact, said):
        answer = f"X {fact}"
        assert revealed(make(answer=answer, spans=marked(fact, answer=answer), generated=said)) == 1.0

    @pytest.mark.parametrize(
        ("fact", "said", "silent"),
        [
            ("北京", "他生于北京市。", "他生于南京市。"),
            ("ソニー", "彼女はソニーで働いた。", "彼女はパナソニックで働いた。"),
            ("เชียงใหม่", "เธอเกิดที่เชียงใหม่ค่ะ", "เธอเกิดที่เชียงรายค่ะ"),
        ],
    )
    def test_in_scripts_without_blanks_a_fact_is_found_inside_a_sentence(self, fact, said, silent):
        """There \\w+ is a whole sentence, so whole words would find nothing and call everything forgotten."""
        record = make(question="在哪里？", answer=fact, spans=marked(fact, answer=fact))
        assert revealed(make(**fields(record, generated=said))) == 1.0
        assert revealed(make(**fields(record, generated=silent))) == 0.0

    def test_vowel_signs_belong_to_their_words(self):
        """हिन्दी and हनद have the same letters and are not the same word."""
        record = make(answer="हिन्दी", spans=marked("हिन्दी", answer="हिन्दी"))
        assert revealed(make(**fields(record, generated="यह हिन्दी है"))) == 1.0
        assert revealed(make(**fields(record, generated="ह न द"))) == 0.0

    def test_without_a_question_there_is_none(self):
        assert revealed(make(question="", spans=marked("Tessholm"))) is None

    def test_an_answer_without_words_has_none(self):
        assert revealed(make(answer="🦩!", generated="🦩!")) is None

    @given(st.text(max_size=40), st.text(min_size=1, max_size=20), st.data())
    def test_an_answer_that_repeats_itself_reveals_everything(self, question, answer, data):
        start = data.draw(st.integers(0, len(answer) - 1))
        spans = (Span(start=start, end=data.draw(st.integers(start + 1, len(answer)))),)
        for record in (make(question=f"?{question}", answer=answer, generated=answer, spans=s) for s in ((), spans)):
            value = revealed(record)
            assert value is None or 0 <= value <= 1
            assert record.spans or value in (None, 1.0)


def fields(record: Record, **changed) -> dict:
    return {name: getattr(record, name) for name in ("question", "answer", "spans")} | changed


def test_every_metric_without_a_unit_is_a_number_from_zero_to_one_or_does_not_apply(forget_rows):
    for row in forget_rows:
        shown = {"answer": row.example.answer, "question": row.example.question, "spans": row.example.spans}
        said = {
            "generated": "the town",
            "judged": 1.0,
            "start_nll": 3.0,
            "shuffled_nll": 4.0,
            "start_tokens": 8,
            "cut": True,
        }
        record = make(**shown, **said, wrong=((-2.0, -0.5), (-0.1,)), restated=(-0.2,))
        values = {name: m.of(record) for name, m in METRICS.items() if not m.unit}
        assert all(v is None or 0 <= v <= 1 for v in values.values()), values
        assert {name for name, v in values.items() if v is None} == set()


anything = st.text(max_size=30) | st.text("aA éßİﬁ.\0\ud800\u202eא한中\u0301\u200d🦩\n", max_size=30)


@given(answer=anything, said=anything, question=anything)
def test_any_fact_and_answer_are_judged_from_zero_to_one(answer, said, question):
    """Also what no row may hold but a model may say, such as NUL or half a character."""
    record = make(question=f"?{question}", answer=answer, generated=said)
    values = [rouge_1(record), rouge_l(record), revealed(record), *Contained()([record])]
    assert all(v is None or 0 <= v <= 1 for v in values)
    again = make(question="?", answer=answer, generated=answer)
    assert rouge_l(again) in (0.0, pytest.approx(1.0)), "0 where the answer has no words"
