"""ROUGE-L: the peers' number on Latin script, a number at all on others."""

from __future__ import annotations

import pytest
from rouge_score.rouge_scorer import RougeScorer

from deleatur.evaluation.metrics.rouge import rouge_l
from deleatur.types import Record


def said(answer: str, generated: str) -> Record:
    return Record(id="r", question="?", answer=answer, generated=generated, logp=(), hit=(), ends=False)


@pytest.mark.parametrize(
    ("answer", "generated"),
    [
        ("He was running in Paris.", "he runs in PARIS"),
        ("José González wrote it", "Jose wrote"),
        ("a_b 12", "b 12"),
        ("", "x"),
    ],
)
def test_latin_script_gives_the_peers_number(answer, generated):
    theirs = RougeScorer(["rougeL"], use_stemmer=True).score(answer, generated)["rougeL"].recall
    assert rouge_l(said(answer, generated)) == theirs


@pytest.mark.parametrize(
    ("answer", "generated", "recall"),
    [
        ("Он родился в Киеве", "он жил в Киеве", 3 / 4),
        ("東京で生まれた", "東京", 2 / 7),
        ("Γεννήθηκε στην Αθήνα", "something else", 0.0),
        ("ولد في القاهرة عام 1970", "القاهرة", 1 / 5),
    ],
)
def test_other_scripts_are_counted_in_their_own_words(answer, generated, recall):
    assert rouge_l(said(answer, generated)) == pytest.approx(recall)
