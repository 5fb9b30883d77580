"""lm-eval's tasks: the real thing where it is installed, on a task of our own; a stand-in for what goes in and out."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from deleatur.errors import ConfigError
from deleatur.evaluation.lm_eval_tasks import run_lm_eval
from deleatur.settings import Evaluation


def stand_in(monkeypatch, *, known=("mmlu",)):
    asked = {}

    def simple_evaluate(**settings):
        asked.update(settings)
        return {"results": {task: {"acc,none": 0.25} for task in settings["tasks"]}, "samples": "long"}

    manager = lambda: SimpleNamespace(match_tasks=lambda tasks: [t for t in tasks if t in known])  # noqa: E731
    monkeypatch.setitem(sys.modules, "lm_eval", SimpleNamespace(simple_evaluate=simple_evaluate))
    monkeypatch.setitem(sys.modules, "lm_eval.models", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", SimpleNamespace(HFLM=lambda **given: given))
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", SimpleNamespace(TaskManager=manager))
    return asked


def test_the_loaded_model_is_evaluated_and_results_are_returned_by_task(monkeypatch, llama, plain):
    asked = stand_in(monkeypatch)
    assert run_lm_eval(llama, plain.tokenizer, ["mmlu"], Evaluation(batch=7, rows=5)) == {"mmlu": {"acc,none": 0.25}}
    assert asked["model"] == {"pretrained": llama, "tokenizer": plain.tokenizer, "batch_size": 7}
    assert (asked["tasks"], asked["limit"]) == (["mmlu"], 5)


def test_an_unknown_task_is_refused_before_the_model_is_evaluated(monkeypatch, llama, plain):
    asked = stand_in(monkeypatch)
    with pytest.raises(ConfigError, match="knows no task mmul"):
        run_lm_eval(llama, plain.tokenizer, ["mmlu", "mmul"], Evaluation())
    assert asked == {}


def test_without_lm_eval_the_error_says_how_to_install_it(monkeypatch, llama, plain):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ConfigError, match="pip install"):
        run_lm_eval(llama, plain.tokenizer, ["mmlu"], Evaluation())
