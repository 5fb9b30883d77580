"""The model's own reasoning, set before the answers of rows whose chat template opens a block for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from deleatur.errors import ModelError
from deleatur.evaluation.predictions import Predictor
from deleatur.types import Encoded


def with_reasoning(
    predictor: Predictor, sets: Mapping[str, Sequence[Encoded]]
) -> tuple[dict[str, Sequence[Encoded]], tuple[str, ...]]:
    """The rows with what the model thinks before it answers them, which is not scored, and sentences that say so.

    Rows stay as they are where the template opens no such block, and texts always. Reasoning that does not end within
    `data.reasoning_tokens`, or what the model can read, is closed there. Raises ModelError where it can read none.
    """
    model, encoder = predictor.model, predictor.encoder
    if encoder.template is None or not encoder.reasons:
        return dict(sets), ()
    rows = list(dict.fromkeys(row for encoded in sets.values() for row in encoded))
    room = getattr(model.lm.config, "max_position_embeddings", None) or math.inf
    longest = max((len(row.ids) for row in rows), default=0)
    most = int(min(encoder.settings.reasoning_tokens, room - longest))
    if most < 1:
        raise ModelError(
            f"the model reads {room} tokens and a row has {longest}, which leaves none for the reasoning that its chat "
            f"template asks for; set data.max_length to {max(8, int(room) // 2)} or less"
        )
    model.eval()
    closing = encoder.template.closing
    thought = predictor.generate(rows, closing=closing, most=most)
    made = {
        row: encoder(replace(row.example, reasoning=found.text, reasoning_cut=bool(found.cut)))
        for row, found in thought.items()
    }
    cut = sum(bool(found.cut) for found in thought.values())
    ended = f"in {cut} of {len(thought)} rows it was cut there" if cut else "it ended in all rows"
    note = f"The chat template opens a block for reasoning: the model's own, up to {most} tokens, stands there; {ended}"
    notes = (note,) if thought else ()
    return {name: [made.get(row, row) for row in encoded] for name, encoded in sets.items()}, notes
