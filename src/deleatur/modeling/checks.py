"""What a model must fulfil before it is evaluated or trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel

from deleatur.distributed.processes import gather, part
from deleatur.errors import DeleaturError, ModelError
from deleatur.types import Encoded


def check_finite(model: PreTrainedModel, error: type[DeleaturError], where: str) -> None:
    """Refuse a model with a weight that is not finite: its outputs would mean nothing."""
    broken = [name for name, weight in model.named_parameters() if not bool(part(weight).isfinite().all())]
    for name in (name for found in gather(broken) for name in found):
        raise error(f"{name} holds a weight that is not finite, in {where}")


def check_room(model: PreTrainedModel, rows: Mapping[str, list[Encoded]], name: str) -> None:
    """Refuse rows that are longer than the model can read."""
    room = getattr(model.config, "max_position_embeddings", None)  # not every family has a limit
    longest = max(len(row.ids) for encoded in rows.values() for row in encoded)
    kind, turn = _other_rotation(model)
    if turn and longest > turn:
        raise ModelError(
            f"a row has {longest} tokens, and {name} has other rotary factors ({kind}) for sequences above {turn}, so "
            f"rows of both kinds cannot be run together; set data.max_length to {turn} or less"
        )
    if room and longest > room:
        raise ModelError(f"a row has {longest} tokens and {name} reads {room}; set data.max_length to {room} or less")


def _other_rotation(model: PreTrainedModel) -> tuple[str, int | None]:
    """The kind of rotary factors that transformers changes for all that is run together, and above which length."""
    given = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    for part_of in (
        given,
        *(p for p in given.values() if isinstance(p, Mapping)),
    ):  # one for all layers, or for kinds of them
        if (kind := part_of.get("rope_type")) in ("longrope", "dynamic"):
            length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
            return kind, part_of.get("original_max_position_embeddings", length)
    return "", None


def check_known(model: PreTrainedModel, rows: Mapping[str, Sequence[Encoded]], name: str) -> None:
    """Refuse a row with a token that the model has no row for. What else its tokenizer may know does no harm."""
    embedding: Any = model.get_input_embeddings()
    size: int = embedding.num_embeddings
    for kind, row in ((kind, row) for kind, encoded in rows.items() for row in encoded):
        if (most := max(row.ids)) >= size:
            raise ModelError(
                f"{kind} row {row.example.id} has token {most}, but {name} knows tokens 0 to {size - 1}; use the tokenizer "
                "that belongs to the model"
            )
