"""What a launcher may ask for, and what is said where it cannot be had."""

from __future__ import annotations

import os

import pytest
import torch

from deleatur.distributed import processes
from deleatur.errors import ConfigError


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """The environment as `accelerate launch --use_deepspeed` leaves it, with stage 2; put back afterwards."""
    for name, value in {"USE_DEEPSPEED": "true", "DEEPSPEED_ZERO_STAGE": "2", "DEEPSPEED_ZERO3_INIT": "true"}.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)


def test_another_stage_of_zero_is_refused_with_the_flag_to_give(monkeypatch):
    monkeypatch.setattr(processes, "find_spec", lambda name: object())
    with pytest.raises(ConfigError, match=r"not 2; give accelerate launch --zero_stage 3$"):
        processes.start()


def test_deepspeed_that_is_asked_for_and_missing_is_one_line_with_the_extra_s_name(monkeypatch):
    monkeypatch.setattr(processes, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^DeepSpeed is not installed; pip install 'deleatur\[deepspeed\]'$"):
        processes.start()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to find")
def test_deepspeed_is_set_to_cpu_without_a_gpu(monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "")  # so that it is put back
    monkeypatch.delenv("DS_ACCELERATOR")
    with pytest.raises(ConfigError):
        processes.start()
    assert os.environ["DS_ACCELERATOR"] == "cpu"
