"""A user's own loss or importance comes in whole, or is refused with the declaration that it lacks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from deleatur.config.method import incompatibility
from deleatur.errors import ConfigError
from deleatur.importance import Uniform
from deleatur.losses import RMU, GradientDifference
from deleatur.plain_parts import PlainImportance, PlainLoss, PlainSettings, as_importance, as_loss
from deleatur.requirements import Requirements
from deleatur.settings import Lora, Train


class Bare:
    def __call__(self, *args):
        return 0


def having(**members) -> object:
    return type("Own", (Bare,), members)()


def test_what_is_only_called_is_taken_in():
    assert isinstance(as_loss(Bare()), PlainLoss)
    assert isinstance(as_importance(lambda tokens: tokens.nll), PlainImportance)
    assert isinstance(as_importance(SimpleNamespace(prepare=lambda start: None)), PlainSettings)


@pytest.mark.parametrize(
    ("member", "value"),
    [("unit", "sequence"), ("requires", Requirements(logits=True)), ("answers", lambda e: ["?"]), ("at_level", None)],
)
def test_a_loss_that_has_more_without_saying_so_is_refused(member, value):
    with pytest.raises(ConfigError, match=f'loss Own has {member}.*requires = Requirements.*unit = "token"'):
        as_loss(having(**{member: value}))


@pytest.mark.parametrize("member", ["update", "updates_after", "state_dict", "scorer"])
def test_an_importance_that_has_more_without_saying_so_is_refused(member):
    with pytest.raises(ConfigError, match=f"importance Own has {member}.*declare requires = Requirements"):
        as_importance(having(**{member: lambda *a: None}))


def test_with_the_declaration_it_is_itself():
    loss = having(unit="sequence", requires=Requirements(logits=True), answers=lambda e: ["?"])
    learns = having(requires=Requirements(), update=lambda f, r: {}, updates_after=lambda step: True)
    assert as_loss(loss) is loss
    assert as_importance(learns) is learns


@pytest.mark.parametrize("part", [5, "npo", object()])
def test_what_cannot_be_called_is_refused(part):
    for take in (as_loss, as_importance):
        with pytest.raises(ConfigError, match="which cannot be called"):
            take(part)


@pytest.mark.parametrize("field", ["divergence", "preferred", "start_nll", "start_logits", "start_layer"])
def test_an_importance_cannot_require_what_only_a_loss_reads(field):
    own = having(requires=Requirements(**{field: True}))
    assert f"an importance cannot require {field}" in (incompatibility(GradientDifference(), own, Train(), Lora()) or "")


def test_two_layers_are_refused_before_a_model_is_loaded():
    with pytest.raises(ConfigError, match="layer 7 and layer 0 cannot both be read"):
        incompatibility(RMU(layer=7), having(requires=Requirements(layer=0)), Train(), Lora())


def test_the_forward_computes_what_is_required():
    needs = Requirements(logits=True, layer=3, hidden_state="predicting")
    assert needs.forward == {"state": "predicting", "logits": True, "layer": 3}
    assert Uniform().requires.forward == {"state": "own", "logits": False, "layer": None}
