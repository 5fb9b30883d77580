"""How long a row may be: no longer than the model reads, or than its rotary factors are the same for."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import Phi3Config, Phi3ForCausalLM

from deleatur.errors import ModelError
from deleatur.modeling.checks import check_room
from deleatur.types import Encoded, Example


def row(length: int) -> Encoded:
    example = Example(id="a", prompt=(("user", "?"),), answer="x" * (length - 1))
    return Encoded(example=example, ids=(2,) * length, start=1, offsets=tuple((k, k + 1) for k in range(length - 1)))


def test_rows_that_change_the_rotary_factors_of_their_neighbours_are_refused():
    """transformers takes longrope's long factors for all that is run together once a row is above the original length."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    sizes: Any = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends: Any = {"vocab_size": 8, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 1}
    room: Any = {"original_max_position_embeddings": 32, "max_position_embeddings": 256, "rope_parameters": rope}
    model = Phi3ForCausalLM(Phi3Config(**sizes, **ends, **room))
    check_room(model, {"forget": [row(20), row(32)]}, "phi")
    with pytest.raises(
        ModelError, match=r"a row has 33 tokens, .* \(longrope\) .* above 32, .*; set data\.max_length to 32"
    ):
        check_room(model, {"forget": [row(20), row(33)]}, "phi")


def test_dynamic_factors_are_named_as_what_they_are(make_llama):
    """A model with dynamic factors does read longer rows, but not beside shorter ones."""
    model = make_llama(
        max_position_embeddings=16, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    )
    check_room(model, {"forget": [row(16)]}, "llama")
    with pytest.raises(ModelError, match=r"other rotary factors \(dynamic\) for sequences above 16, "):
        check_room(model, {"forget": [row(17), row(8)]}, "llama")
