"""Weights rounded through a GGUF file by llama.cpp: a script stands for its tool, rounding to Q4_0 by the package gguf."""

from __future__ import annotations

import sys

import pytest
import torch
from test_gguf import SHAPE, make_model, make_tokenizer
from transformers import LlamaConfig

from deleatur.auditing.attacks.compress import q4_0
from deleatur.errors import ConfigError, ModelError
from deleatur.modeling.llama_cpp import TOOL, rounded_by_llama_cpp

BLOCKS_OF_32 = LlamaConfig(**SHAPE | {"intermediate_size": 64}, tie_word_embeddings=True)
SCRIPT = """#!{python}
import sys
from gguf import GGMLQuantizationType as Kind, GGUFReader, GGUFValueType, GGUFWriter, quants

source, target, kind = sys.argv[1:]
if kind != "Q4_0":
    sys.exit("no such kind")
reader = GGUFReader(source)
writer = GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
for name, field in reader.fields.items():
    if not name.startswith("GGUF.") and name != "general.architecture":
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], inner)
for tensor in reader.tensors:
    small = len(tensor.shape) < 2 or tensor.name.startswith(("token_embd", "output"))
    data = tensor.data if small else quants.quantize(tensor.data, Kind.Q4_0)
    writer.add_tensor(tensor.name, data, raw_dtype=Kind.F32 if small else Kind.Q4_0)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
"""


@pytest.fixture
def tool(tmp_path, monkeypatch):
    path = tmp_path / TOOL
    path.write_text(SCRIPT.format(python=sys.executable), encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_every_matrix_comes_back_in_its_place_as_the_tool_rounded_it(tool):
    """Rows of queries and keys change their order in the file, so that a matrix in the wrong order would not be equal."""
    model = make_model(BLOCKS_OF_32)
    rounded = rounded_by_llama_cpp(model, make_tokenizer(), "Q4_0")
    for name, weight in model.state_dict().items():
        linear = weight.ndim == 2 and "embed" not in name and "lm_head" not in name
        assert torch.allclose(rounded[name], q4_0(weight) if linear else weight, atol=1e-3 if linear else 0), name


def test_what_the_tool_says_is_passed_on(tool):
    with pytest.raises(ModelError, match="llama-quantize did not round the model to Q9: no such kind"):
        rounded_by_llama_cpp(make_model(BLOCKS_OF_32), make_tokenizer(), "Q9")


def test_a_missing_tool_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"needs llama.cpp's llama-quantize on the PATH"):
        rounded_by_llama_cpp(make_model(BLOCKS_OF_32), make_tokenizer(), "Q4_0")
