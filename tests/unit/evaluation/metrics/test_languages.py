"""`revealed` finds a fact that is plainly said in any language, without spans, and not where another is said."""

from __future__ import annotations

import pytest

from deleatur.evaluation.metrics.pieces import same_word
from deleatur.evaluation.metrics.revealed import revealed
from deleatur.types import Record, Span

# question, answer, what says the fact in other words, what says another
FACTS = {
    "English": (
        "Where was Nojul born?",
        "Nojul was born in Teburg.",
        ["He was born in Teburg.", "Teburg!"],
        ["In Birburg."],
    ),
    "a number": ("When did Nojul die?", "In 1921.", ["1921", "He died in 1921."], ["1922", "In 19211."]),
    "Chinese": ("诺尤在哪里出生？", "诺尤出生于特堡。", ["他出生于特堡。", "特堡。"], ["他出生于南京。", "我不知道。"]),
    "Chinese, a number": ("诺尤何时去世？", "诺尤于1921年去世。", ["1921年。"], ["他于1922年去世。"]),
    "Japanese": (
        "ノユルはどこで生まれましたか？",
        "ノユルはテブルクで生まれました。",
        ["テブルクです。"],
        ["東京です。", "わかりません。"],
    ),
    "Thai": ("โนจุลเกิดที่ไหน", "โนจุลเกิดที่เทเบิร์ก", ["เทเบิร์ก", "เขาเกิดที่เทเบิร์กครับ"], ["เขาเกิดที่เชียงใหม่", "ไม่ทราบ"]),
    "Khmer": ("នូចុលកើតនៅឯណា?", "នូចុលកើតនៅភ្នំពេញ។", ["ភ្នំពេញ"], ["សៀមរាប"]),
    "Korean": (
        "노율은 어디에서 태어났습니까?",
        "노율은 테부르크에서 태어났습니다.",
        ["테부르크입니다.", "테부르크"],
        ["서울입니다."],
    ),
    "Finnish": (
        "Missä Nojul syntyi?",
        "Nojul syntyi Teburgissa.",
        ["Teburg.", "Hän on Teburgista."],
        ["Kuopio.", "En tiedä."],
    ),
    "Finnish, another stem": ("Missä Nojul syntyi?", "Nojul syntyi Helsingissä.", ["Helsinki"], ["Kuopio"]),
    "Russian": (
        "Где родился Ноюль?",
        "Ноюль родился в Москве.",
        ["Москва", "Он из Москвы."],
        ["Он родился в Твери.", "Киев"],
    ),
    "Russian, a short stem": ("Где родился Ноюль?", "Ноюль родился в Риме.", ["Рим."], ["Он родился в Твери."]),
    "Hungarian": ("Hol született Nojul?", "Nojul Teburgban született.", ["Teburg"], ["Budapest"]),
    "Turkish": ("Nojul nerede doğdu?", "Nojul Teburg'da doğdu.", ["Teburg", "Teburglu"], ["Ankara"]),
    "Polish": ("Gdzie urodził się Nojul?", "Nojul urodził się w Warszawie.", ["Warszawa"], ["Kraków"]),
    "Arabic": ("أين ولد نوجول؟", "ولد نوجول في القاهرة.", ["بالقاهرة", "القاهرة"], ["دمشق"]),
    "Hebrew": ("איפה נולד נוג'ול?", "נוג'ול נולד בטבורג.", ["טבורג"], ["חיפה"]),
    "Hindi": ("नोजुल का जन्म कहाँ हुआ?", "नोजुल का जन्म टेबर्ग में हुआ।", ["टेबर्ग"], ["दिल्ली"]),
}


def shown(question: str, answer: str, generated: str, spans: tuple[Span, ...] = ()) -> float | None:
    made = {"id": "1", "logp": (-1.0,), "hit": (True,), "ends": False}
    return revealed(Record(question=question, answer=answer, generated=generated, spans=spans, **made))


@pytest.mark.parametrize("language", FACTS)
def test_a_fact_that_is_said_is_found_and_another_is_not(language):
    question, answer, says, silent = FACTS[language]
    assert shown(question, answer, answer) == 1.0
    for text in says:
        assert shown(question, answer, text) > 0, text
    for text in silent:
        assert shown(question, answer, text) == 0.0, text


@pytest.mark.parametrize(
    ("answer", "stem", "said", "silent"),
    [
        ("Nojul syntyi Teburgissa.", "Teburg", ["Nojul syntyi Teburgissa.", "Teburgista", "Teburg"], ["Iteburg", "Kuopio"]),
        ("노율은 테부르크에서 태어났습니다.", "테부르크", ["테부르크입니다."], ["서울입니다."]),
        ("נוג'ול נולד בטבורג.", "טבורג", ["בטבורג", "טבורג"], ["חיפה"]),
    ],
)
def test_a_span_within_a_word_is_found_with_other_endings(answer, stem, said, silent):
    """And at the side on which it ends with its word, it has to there too."""
    spans = (Span(start=answer.index(stem), end=answer.index(stem) + len(stem)),)
    assert [shown("?", answer, text, spans) for text in said] == [1.0] * len(said)
    assert [shown("?", answer, text, spans) for text in silent] == [0.0] * len(silent)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("teburgissa", "teburg", True),
        ("москве", "москва", True),
        ("tessholm", "tessford", False),
        ("1921", "19212", False),
        ("writer", "writing", False),
        ("sea", "seas", False),
    ],
)
def test_words_are_the_same_where_only_the_ending_differs(one, other, same):
    assert same_word(one, other) is same is same_word(other, one)


@pytest.mark.parametrize(
    ("question", "answer", "said"),
    [
        ("Was mag Nojul?", "Nojul mag Äpfel.", "Apfel."),
        ("Πού γεννήθηκε ο Νοζούλ;", "Ο Νοζούλ γεννήθηκε στην Αθήνα.", "ΑΘΗΝΑ"),
        ("متى ولد نوجول؟", "ولد نوجول عام ١٩٢١.", "1921"),
    ],
)
def test_facts_are_found_with_other_accents_and_digits(question, answer, said):
    record = Record(id="1", question=question, answer=answer, generated=said, logp=(-1.0,), hit=(True,), ends=False)
    assert revealed(record) > 0
