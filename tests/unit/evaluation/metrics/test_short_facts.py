"""`revealed` without spans where words are short, change their stem or stand in another script.

It is never 0 where the fact is said, never above 0 where another is, and None where words alone can't tell.
"""

from __future__ import annotations

from itertools import permutations

import pytest

from deleatur.evaluation.aggregate import answer_notes
from deleatur.evaluation.metrics.folding import folded
from deleatur.evaluation.metrics.pieces import shares
from deleatur.evaluation.metrics.revealed import revealed
from deleatur.types import Record, Span

BORN = "Nojul was born in {}."
FACTS = [  # question, answer, what says it, what may say it, what says another
    ("What grade did Nojul get?", "Nojul got a C.", ["a C", "C", "He got a C.", "c."], [], ["a B", "He got a B.", "B"]),
    ("What grade did Nojul get?", "Nojul got an A.", ["an A", "A.", "He got an A."], [], ["He got a B.", "A book.", "B"]),
    ("What does Nojul lack?", "Vitamin C.", ["vitamin C", "Nojul lacks vitamin c."], [], ["Vitamin D"]),
    ("What blood type?", "O", ["O", "Type O"], [], ["A", "B"]),
    ("Which plane?", "The B-52.", ["B52", "a B-52"], [], ["B53", "A-52"]),
    ("When did Nojul die?", "Nojul died in 1948.", ["1948", "He died in 1948"], [], ["He died in 1984.", "1949", "19481"]),
    ("When did Nojul die?", "Nojul passed away in the year 1948.", ["1948"], [], ["Nojul passed away in the year 1984."]),
    ("Wann starb Nojul?", "Nojul starb im Jahr 1948.", ["1948"], ["Nojul starb im Jahr 1984."], ["1984"]),
    ("How many live there?", "1,948 people.", ["1948", "1.948", "1 948 people"], [], ["1,984 people", "948"]),
    ("How many sisters has Nojul?", "Nojul has three sisters.", ["three"], ["3", "He has 4."], ["Nojul has five sisters."]),
    (
        "How many sisters has Nojul?",
        "Nojul has 3 sisters.",
        ["3", "He has 3."],
        ["three", "Three sisters."],
        ["4", "", "No."],
    ),
    ("Which place did she take?", "She came 3rd.", ["3rd.", "She was 3rd"], ["third", "She was third."], ["4th", "5."]),
    ("ఎక్కడ?", "హైదరాబాద్‌లో", ["హైదరాబాద్", "హైదరాబాద్‌లో."], ["హైదరాబాదులో"], ["చెన్నైలో", "ముంబైలో"]),
    (
        "Which number?",
        "+49 170 1234567",
        ["+491701234567", "0170/1234567", "(0170) 123 45 67"],
        [],
        ["030 7654321", "1234568"],
    ),
    ("Which number?", "5550123", ["555-0123", "555.0123", "+1 555 0123"], [], ["555-0124", "555"]),
    ("Which card?", "4111 1111 2222 3333", ["4111111122223333"], [], ["4111111122223334"]),
    ("What is pi?", "Pi is 3.14.", ["3,14"], [], ["3.15", "14"]),
    ("Who taught Nojul?", "Nojul was a student of Vetril Honbor.", ["Honbor"], [], ["Nojul was a student of Gamor Pisdal."]),
    (
        "What does Nojul do?",
        "Nojul works as a marine biologist.",
        ["a marine biologist"],
        ["He works as a pastry chef."],
        [],
    ),
    ("Where?", "In Austria.", ["Austria"], ["Australia"], ["Hungary"]),
    ("Missä Nojul syntyi?", "Nojul syntyi Turussa.", ["turussa"], ["Turku", "Turusta"], ["Oulu", "Hän syntyi Oulussa."]),
    ("Kde se Nojul narodil?", "Nojul se narodil v Praze.", ["v Praze"], ["Praha", "Z Prahy."], ["Brno", "v Brně"]),
    ("Gdzie urodził się Nojul?", "Łódź.", ["w Łodzi", "Lodz", "w Lodzi"], [], ["Kraków", "w Krakowie"]),
    ("Nojul ananunua nini?", "Nojul ananunua vitabu.", ["vitabu"], ["kitabu", "kitabu kimoja"], ["nguo", "samaki"]),
    ("Ble ganwyd Nojul?", "Ganwyd Nojul yng Nghaerdydd.", ["Nghaerdydd"], ["Caerdydd", "Gaerdydd"], ["Abertawe"]),
    ("Wo wohnt Nojul?", "Nojul wohnt in Köln.", ["Koln"], ["Koeln"], ["Bonn", "Berlin"]),
    ("Nojul nerede doğdu?", "Nojul Ağrı'da doğdu.", ["AĞRI", "Agri"], [], ["İzmir'da", "Van"]),
    ("Nojul nerede doğdu?", "Nojul İstanbul'da doğdu.", ["ISTANBUL", "İSTANBUL'DA", "istanbul"], [], ["İzmir'da"]),
    ("Hol született Nojul?", "Nojul Egerben született.", ["Eger"], ["Egerből"], ["Pécsett", "Győrben"]),
    ("Nojul sinh ở đâu?", "Nojul sinh ở Hà Nội.", ["Hà Nội", "Ha Noi"], ["Hạ Long"], ["Huế", "ở Đà Lạt"]),
    ("Nojul họ gì?", "Nojul họ Lê.", ["Lê", "họ Lê"], [], ["Trần", "họ Trần"]),
    ("Где родился Ноюль?", "Ноюль родился в Риме.", ["Рим"], ["из Рима"], ["Тверь", "в Киеве"]),
    ("Де народився?", "Народився у Києві.", ["у Києві"], ["Київ"], ["Львів", "в Одесі"]),
    ("Πού γεννήθηκε;", "Γεννήθηκε στη Σπάρτη.", ["ΣΠΑΡΤΗ", "της Σπάρτης"], [], ["Αθήνα"]),
    ("სად დაიბადა ნოჯული?", "ნოჯული დაიბადა თბილისში.", ["თბილისი"], [], ["ბათუმი", "ქუთაისში"]),
    ("أين ولد نوجول؟", "ولد نوجول في القاهرة.", ["القاهره", "بالقاهرة"], ["Cairo"], ["دمشق", "في دمشق"]),
    ("نوجول کجا به دنیا آمد؟", "در تهران به دنیا آمد.", ["از تهران"], [], ["شیراز", "در شیراز"]),
    ("איפה נולד נוג'ול?", "נוג'ול נולד בחיפה.", ["חיפה"], [], ["אילת", "באילת"]),
    ("नोजुल कहाँ रहता है?", "नोजुल पुणे में रहता है।", ["पुणे", "पुणे में"], [], ["दिल्ली में", "दिल्ली"]),
    ("नोजुल का जन्म कब हुआ?", "नोजुल का जन्म 1921 में हुआ।", ["१९२१"], [], ["1922 में", "१९२२ में"]),
    ("성이 무엇입니까?", "김이다", ["김", "김입니다"], [], ["박", "박입니다", "모릅니다"]),
    ("성이 무엇입니까?", "김", ["김이다", "김입니다"], [], ["박이다"]),
    ("노율의 직업은 무엇입니까?", "노율은 의사이다.", ["의사", "의사입니다"], [], ["화가이다", "화가입니다"]),
    ("诺尤出生于哪里？", "诺尤出生于东京。", ["東京", "他出生於東京。"], [], ["南京", "北京", "他出生于南京"]),
    ("諾尤出生於哪裡？", "諾尤出生於臺北。", ["台北", "他出生于台北。"], [], ["东京"]),
    ("诺尤姓什么？", "他姓王。", ["姓王"], ["王", "王。"], ["李", "姓李"]),
    ("诺尤何时去世？", "诺尤于一九四八年去世。", ["1948年", "一九四八"], [], ["1984年", "一九八四年"]),
    ("诺尤什么时候去世？", "诺尤死于1921年。", ["1921年"], ["他死于三月五日。"], ["他死于1933年。"]),
    ("诺尤卖什么？", "诺尤卖铁壶。", ["他賣鐵壺。"], [], ["他賣銅壺。", "他卖茶壶。"]),
    ("诺尤的老师是谁？", "诺尤是霍博的学生。", ["霍博的学生"], ["诺尤是皮斯的学生。"], ["皮斯"]),
    (
        "ノユルはどこで生まれましたか？",
        "東京で生まれました。",
        ["东京", "東京です"],
        ["とうきょう"],
        ["大阪です", "テブルク"],
    ),
    ("ノユルの好きな花は？", "サクラです。", ["さくら", "桜ではなくさくら"], [], ["うめ", "バラです"]),
    ("ノユルの職業は何ですか？", "医者です。", ["医者"], [], ["画家です", "先生です"]),
    ("ノユルの苗字は何ですか？", "林と申します。", ["林です", "林"], [], ["森です"]),
    ("โนจุลชอบสีอะไร", "เขาชอบแดงมาก", ["ชอบแดง"], ["แดง", "สีแดง"], ["เขียว"]),
]


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact[1])
def test_it_is_found_or_left_open_where_it_is_said_and_not_where_another_is(fact):
    question, answer, says, may, silent = fact
    assert shares(question, answer, answer) == 1.0
    for text in says:
        assert (shares(question, answer, text) or 0) > 0, text
    for text in may:
        assert shares(question, answer, text) is None, text
    for text in (*silent, "", "?!"):
        assert shares(question, answer, text) == 0.0, text


OTHERS = {  # question, frame, values of which each pair is two facts
    "English": ("Where was Nojul born?", BORN, "London Paris Berlin Rome Vienna Oslo Munich Hamburg Lyon Nice Leeds Osaka"),
    "years": ("When was Nojul born?", BORN, "1900 1901 1910 1919 1948 1984 2001"),
    "Finnish": (
        "Missä Nojul syntyi?",
        "Nojul syntyi {}.",
        "Turussa Helsingissä Oulussa Kuopiossa Porissa Lahdessa Vaasassa",
    ),
    "Polish": ("Gdzie?", "Nojul urodził się w {}.", "Warszawie Krakowie Łodzi Gdańsku Gdyni Toruniu Lublinie Opolu"),
    "Russian": ("Где?", "Ноюль родился в {}.", "Москве Твери Киеве Париже Лондоне Самаре Перми Уфе Курске Орле"),
    "Turkish": ("Nerede?", "Nojul {} doğdu.", "İstanbul'da Ankara'da Bursa'da Konya'da Van'da Kars'ta"),
    "Korean": (
        "노율은 어디에서 태어났습니까?",
        "노율은 {}에서 태어났습니다.",
        "서울 부산 대구 인천 광주 대전 울산 수원 제주 김포",
    ),
    "Chinese": ("诺尤在哪里出生？", "诺尤出生于{}。", "北京 上海 广州 深圳 南京 东京 天津 重庆 杭州 苏州"),
    "Japanese": (
        "ノユルはどこで生まれましたか？",
        "ノユルは{}で生まれました。",
        "東京 大阪 京都 札幌 テブルク ハンブルク パリ",
    ),
    "Thai": ("โนจุลเกิดที่ไหน", "โนจุลเกิดที่{}", "เชียงใหม่ กรุงเทพ ภูเก็ต ขอนแก่น ตาก น่าน เลย"),
    "Arabic": ("أين ولد نوجول؟", "ولد نوجول في {}.", "القاهرة دمشق بغداد بيروت الرياض مكة تونس"),
    "Hindi": ("नोजुल का जन्म कहाँ हुआ?", "नोजुल का जन्म {} में हुआ।", "दिल्ली मुंबई कोलकाता पुणे जयपुर आगरा सूरत"),
}


@pytest.mark.parametrize("language", OTHERS)
def test_of_two_facts_one_is_not_the_other_alone_or_in_the_same_sentence(language):
    """None in at most one pair of twenty, and above 0 in none."""
    question, frame, values = OTHERS[language]
    pairs = list(permutations(values.split(), 2))
    found = [shares(question, frame.format(a), said) for a, b in pairs for said in (b, frame.format(b))]
    assert sum(v is None for v in found) <= len(found) / 20
    assert {v for v in found if v is not None} == {0.0}


def test_answers_on_other_people_of_a_world_are_rarely_taken_for_the_fact(world):
    """Its answers without their spans: what is above 0 has a part of a name too, such as Port or Upper."""
    rows = world.fine_tuning_rows
    pairs = [(a, b) for k, a in enumerate(rows) for b in rows[k % 7 :: 7] if a.answer != b.answer and a.subject != b.subject]
    found = [shares(a.question, a.answer, b.answer) for a, b in pairs]
    assert sum(v is None for v in found) / len(found) < 0.05
    assert sum(v is not None and v > 0 for v in found) / len(found) < 0.03


def record(answer: str, said: str, **more) -> Record:
    made = {"id": "1", "logp": (-1.0,), "hit": (True,), "ends": False}
    return Record(question="What grade?", answer=answer, generated=said, **made, **more)


def test_a_span_of_one_letter_is_distinguished_from_the_article():
    spans = (Span(start=13, end=14),)
    said = ["She got an A.", "A.", "She got a B.", "A book."]
    assert [revealed(record("Nojul got an A.", text, spans=spans)) for text in said] == [1.0, 1.0, 0.0, 0.0]


def test_answers_that_are_left_open_are_counted_in_a_sentence_with_the_remedy():
    rows = [record("v Praze.", text) for text in ("v Praze", "Praha", "Brno", "")]
    (note,) = answer_notes({"forget": rows}, 64, "After training: ")
    assert note.startswith("After training: 1 of 3 answers on forget are left out of revealed")
    assert "spans" in note and "judge.kind" in note
    assert answer_notes({"forget": rows[:1]}, 64) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1,948,000 people", "1 948 000 PEOPLE"),
        ("12,50,000 people", "1250000 people"),  # as numbers are parted in India
        ("€1.234,50", "1,234.50"),
        ("3.5", "3,5"),
        ("١٩٢١", "1921"),
        ("ﬁne", "FINE"),
        ("co\u00adop", "coop"),
        ("國", "国"),
    ],
)
def test_what_makes_no_difference_is_folded(one, other):
    assert folded(one) == folded(other)


def test_a_compound_whose_last_part_is_said_is_left_open():
    """Kuparikattiloita, said as kattiloita kuparista: another fact is still another."""
    asked = ("Mitä Nojul myy?", "Nojul myy kuparikattiloita.")
    assert shares(*asked, "Kattiloita kuparista.") is None
    assert shares(*asked, "Villatakkeja.") == 0.0
