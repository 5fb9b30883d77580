"""An answer cut where its tokens begin and end, each piece with the importance of its token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Neighbouring characters of an answer that the same tokens cover."""

    text: str
    importance: float | None  # None where there is no scored token
    gold: bool  # does a token here touch what was marked to be forgotten?


def heat_spans(answer: str, tokens: Sequence[Mapping[str, Any]]) -> list[Piece]:
    """The pieces of an answer, whose texts joined are exactly the answer.

    Where tokens overlap (the bytes of one emoji are several tokens of one character) the highest importance counts, and
    one gold token makes the piece gold. Empty tokens, like the end of turn, have no piece; offsets beyond the answer are
    cut to it.
    """
    over: list[tuple[int, ...]] = [()] * len(answer)
    for k, token in enumerate(tokens):
        for place in range(max(token["start"], 0), min(token["end"], len(answer))):
            over[place] += (k,)
    pieces = []
    for covering, run in groupby(range(len(answer)), key=over.__getitem__):
        places, here = list(run), [tokens[k] for k in covering]
        pieces.append(
            Piece(
                text=answer[places[0] : places[-1] + 1],
                importance=max((t["importance"] for t in here), default=None),
                gold=any(t["gold"] for t in here),
            )
        )
    return pieces


def end_importance(answer: str, tokens: Sequence[Mapping[str, Any]]) -> float | None:
    """Importance of the end of turn; None where it is not among the scored tokens."""
    ends = [t["importance"] for t in tokens if t["start"] == t["end"] == len(answer)]
    return ends[-1] if ends else None
