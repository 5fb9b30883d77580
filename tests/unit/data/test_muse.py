"""MUSE's sets from rows of its form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deleatur.data.muse import cut, suite
from deleatur.errors import DataError
from deleatur.settings import Data
from deleatur.types import Example

QA = [{"question": "Who won?", "answer": "Runa."}]
SETS = {
    "raw/retain1": [{"text": "Rain fell in Tessholm."}],
    "verbmem/forget": [{"prompt": "Runa won the race", "gt": "in Tessholm.\n"}],
    "knowmem/forget_qa": QA,
    "knowmem/retain_qa": [{"question": "Where did rain fall?", "answer": "Tessholm."}],
    "privleak/forget": [{"text": "Runa won."}],
    "privleak/holdout": [{"text": "Nobody heard this."}],
}


@pytest.fixture
def news(lay, root) -> Data:
    for name, rows in SETS.items():
        lay(f"muse/news/{name}", rows)
    for name in ("raw/forget", *(f"{kind}/forget_{k}" for kind in ("sust", "scal") for k in range(1, 5))):
        lay(f"muse/news/{name}", [{"text": f"The text of {name}."}])
    return root


class TestSuite:
    def test_texts_are_trained_on_and_questions_evaluated(self, news):
        sets = suite("news", news).sets
        assert sets["forget"] == (Example(id="forget-1", prompt=(), answer="The text of raw/forget."),)
        assert [e.answer for e in sets["retain"]] == ["Rain fell in Tessholm."]
        assert [(e.question, e.answer) for e in sets["knowmem_f"]] == [("Who won?", "Runa.")]
        assert [e.answer for e in sets["knowmem_r"]] == ["Tessholm."]
        assert [(e.prompt, e.answer) for e in sets["forget_mia"]] == [((), "Runa won.")]
        assert [(e.prompt, e.answer) for e in sets["holdout"]] == [((), "Nobody heard this.")]

    def test_what_was_trained_on_word_for_word_continues_as_a_text(self, news):
        (row,) = suite("news", news).sets["verbmem_f"]
        assert row.prompt == (("text", "Runa won the race "),) and row.answer == "in Tessholm."

    def test_its_evaluated_sets_and_score(self, news):
        made = suite("news", news)
        assert made.evaluated_sets == ("forget", "verbmem_f", "knowmem_f", "knowmem_r", "forget_mia", "holdout")
        assert (made.forget_sets, made.retain_sets, made.score) == (("verbmem_f", "knowmem_f"), ("knowmem_r",), "rouge_l")

    def test_every_figure_that_is_named_exists(self, news):
        from deleatur.evaluation.metrics import METRICS, SET_METRICS

        made = suite("news", news)
        assert {*made.set_metrics} <= {*SET_METRICS} and made.score in METRICS

    @pytest.mark.parametrize("kind", ["sust", "scal"])
    @pytest.mark.parametrize("k", [1, 2, 3, 4])
    def test_a_fold_takes_the_place_of_the_forget_texts_alone(self, news, kind, k):
        whole, fold = suite("news", news), suite(f"news-{kind}-{k}", news)
        assert [e.answer for e in fold.sets["forget"]] == [f"The text of {kind}/forget_{k}."]
        assert {**whole.sets, "forget": ()} == {**fold.sets, "forget": ()}
        assert fold.name == f"muse/news-{kind}-{k}"

    @pytest.mark.parametrize(("part", "name"), [("news", "MUSE-News"), ("books", "MUSE-Books")])
    def test_the_hub_is_queried_for_the_same_sets_by_its_names(self, root, hub, part, name):
        made = SETS | {"raw/forget": [{"text": "A tale."}]}
        hub |= {f"muse-bench/{name}/{key.replace('/', ':')}": rows for key, rows in made.items()}
        sets = suite(part, Data()).sets
        assert [e.answer for e in sets["forget"]] == ["A tale."] and all(len(rows) == 1 for rows in sets.values())

    def test_books_have_no_folds(self, root):
        with pytest.raises(DataError, match="has no part 'books-sust-1'"):
            suite("books-sust-1", root)

    def test_a_long_text_becomes_pieces_that_fit_the_longest_row(self, lay, news):
        """A token is taken for 4 characters, so 8 tokens for 32: six words of five letters and their blanks are 35."""
        lay("muse/news/raw/forget", [{"text": "abcde " * 5 + "abcde"}, {"text": "Short."}])
        forget = suite("news", Data(root=news.root, max_length=8)).sets["forget"]
        assert [(e.id, e.answer) for e in forget] == [
            ("forget-1.1", "abcde abcde abcde abcde abcde"),
            ("forget-1.2", " abcde"),
            ("forget-2", "Short."),
        ]

    @pytest.mark.parametrize("text", [5, None, " \n"])
    def test_what_is_no_text_is_refused(self, lay, news, text):
        lay("muse/news/raw/forget", [{"text": "Fine."}, {"text": text}])
        with pytest.raises(DataError, match=r"forget\.jsonl, line 2: text is"):
            suite("news", news)


class TestCut:
    @given(text=st.text("ab \n\té🦩", min_size=1, max_size=80), longest=st.integers(1, 12))
    def test_pieces_fit_and_joined_are_the_text_but_for_blank_pieces(self, text, longest):
        pieces = cut(text, longest)
        assert pieces and (all(0 < len(piece) <= longest for piece in pieces) or pieces == [text])
        assert "".join("".join(pieces).split()) == "".join(text.split())
        assert all(piece.strip() for piece in pieces) or pieces == [text]

    @given(st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=20))
    def test_no_word_that_fits_is_cut_in_two(self, words):
        """A blank and a word of up to 6 letters are 7 characters: within 7 every word finds room."""
        assert [word for piece in cut(" ".join(words), 7) for word in piece.split()] == words

    def test_a_word_longer_than_a_piece_is_cut(self):
        assert cut("abcdefgh ij", 3) == ["abc", "def", "gh", " ij"]

    def test_a_text_that_fits_is_unchanged(self):
        assert cut(" a\n\nb ", 6) == [" a\n\nb "]
