"""The two sizes of the demo, and the precision of the small one."""

from __future__ import annotations

import re

from deleatur.commands import demo_scale
from deleatur.commands.demo_scale import FULL, SMALL, UPPER, scale_of, trained_of
from deleatur.commands.options import Demo
from deleatur.settings import Data


def test_the_full_demo_is_the_one_of_the_results():
    """20 people, every weight, the chat template: what the tables of docs/results.md were made with."""
    assert scale_of(Demo(full=True)) is FULL
    assert (FULL.fine_tuning.only, FULL.forgetting.only, FULL.data, FULL.rate) == (None, None, Data(), 1.0)
    assert (Demo(full=True).size, Demo().size, Demo(full=True, people=3).size) == (20, 8, 3)


def test_where_bf16_is_slower_all_of_the_small_demo_is_in_fp32(monkeypatch):
    precisions = {}
    for faster in ("bf16", "fp32"):
        monkeypatch.setattr(demo_scale, "faster_precision", lambda faster=faster: faster)
        scale = scale_of(Demo())
        precisions[faster] = {part.precision for part in (scale.fine_tuning, scale.forgetting, scale.evaluation)}
    assert precisions == {"bf16": {"bf16"}, "fp32": {"fp32"}}


def test_the_small_demo_trains_the_layers_from_the_fifteenth_up_and_the_last_norm():
    names = ["embed_tokens.weight", *(f"layers.{i}.mlp.up_proj.weight" for i in (0, 9, 14, 15, 29)), "norm.weight"]
    trained = [name for name in names if re.search(UPPER, f"model.{name}")]
    assert trained == names[4:]
    assert {SMALL.fine_tuning.only, SMALL.forgetting.only} == {UPPER}


def test_of_a_model_of_another_depth_it_is_the_upper_half_too():
    assert (trained_of(UPPER, 30), trained_of(None, 18), trained_of("mlp", 18)) == (UPPER, None, "mlp")
    for layers, first in ((18, 9), (2, 1), (1, 0), (48, 24)):
        pattern = trained_of(UPPER, layers)
        names = ["model.embed_tokens.weight", *(f"model.layers.{i}.mlp.up_proj.weight" for i in range(layers))]
        assert [bool(re.search(pattern, name)) for name in names] == [False] * (1 + first) + [True] * (layers - first)
