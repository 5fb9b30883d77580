"""Where an answer is cut, and what the pieces carry."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from deleatur.report.heat import Piece, end_importance, heat_spans


def token(start: int, end: int, importance: float, gold: bool | None = False) -> dict[str, Any]:
    return {"start": start, "end": end, "importance": importance, "gold": gold}


offsets = st.integers(-3, 40)
tokens = st.lists(st.builds(token, offsets, offsets, st.floats(0, 2), st.sampled_from([True, False, None])), max_size=12)


@given(st.text(max_size=30), tokens)
def test_the_pieces_joined_are_the_answer_whatever_the_tokens(answer: str, tokens: list[dict[str, Any]]) -> None:
    pieces = heat_spans(answer, tokens)
    assert "".join(p.text for p in pieces) == answer
    assert all(p.text for p in pieces)


@given(st.text(max_size=30), tokens)
def test_every_character_has_the_highest_importance_of_the_tokens_over_it(answer: str, tokens: list[dict[str, Any]]) -> None:
    at = [p for p in heat_spans(answer, tokens) for _ in p.text]
    for place, piece in enumerate(at):
        over = [t for t in tokens if t["start"] <= place < t["end"]]
        assert piece.importance == max((t["importance"] for t in over), default=None)
        assert piece.gold == any(t["gold"] is True for t in over)


def test_neighbours_keep_their_own_importance_and_a_gap_has_none() -> None:
    assert heat_spans("ab cd", [token(0, 1, 0.1), token(1, 2, 0.1, True), token(3, 5, 0.9)]) == [
        Piece(text="a", importance=0.1, gold=False),
        Piece(text="b", importance=0.1, gold=True),
        Piece(text=" ", importance=None, gold=False),
        Piece(text="cd", importance=0.9, gold=False),
    ]


def test_the_bytes_of_one_emoji_are_one_piece() -> None:
    """A byte-level tokenizer gives each of the emoji's tokens the whole character as its offsets."""
    bytes_of_it = [token(1, 2, 0.2), token(1, 2, 0.8, True), token(1, 2, 0.4)]
    assert heat_spans("a🙂", [token(0, 1, 0.0), *bytes_of_it])[1:] == [Piece(text="🙂", importance=0.8, gold=True)]


def test_the_end_of_turn_has_no_piece_but_an_importance() -> None:
    ended = [token(0, 2, 0.5), token(2, 2, 0.3)]
    assert [p.text for p in heat_spans("ab", ended)] == ["ab"]
    assert end_importance("ab", ended) == 0.3
    assert end_importance("ab", ended[:1]) is None


def test_an_empty_answer_has_no_pieces() -> None:
    assert heat_spans("", [token(0, 0, 0.5)]) == []
