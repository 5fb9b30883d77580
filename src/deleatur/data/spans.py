"""A row's spans: which characters of its answer must go, and which must stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from deleatur.data.messages import redact_value, refusal
from deleatur.types import Span


def spans_of(place: str, values: Sequence[object], lead: int, length: int) -> tuple[Span, ...]:
    """Spans in the stripped answer, which has `length` characters and lost `lead` before them.

    Raises DataError, with the row's place, for one that is of another form, outside of the answer, or both to forget and to
    keep.
    """
    spans: list[Span] = []
    for value in values:
        span = _span(place, value)
        if not lead <= span.start < span.end <= lead + length:
            seen = f"the span {redact_value(value)} is not in the answer of {length} characters"
            raise refusal(place, f"{seen}; {lead} <= start < end <= {lead + length} is needed")
        spans.append(replace(span, start=span.start - lead, end=span.end - lead))
    reach = {False: 0, True: 0}  # how far the spans to forget and those to keep have come
    for span in sorted(spans, key=lambda span: span.start):
        if span.start < reach[not span.keep]:
            raise refusal(place, f"spans to forget and to keep overlap at character {span.start + lead}; separate them")
        reach[span.keep] = max(reach[span.keep], span.end)
    return tuple(spans)


def _span(place: str, value: object) -> Span:
    match value:
        case [start, end]:
            keep = None
        case {"start": start, "end": end, **more} if more.keys() <= {"keep"}:
            keep = more.get("keep")
        case _:
            start = end = keep = None
    if type(start) is not int or type(end) is not int or not isinstance(keep, bool | None):
        needed = '[start, end] or {"start": …, "end": …, "keep": true or false} as integers'
        raise refusal(place, f"the span {redact_value(value)} cannot be used; {needed} is needed")
    return Span(start=start, end=end, keep=bool(keep))
