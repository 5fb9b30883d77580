"""What may be imported, and at what price."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest
import torch
from jaxtyping import TypeCheckError

import deleatur
from deleatur.losses import NPO, GradientDifference
from deleatur.types import Reference, TokenOutputs

MODULES = sorted(m.name for m in pkgutil.walk_packages(deleatur.__path__, "deleatur."))


@pytest.mark.parametrize("module", MODULES)
def test_every_module_can_be_imported_and_says_what_it_is(module):
    assert importlib.import_module(module).__doc__


def test_nothing_heavy_is_imported_before_it_is_needed():
    """`--help` needs the parser, the settings and the tables; a second python, so that nothing is there already."""
    program = """
import contextlib, io, sys
import deleatur
from deleatur.cli.main import main
for verb in ("forget", "evaluate", "score", "report", "demo"):
    heard = io.StringIO()
    try:
        with contextlib.redirect_stdout(heard):
            main([verb, "--help"])
    except SystemExit as e:
        assert not e.code, (verb, e.code)
    assert f"deleatur {verb}" in heard.getvalue(), verb
print([m for m in ("torch", "transformers", "accelerate", "peft", "datasets", "matplotlib", "scipy") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_shapes_are_checked_while_testing(make_tokens):
    """The hook in conftest: eight hidden states for nine tokens are refused by name; so are the losses' arguments."""
    good = make_tokens((4, 5))
    with pytest.raises(TypeCheckError, match="hidden"):
        TokenOutputs(nll=good.nll, hidden=good.hidden[1:], sequence=good.sequence, rows=good.rows)
    for loss in (GradientDifference(), NPO()):
        with pytest.raises(TypeCheckError, match="importance"):
            loss(good, torch.ones(9, 1), Reference(nll=lambda tokens: tokens.nll))


def test_forget_is_found_on_the_package():
    assert "forget" in deleatur.__all__
    assert callable(deleatur.forget)
    with pytest.raises(AttributeError, match="no attribute 'remember'"):
        deleatur.remember  # noqa: B018
