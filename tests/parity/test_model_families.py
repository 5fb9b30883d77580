"""A handful of the families of `model_families.py`; the others are run by hand."""

from __future__ import annotations

import json

import pytest
from model_families import ROWS, try_family

SOME = {  # each for what another family of tests has not: who reads it can tell what broke
    "deepseek_v3": "fused experts, dense layers and shared experts whose names PEFT takes for those of experts",
    "phimoe": "a router that is a linear layer by its class",
    "mamba2": "norms with a gate, and a projection that kernels read past the layer",
    "rwkv": "answers of a batch are not those of one row",
    "recurrent_gemma": "a soft cap under a name of its own, and parameters of three dimensions that are no experts",
    "llama4_text": "a decoder under another name than the family says",
    "falcon": "attention that cannot be packed",
}


@pytest.mark.parametrize("family", SOME)
def test_a_family_gives_its_own_numbers_trained_adapted_saved_and_read_again(family, tmp_path):
    for name, pairs in ROWS.items():
        text = "".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in pairs)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    row = try_family(family, tmp_path)
    assert not row.fault, row
    assert row.lora is not None


def test_a_family_whose_readout_is_unknown_is_refused_in_a_sentence(tmp_path):
    """Its logits are multiplied where Granite's, of the same setting, are divided."""
    for name in ROWS:
        (tmp_path / f"{name}.jsonl").write_text('{"question": "?", "answer": "!"}\n', encoding="utf-8")
    row = try_family("hyperclovax", tmp_path)
    assert not row.fault
    assert "does something between its decoder and its logits" in row.said
