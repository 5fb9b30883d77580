"""Forget loss × token importance: every pair either trains a model or is refused, naming both."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from deleatur.commands.inputs import rows_suite
from deleatur.config.method import name_of
from deleatur.config.run_config import Run
from deleatur.data.encode import Encoder
from deleatur.data.world import World
from deleatur.errors import ConfigError
from deleatur.importance import IMPORTANCES, SULLM, Learned, SatImp
from deleatur.losses import FORGET_LOSSES, RMU, Erase
from deleatur.modeling.session import Session
from deleatur.modeling.token_model import TokenModel
from deleatur.settings import Guard, Train
from deleatur.training.train import train
from deleatur.types import Encoded

LOSSES = {
    **{name: loss() for name, loss in FORGET_LOSSES.items()},
    "rmu": RMU(layer=0),
    "erase": Erase(level=4.0),
}  # the tiny model has two layers
CHOICES = {
    **{name: importance() for name, importance in IMPORTANCES.items()},
    "satimp": SatImp(beta1=1.0),  # to a higher power nothing is left of an untrained model's probabilities
    "learned": Learned(objective="complement"),
    "learned, matched": Learned(objective="matched"),
    "learned, joint": Learned(objective="matched", joint=True),
    "learned, predicting": Learned(objective="complement", state="predicting"),
}
PAIRS = [(loss, importance) for loss in LOSSES for importance in CHOICES]
TRAIN = Train(epochs=1, batch=2, lr=1e-3, alpha=0.0, weight_decay=0.0)  # two steps for four rows, moved by nothing else


def method(loss: str, importance: str) -> Run:
    """Raises ConfigError where the pair is none."""
    return Run(model="m", forget="f", retain="r", loss=LOSSES[loss], importance=CHOICES[importance], train=TRAIN)


def refusal(loss: str, importance: str) -> str | None:
    """Why a pair is refused; None where it is not."""
    try:
        method(loss, importance)
    except ConfigError as e:
        return str(e)
    return None


REFUSED = {pair: reason for pair in PAIRS if (reason := refusal(*pair)) is not None}
ACCEPTED = [pair for pair in PAIRS if pair not in REFUSED]


@dataclass(frozen=True)
class Bench:
    """A tiny model, untrained rows about the small world, and a model that it may have been before."""

    make_llama: Callable
    base: Path
    rows: dict[str, list[Encoded]]
    encoder: Encoder


@pytest.fixture(scope="module")
def bench(make_llama, make_tokenizer, world: World, plain: Encoder, tmp_path_factory) -> Bench:
    base = tmp_path_factory.mktemp("base")
    make_llama(seed=1).save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    forget = [plain(replace(e, alternates=("It is not so.", "Of that nothing is known."))) for e in world.forget[:4]]
    return Bench(
        make_llama=make_llama,
        base=base,
        rows={"forget": forget, "retain": [plain(e) for e in world.retain[:5]]},
        encoder=plain,
    )


def test_every_pair_is_one_or_the_other():
    """Eleven losses times twelve importances, the learned one in four guises. Refused are RMU with what reads probabilities
    or states (WGA, SatImp, ETW, learned four times), and the matched and the joint scorer with the seven other losses that
    need more than the answer's NLLs: DPO, AltPO, UNDIAL, JensUn, CE-U, PDU, erase."""
    assert len(PAIRS) == 11 * (11 + 4)
    assert len(REFUSED) == 7 + 2 * 7
    assert len(ACCEPTED) == 165 - 21
    assert {*ACCEPTED}.isdisjoint(REFUSED)


@pytest.mark.parametrize(("loss", "importance"), ACCEPTED)
def test_an_accepted_pair_trains(loss, importance, bench):
    """Two steps of finite loss, after which the forget loss alone has moved every weight; RMU those up to its layer."""
    run = method(loss, importance)
    if isinstance(run.importance, SULLM):
        run = replace(run, importance=replace(run.importance, base=str(bench.base)))
    model = TokenModel(bench.make_llama()).prepare()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    session = Session(model=model, encoder=bench.encoder, suite=rows_suite({}), rows=bench.rows)
    steps = train(session, replace(run, guard=Guard(retain=None, probe=None, stop=None)), {}).steps
    assert [s.step for s in steps] == [1, 2]
    assert all(torch.tensor([s.loss, s.forget_nll, s.retain_nll, s.grad_norm, s.importance]).isfinite().all() for s in steps)
    assert all(s.grad_norm > 0 for s in steps)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    still = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    beyond = {name for name in before if re.search(r"layers\.1|lm_head|model\.norm", name)}
    assert still == (beyond if loss == "rmu" else set())
    assert (steps[0].scorer is not None) == isinstance(run.importance, Learned)


@pytest.mark.parametrize(("loss", "importance"), REFUSED)
def test_a_refused_pair_is_refused_in_one_line_that_names_both(loss, importance):
    reason = REFUSED[loss, importance]
    assert "\n" not in reason
    assert f"loss {loss} with importance {name_of(CHOICES[importance])}" in reason
