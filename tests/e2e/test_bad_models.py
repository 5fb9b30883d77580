"""Models and scorers that cannot be used: one line, and nothing touched."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from deleatur.data.encode import encode_all, make_encoder
from deleatur.errors import DeleaturError
from deleatur.modeling.gguf import plan_gguf, write_gguf
from deleatur.modeling.loading import load
from deleatur.settings import Data

MANY = settings.default.max_examples


def harm(model: Path, file: str, content: Callable[[bytes], bytes] | None) -> None:
    path = model / file
    path.unlink() if content is None else path.write_bytes(content(path.read_bytes()))


def changed(**settings: object) -> Callable[[bytes], bytes]:
    return lambda old: json.dumps(json.loads(old) | settings).encode()


HARMED = {  # name → the file, and what becomes of it
    "no weights": ("model.safetensors", None),
    "weights cut off": ("model.safetensors", lambda old: old[: len(old) // 2]),
    "no safetensors": ("model.safetensors", lambda _: b"x" * 1000),
    "no bytes": ("model.safetensors", lambda _: b""),
    "no config": ("config.json", None),
    "broken config": ("config.json", lambda _: b"{"),
    "unknown family": ("config.json", changed(model_type="nothing")),
    "weights of another shape": ("config.json", changed(hidden_size=64)),
    "too few weights": ("config.json", changed(num_hidden_layers=3)),
    "no tokenizer": ("tokenizer.json", None),
    "broken tokenizer": ("tokenizer.json", lambda _: b"{"),
}


@pytest.mark.parametrize("name", HARMED)
def test_an_incomplete_model_folder_is_refused(name, home, tmp_path, refused):
    shutil.copytree(home.model, tmp_path / "model")
    harm(tmp_path / "model", *HARMED[name])
    line = refused(*home.forget("run", "--model", tmp_path / "model"))
    assert str(tmp_path / "model") in line


@pytest.fixture(scope="session")
def gguf(home, tmp_path_factory) -> Path:
    """A folder with the tiny model as model.gguf."""
    folder, (model, tokenizer) = tmp_path_factory.mktemp("gguf"), load(str(home.model))
    write_gguf(plan_gguf(model, tokenizer), model, tokenizer, folder / "model.gguf", licence=None)
    return folder


HEADER = 8000  # bytes; behind them a file of weights has only numbers
FILES = ("model.gguf", "model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
JSON = (b"null", b"-1", b"1e999", b"NaN", b"[]", b"{}", b'"x"', b"true", b"10000000000")
places = st.tuples(st.floats(0, 1), st.integers(0, 8), st.binary(max_size=8) | st.sampled_from([b"\xff" * 8, bytes(8)]))


@settings(max_examples=MANY, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FILES), st.lists(places, min_size=1, max_size=3), st.sampled_from(JSON), st.data())
def test_whatever_is_changed_in_a_models_files_it_can_be_used_or_is_refused(
    home, gguf, tmp_path, name, changes, value, data
):
    """Bytes anywhere in the header, or in JSON another value where one stood."""
    model = tmp_path / "model"
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(gguf if name == "model.gguf" else home.model, model)
    old = (model / name).read_bytes()
    if values := re.findall(rb'": ("[^"]*"|[\w.-]+)', old) if name.endswith(".json") and data.draw(st.booleans()) else []:
        old = old.replace(b": " + data.draw(st.sampled_from(sorted({*values}))), b": " + value, 1)
    else:
        for place, gone, new in changes:
            at = int(place * min(len(old), HEADER))
            old = old[:at] + new + old[at + gone :]
    (model / name).write_bytes(old)
    try:
        lm, tokenizer = load(str(model / name if name == "model.gguf" else model))
        encode_all(make_encoder(tokenizer, Data()), home.world.forget)
        assert lm.num_parameters() > 0
    except DeleaturError as e:
        assert len(str(e).splitlines()) == 1


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "nowhere.gguf", "no/such-model", "nowhere", ""])
def test_a_model_that_is_not_there_is_refused(name, home, refused):
    assert name in refused(*home.forget("run", "--model", name))


def test_a_folder_or_file_that_is_no_model_is_refused(home, tmp_path, refused):
    (tmp_path / "folder").mkdir()
    (tmp_path / "model.gguf").write_bytes(b"no GGUF")
    assert "folder" in refused(*home.forget("run", "--model", "./folder"))
    assert "model.gguf" in refused(*home.forget("run", "--model", "model.gguf"))
    assert "forget.jsonl" in refused(*home.forget("run", "--model", home.file("forget")))


def test_a_model_with_a_weight_that_is_no_number_is_refused(home, tmp_path, refused):
    model = LlamaForCausalLM.from_pretrained(home.model)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    model.save_pretrained(tmp_path / "nan")
    AutoTokenizer.from_pretrained(home.model).save_pretrained(tmp_path / "nan")
    assert "layers.1.mlp.up_proj.weight" in refused(*home.forget("run", "--model", "./nan"))
    assert "layers.1.mlp.up_proj.weight" in refused("evaluate", "--model", "./nan", *home.rows)


def test_a_tokenizer_without_eos_is_refused_and_one_without_pad_is_not(home, tmp_path, refused, call):
    shutil.copytree(home.model, tmp_path / "model")
    settings = tmp_path / "model" / "tokenizer_config.json"
    told = json.loads(settings.read_text(encoding="utf-8"))
    assert told.pop("eos_token") == "</s>"
    assert "pad_token" not in told
    settings.write_text(json.dumps(told), encoding="utf-8")
    assert "no eos token" in refused(*home.forget("run", "--model", "./model"))
    assert call(*home.forget("run", "--train.epochs", "1")).code == 0


def test_a_tokenizer_of_more_words_than_the_model_is_refused(home, tmp_path, refused):
    model = LlamaForCausalLM.from_pretrained(home.model)
    model.resize_token_embeddings(300)
    model.save_pretrained(tmp_path / "small")
    AutoTokenizer.from_pretrained(home.model).save_pretrained(tmp_path / "small")
    assert "small knows tokens 0 to 299" in refused(*home.forget("run", "--model", "./small"))


def test_a_token_that_no_row_has_does_no_harm(home, tmp_path, call, refused):
    """As a text model keeps the token that stands for an image: refused only where a row has it."""
    shutil.copytree(home.model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(home.model)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(tmp_path / "model")
    assert call("evaluate", "--model", "./model", *home.rows).code == 0
    (tmp_path / "odd.jsonl").write_text('{"question": "What is <image>?", "answer": "A token."}\n', encoding="utf-8")
    said = refused("evaluate", "--model", "./model", "--forget", "odd.jsonl", "--retain", home.file("retain"))
    assert "use the tokenizer that belongs to the model" in said


def test_rows_longer_than_the_model_can_read_are_refused(home, tmp_path, refused):
    tokenizer = AutoTokenizer.from_pretrained(home.model)
    ends = {"bos_token_id": 0, "eos_token_id": 1}
    GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), n_positions=16, n_embd=16, n_layer=1, n_head=2, **ends)
    ).save_pretrained(tmp_path / "short")
    tokenizer.save_pretrained(tmp_path / "short")
    assert "16" in refused(*home.forget("run", "--model", "./short"))


def test_a_chat_template_that_is_asked_for_must_be_there(home, refused):
    assert "no chat template" in refused(*home.forget("run", "--data.template", "chat"))


def test_a_scorer_of_another_width_is_refused(run_folder, home, refused):
    line = refused("score", "run", "--model", home.wide)
    assert "width 32" in line
    assert "48" in line


def test_training_that_leaves_the_numbers_is_refused_and_no_model_is_saved(home, tmp_path, call):
    """At a rate of 1e38 one step overflows; the folder keeps the record of the steps, and nothing to load."""
    for epochs in (1, 3):
        said = call(*home.forget(f"run-{epochs}", "--train.lr", "1e38", "--train.batch", "6", "--train.epochs", epochs))
        assert said.code == 4
        assert [x for x in said.err.splitlines() if "deleatur: " in x] == said.err.splitlines()[-1:]
        assert "lower train.lr" in said.err
        left = {p.name for p in (tmp_path / f"run-{epochs}").iterdir()}
        assert left - {"checkpoints"} == {"run.yaml", "data.json", "records", "steps.jsonl"}
        assert not list((tmp_path / f"run-{epochs}").rglob("state.safetensors"))


def test_an_adapter_that_names_no_base_is_refused(home, tmp_path, refused):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    said = refused("forget", "--model", tmp_path / "adapter", *home.rows, "--out", "run")
    assert "base_model_name_or_path" in said
