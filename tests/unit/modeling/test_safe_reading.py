"""Why a model cannot be loaded is seen from its files and where transformers stopped, not from an error's words."""

from __future__ import annotations

from transformers import LlamaConfig, T5Config
from transformers.dynamic_module_utils import resolve_trust_remote_code

from deleatur.errors import PickledWeights
from deleatur.modeling import safe_reading
from deleatur.modeling.safe_reading import describe, describe_load_failure

HUB = {"pretrained_model_name_or_path": "owner/model", "trust_remote_code": False}


def test_an_error_that_only_mentions_remote_code_or_pickles_is_given_as_it_is(monkeypatch):
    monkeypatch.setattr(safe_reading.AutoConfig, "from_pretrained", lambda **where: LlamaConfig())
    monkeypatch.setattr(safe_reading, "list_repo_files", lambda name, revision: ["model.safetensors", "optimizer.pt"])
    for text in ("trust_remote_code", "pickled", "safetensors", "for this kind of AutoModel"):
        assert describe_load_failure(ValueError(text), HUB) == text


def test_code_that_transformers_would_not_run_is_said_whatever_its_words():
    try:
        resolve_trust_remote_code(False, "owner/model", False, True, error_message="other words")
    except ValueError as e:
        assert "never run" in describe(e)
        assert "never run" in describe_load_failure(e, {"pretrained_model_name_or_path": "./none"})


def test_what_is_only_pickled_on_the_hub_is_named(monkeypatch):
    monkeypatch.setattr(safe_reading.AutoConfig, "from_pretrained", lambda **where: LlamaConfig())
    monkeypatch.setattr(safe_reading, "list_repo_files", lambda name, revision: ["config.json", "pytorch_model.bin"])
    assert "pickled (pytorch_model.bin)" in describe_load_failure(OSError("no such file"), HUB)
    assert "pickled, which" in describe_load_failure(PickledWeights(""), HUB)


def test_a_family_that_is_no_language_model_is_named(monkeypatch):
    monkeypatch.setattr(safe_reading.AutoConfig, "from_pretrained", lambda **where: T5Config())
    assert describe_load_failure(ValueError("x"), HUB).startswith("a T5 is no causal language model")
