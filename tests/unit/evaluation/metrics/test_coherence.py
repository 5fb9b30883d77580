"""Which answers are no language: by hand, and on what a real model said of answers of known kinds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deleatur.data.world import make_world
from deleatur.evaluation.metrics.coherence import MIN_TOKENS, ORDER, incoherent, looped, repeated, stuttered
from deleatur.types import Record

LINES = [json.loads(line) for line in (Path(__file__).parents[3] / "golden/coherence.jsonl").read_text("utf-8").splitlines()]
MODELS = sorted({line["model"] for line in LINES if line["model"]})
GONE_TOO_FAR = ("gradient ascent", "cross-entropy unlearning")


def record(generated: str = "In the old town by the sea.", **more: object) -> Record:
    scores = {"start_nll": 1.0, "shuffled_nll": 8.0, "start_tokens": 9}
    shown = {"id": "1", "question": "Where?", "answer": "", "generated": generated, "logp": (-1.0,), "hit": (True,)}
    return Record(**shown | scores | {"ends": False} | more)


def share(model: str | None, of: Callable[[str], bool]) -> float:
    """Share called incoherent of a model's controls of some kinds."""
    said = [
        incoherent(record(line["text"], **{k: line[k] for k in ("start_nll", "shuffled_nll", "start_tokens")}))
        for line in LINES
        if line["model"] == model and of(line["kind"])
    ]
    assert len(said) >= 2
    return sum(said) / len(said)


class TestControls:
    """Numbers of SmolLM2-135M-Instruct, and of the same fine-tuned until it had 180 rows by heart: the surest kind of start
    model, to which a true sentence on another subject is as unlikely (6 nats a token) as shuffled words to the other."""

    @pytest.mark.parametrize("model", MODELS)
    def test_the_start_models_own_answers_are_coherent(self, model):
        assert share(model, lambda kind: kind == "its own") <= 0.02

    @pytest.mark.parametrize("model", MODELS)
    def test_shuffled_tokens_are_incoherent(self, model):
        assert share(model, lambda kind: kind == "shuffled") >= 0.98

    @pytest.mark.parametrize("model", MODELS)
    def test_other_languages_code_refusals_numbers_and_names_are_coherent(self, model):
        assert share(model, lambda kind: kind not in ("shuffled", "its own")) <= 0.02

    @pytest.mark.parametrize("kind", GONE_TOO_FAR)
    def test_answers_of_a_model_trained_too_far_are_incoherent(self, kind):
        assert share(None, lambda k: k == kind) >= 0.98

    @pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13])
    def test_a_looped_piece_of_an_answer_is_incoherent(self, n):
        """The first n words of each of the models' own answers, again and again up to 40."""
        own = [line["text"].split() for line in LINES if line["kind"] == "its own"]
        looped = [" ".join((words[:n] * 40)[: max(40, 3 * n)]) for words in own if len(words) >= n]
        assert len(looped) >= 5
        assert sum(incoherent(record(text)) for text in looped) / len(looped) >= 0.98

    def test_the_file_has_both_models_and_every_kind_of_each(self):
        assert len(MODELS) == 2
        kinds = [{line["kind"] for line in LINES if line["model"] == model} for model in MODELS]
        assert kinds[0] == kinds[1] >= {"its own", "shuffled", "Chinese", "code", "one word", "refusal"}


class TestIncoherent:
    def test_order_must_make_an_answer_likelier(self):
        assert incoherent(record(start_nll=ORDER * 8 - 0.01)) == 0.0
        assert incoherent(record(start_nll=ORDER * 8 + 0.01)) == 1.0

    def test_an_answer_too_short_to_have_an_order_is_coherent(self):
        assert incoherent(record("Kragford", start_nll=12.0, shuffled_nll=12.0, start_tokens=MIN_TOKENS - 1)) == 0.0

    @pytest.mark.parametrize("text", ["", "  \n"])
    def test_an_answer_without_text_is_none(self, text):
        assert incoherent(record(text, start_nll=None, shuffled_nll=None, start_tokens=0)) == 1.0

    def test_a_loop_is_incoherent_however_likely(self):
        """Once it is in a loop every model expects it to go on."""
        assert incoherent(record("the sea and " * 5, start_nll=0.1, shuffled_nll=4.0)) == 1.0

    @pytest.mark.parametrize("word", ["Darburburburburbur", "Debrasbrasbras", "Kitotototora"])
    def test_one_word_that_loops_is_enough(self, word):
        """The rest of the sentence is as the model was taught to say it, so the loop is a small share of it."""
        said = f"The person whom the writer married is called {word}, and they met when they were young."
        assert looped(said) < 0.5
        assert incoherent(record(said, start_nll=0.1, shuffled_nll=4.0)) == 1.0

    def test_a_looping_word_of_the_question_or_the_answer_is_none(self):
        assert incoherent(record("She lives in Burburburg.", question="Who lives in burburburg?")) == 0.0
        assert incoherent(record("She lives in Burburburg.", answer="In Burburburg.")) == 0.0

    def test_rows_without_a_question_or_a_score_are_left_out(self):
        assert incoherent(record(question="")) is None
        assert incoherent(record(start_tokens=None, start_nll=None, shuffled_nll=None)) is None


class TestLooped:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("ab" * 4, 1.0),  # four times
            ("ab" * 3, 0.0),  # three times something short
            ("a long enough piece," * 3, 1.0),  # three times something long
            ("a long enough piece," * 2, 0.0),
            ("When ousandousandousandousand", 24 / 29),  # inside a word
            ("no no\nno   no no", 1.0),  # blanks are one blank
            ("!!!!", 1.0),
            ("The town by the sea.", 0.0),
            ("x = [[0, 0, 0], [0, 0, 0]]", 0.0),
            ("", 0.0),
        ],
    )
    def test_by_hand(self, text, expected):
        assert looped(text) == pytest.approx(expected)

    @given(st.text("abc ", max_size=40))
    def test_it_is_the_plain_search_for_repeats(self, text):
        """Each place with each period: does what stands there stand there often enough in a row?"""
        text = " ".join(text.split())
        inside: set[int] = set()
        for begin in range(len(text)):
            for period in range(1, len(text) // 3 + 1):
                times = 4 if period <= 12 else 3
                end = begin + times * period
                if end <= len(text) and text[begin:end] == text[begin : begin + period] * times:
                    inside |= {*range(begin, end)}
        assert looped(text) == pytest.approx(len(inside) / len(text) if text else 0.0)


class TestStuttered:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("Debrasbrasbras", ("brasbrasbras",)),
            ("the town of DARburBurburg", ("rburburbu",)),  # case aside, from the left
            ("Kitotototora", ("totototo",)),
            ("Kitotora, Bharburbur, Mississippi, Barbara", ()),
            ("hahaha! aaaaaaaaaah, hmmmmmmmmm", ()),
            ("no no no no, cha-cha-cha, 123123123, xyxyxy", ()),
            ("taught by Grigal Grigal\nGrigal Grigal Grig", ("grigal grigal\ngrigal grigal",)),
            ("by the sea by the sea by the sea by the sea by", ("the sea by the sea by the sea by the sea by",)),
            ("Grigal Grigal Grigal", ()),
            ("(None, None, None, None), list[list[list[list[int]]]], 10 10 10 10", ()),
            ("哈哈哈哈哈哈哈哈哈", ()),
        ],
    )
    def test_by_hand(self, text, expected):
        assert stuttered(text) == expected

    def test_no_row_of_a_made_up_world_does(self):
        worlds = [make_world(seed=seed) for seed in range(20)]
        assert not any(stuttered(r.question + r.answer) for w in worlds for r in (*w.forget, *w.retain, *w.holdout))


class TestRepeated:
    def test_by_hand(self):
        """Of ten words of one kind all eight triples but the first were said before; of two kinds in turn, but two."""
        assert repeated("no " * 10) == pytest.approx(7 / 8)
        assert repeated("one two " * 5) == pytest.approx(6 / 8)
        assert repeated("It is the old town, by the sea, in the north of the land.") == 0.0

    def test_a_short_text_does_not_repeat_itself(self):
        assert repeated("no no no no no") == 0.0

    def test_case_makes_no_difference_and_scripts_without_blanks_have_words(self):
        assert repeated("No one. " * 5) == repeated("no one. " * 5) > 0.5
        assert repeated("小镇" * 8) > 0.5
