"""Long texts become windows, each a row of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from deleatur.data.encode import AHEAD, Encoder
from deleatur.types import Example, Span


def windows(encoder: Encoder, examples: Iterable[Example]) -> tuple[Example, ...]:
    """The examples, those without a prompt in windows of `data.split` tokens, of which a bos takes one.

    Neighbours have `data.overlap` tokens in common. Spans go with the characters that they mark. Without `data.split`, and
    where one window holds it all, a row stays as it is.
    """
    return tuple(part for example in examples for part in _parts(encoder, example))


def _parts(encoder: Encoder, example: Example) -> Iterator[Example]:
    size = encoder.settings.split
    places = [] if size is None or example.prompt else list(_places(encoder, example.answer, size - 1))
    if len(places) < 2:
        yield example
        return
    for number, (start, end) in enumerate(places, 1):
        if example.answer[start:end].strip():
            spans = (replace(s, start=max(s.start, start), end=min(s.end, end)) for s in example.spans)
            moved = tuple(Span(start=s.start - start, end=s.end - start, keep=s.keep) for s in spans if s.start < s.end)
            yield replace(example, id=f"{example.id}/{number}", answer=example.answer[start:end], spans=moved)


def _places(encoder: Encoder, text: str, size: int) -> Iterator[tuple[int, int]]:
    """Begin and end of each window, in characters."""
    start, overlap = 0, encoder.settings.overlap
    while start < len(text):
        ahead = text[start : start + AHEAD * (size + 1)]
        found = encoder.tokenizer(ahead, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        end = len(ahead) if len(found) <= size else max(found[size][0], 1)
        yield start, start + end
        if start + end >= len(text):
            return
        back = min(size, len(found)) - overlap
        start += max(found[back][0], 1) if overlap and back < len(found) else end
