"""Tasks of lm-eval (MMLU, TruthfulQA, GSM8K, …) on a model that is loaded already."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from deleatur.errors import ConfigError
from deleatur.settings import Evaluation


def run_lm_eval(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[str], settings: Evaluation
) -> dict[str, dict[str, Any]]:
    """Figures by task, as lm-eval names them ("acc,none", "acc_stderr,none"); at most `settings.rows` rows a task.

    Raises ConfigError where lm-eval is not installed or does not know a task.
    """
    names = ("lm_eval", "lm_eval.models.huggingface", "lm_eval.tasks")
    try:
        lm_eval, models, library = map(import_module, names)  # not `import`: type checkers need not have it
    except ImportError:
        raise ConfigError("--tasks needs lm-eval: pip install 'deleatur[lm-eval]'") from None
    known = library.TaskManager()
    if unknown := [task for task in tasks if not known.match_tasks([task])]:
        raise ConfigError(f"lm-eval knows no task {unknown[0]}; `lm-eval ls tasks` lists them")
    lm = models.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=settings.batch)
    made = lm_eval.simple_evaluate(model=lm, tasks=list(tasks), limit=settings.rows, task_manager=known, bootstrap_iters=0)
    return made["results"]
