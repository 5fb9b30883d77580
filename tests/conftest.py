"""Shapes in annotations are checked while testing; tiny models, tokenizers and a small world, all made in the process."""

from __future__ import annotations

import os
import typing
from collections.abc import Callable
from typing import Any

for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ[name] = "1"
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error", "ACCELERATE_USE_CPU": "true"}

import jaxtyping
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

jaxtyping.install_import_hook("deleatur", "beartype.beartype")
import deleatur.types

typing.TYPE_CHECKING = True  # losses and importances name their types only for a checker, so that --help is quick
import deleatur.importance
import deleatur.losses

typing.TYPE_CHECKING = False
for protocol in (deleatur.types.ForgetLoss, deleatur.types.Importance):
    typing.runtime_checkable(protocol)  # beartype asks isinstance of them
