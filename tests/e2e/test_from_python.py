"""`deleatur.forget` on a model in memory."""

from __future__ import annotations

import json

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

import deleatur
from deleatur.config.run_config import from_yaml
from deleatur.errors import ConfigError, DataError, ModelError
from deleatur.importance.atwu import Scorer
from deleatur.progress import Progress
from deleatur.settings import Evaluation, Lora, Train

QUICK = {"train": Train(epochs=2, batch=4, lr=1e-3), "evaluation": Evaluation(new_tokens=4)}


@pytest.fixture
def loaded(home):
    return AutoModelForCausalLM.from_pretrained(home.model), AutoTokenizer.from_pretrained(home.model)


@pytest.fixture(scope="module")
def rows(home) -> dict[str, list[dict]]:
    return {name: [json.loads(line) for line in home.file(name).open(encoding="utf-8")] for name in ("forget", "retain")}


def test_the_model_is_changed_in_place_and_comes_back_with_scorer_and_results(loaded, rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = [p.detach().clone() for p in loaded[0].parameters()]
    outcome = deleatur.forget(*loaded, **rows, **QUICK, recipe="atwu-scorer")
    assert outcome.model is loaded[0]
    assert any(not torch.equal(p, q) for p, q in zip(outcome.model.parameters(), start, strict=True))
    assert isinstance(outcome.scorer, Scorer)
    assert outcome.results["schema_version"] == 2
    assert len(outcome.steps) == outcome.results["cost"]["steps"] == 4
    assert len(outcome.records["after"]["forget"]) == 6
    json.dumps(outcome.results, allow_nan=False)
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_a_list_and_the_command_line_give_the_same_weights(loaded, rows, finished):
    """The same rows, settings and seed: the very weights of the run that the command line made."""
    sets = {name: Dataset.from_list(rows[name]) for name in rows}
    run = from_yaml(finished / "run.yaml")
    outcome = deleatur.forget(*loaded, **sets, train=run.train, evaluation=run.evaluation, recipe="atwu-scorer")
    saved = AutoModelForCausalLM.from_pretrained(finished / "model")
    assert all(torch.equal(p, q) for p, q in zip(outcome.model.parameters(), saved.parameters(), strict=True))


def test_adapters_are_merged_so_the_model_saves_as_a_plain_one(loaded, rows, tmp_path):
    outcome = deleatur.forget(*loaded, **rows, **QUICK, lora=Lora(rank=4), recipe="atwu-scorer")
    outcome.model.save_pretrained(tmp_path / "saved")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert torch.equal(saved(ids).logits, outcome.model(ids).logits)
    assert outcome.results["model"]["parameters"] == saved.num_parameters()


def test_a_method_without_a_scorer_returns_none(loaded, rows):
    assert deleatur.forget(*loaded, **rows, **QUICK, recipe="npo").scorer is None


def test_every_step_can_be_watched(loaded, rows):
    heard = []
    deleatur.forget(*loaded, **rows, **QUICK, progress=Progress(step=lambda step, steps: heard.append((step.step, steps))))
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_what_cannot_be_used_is_refused_before_the_model_is_touched(loaded, rows):
    start = [p.detach().clone() for p in loaded[0].parameters()]
    with pytest.raises(ConfigError, match="recipe is 'atuw'"):
        deleatur.forget(*loaded, **rows, recipe="atuw")
    with pytest.raises(DataError, match="6 of 6 forget rows are retain rows too"):
        deleatur.forget(*loaded, forget=rows["forget"], retain=rows["forget"])
    with pytest.raises(DataError, match="no rows"):
        deleatur.forget(*loaded, forget=[], retain=rows["retain"])
    with torch.device("meta"), pytest.raises(ModelError, match="not in memory; load it without device_map"):
        deleatur.forget(type(loaded[0])(loaded[0].config), loaded[1], **rows)
    with pytest.raises(ConfigError, match=r"train\.lr"):
        Train(lr=-1.0)
    assert all(torch.equal(p, q) for p, q in zip(loaded[0].parameters(), start, strict=True))


def test_a_model_with_a_broken_weight_is_refused(loaded, rows):
    with torch.no_grad():
        loaded[0].model.norm.weight[0] = torch.nan
    with pytest.raises(ModelError, match=r"model\.norm\.weight"):
        deleatur.forget(*loaded, **rows, **QUICK)
