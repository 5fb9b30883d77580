"""What may be imported, and at what price."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

import pytest
import torch
import yaml
from jaxtyping import TypeCheckError

import deleatur
from deleatur.losses import NPO, GradientDifference
from deleatur.types import Reference, TokenOutputs

SOURCE = Path(deleatur.__file__).parent
MODULES = sorted(m.name for m in pkgutil.walk_packages(deleatur.__path__, "deleatur."))


@pytest.mark.parametrize("module", MODULES)
def test_every_module_can_be_imported_and_says_what_it_is(module):
    assert importlib.import_module(module).__doc__


def code_lines(node: ast.AST, lines: list[str]) -> int:
    """Lines of a class or function without docstrings and blank lines."""
    texts = (n for n in ast.walk(node) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))
    described = {i for n in texts for i in range(n.lineno, n.end_lineno + 1)}
    return sum(i not in described and bool(lines[i - 1].strip()) for i in range(node.lineno, node.end_lineno + 1))


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_a_file_keeps_to_the_budgets_of_contributing(path):
    """Lines of a file, of a function and of a method's part, parameters; what is public has a docstring."""
    text = path.read_text(encoding="utf-8")
    lines, method = text.splitlines(), path.parent.name in ("losses", "importance")
    assert len(lines) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            assert node.name.startswith("_") or ast.get_docstring(node), node.name
        if isinstance(node, ast.ClassDef) and method:
            assert code_lines(node, lines) <= 60, node.name
        if isinstance(node, ast.FunctionDef):
            assert code_lines(node, lines) <= (40 if path.parent.name == "metrics" else 50), node.name
            given = node.args
            every = (*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg)))
            assert sum(argument.arg not in ("self", "cls") for argument in every) <= 6, node.name


def test_nothing_heavy_is_imported_before_it_is_needed():
    """`--help` needs the parser, the settings and the tables; a second python, so that nothing is there already."""
    program = """
import contextlib, io, sys
import deleatur
from deleatur.cli.main import main
for verb in ("forget", "evaluate", "audit", "score", "report", "demo"):
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


@pytest.mark.parametrize("name", [name for name in deleatur.__all__ if name != "__version__"])
def test_a_public_name_is_the_object_of_the_module_that_defines_it(name):
    assert getattr(deleatur, name) is getattr(importlib.import_module(deleatur.MODULES[name]), name)
    assert name in dir(deleatur)


def test_the_page_on_python_lists_the_public_names_of_every_module():
    """docs/python.md against `__all__`, and each class among them has its place in the reference."""
    docs = Path(__file__).parents[2] / "docs"
    page, reference = ((docs / name).read_text(encoding="utf-8") for name in ("python.md", "reference.md"))
    listed = dict(re.findall(r"^\| `(deleatur\.\w+)` \| (`\w+`(?:, `\w+`)*) \|$", page, re.M))
    assert len(listed) == 10
    for module, names in listed.items():
        public = importlib.import_module(module).__all__
        assert sorted(re.findall(r"\w+", names)) == sorted(public), module
        classes = [name for name in public if isinstance(getattr(importlib.import_module(module), name), type)]
        assert not [name for name in classes if not re.search(rf"(\.|\W){name}\b", reference)], module


def test_every_public_name_has_an_origin_and_no_other_name_is_found():
    assert {*deleatur.MODULES, "__version__"} == set(deleatur.__all__)
    with pytest.raises(AttributeError, match="no attribute 'remember'"):
        deleatur.remember  # noqa: B018


def test_the_package_and_its_tables_are_imported_without_torch():
    """In a second python. `dir` imports nothing, the tables bring no torch, `TokenModel` does; `forget` brings nothing that
    only the end of a run needs (rouge-score's nltk and scikit-learn, scipy.stats, matplotlib)."""
    program = """
import sys
import deleatur
dir(deleatur)
assert not [m for m in sys.modules if m.startswith("deleatur.")]
assert all((deleatur.FORGET_LOSSES, deleatur.IMPORTANCES, deleatur.METRICS, deleatur.RECIPES))
from deleatur import auditing, config, errors, importance, losses, progress, protocols, requirements, settings
assert "torch" not in sys.modules
deleatur.TokenModel
assert "torch" in sys.modules
assert callable(deleatur.forget) and callable(deleatur.evaluate)
late = [m for m in ("nltk", "sklearn", "scipy.stats", "pandas", "matplotlib") if m in sys.modules]
assert not late, f"{late} are imported before the first step"
import deleatur.auditing.conduct
assert callable(deleatur.audit)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_version_is_the_same_everywhere():
    """In the package, in pyproject.toml, and in what others cite."""
    root = Path(__file__).parents[2]
    cited = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    built = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    assert deleatur.__version__ == built["project"]["version"] == cited["version"]


def test_the_marker_of_typed_packages_is_shipped():
    """PEP 561: with `py.typed` beside `__init__`, type checkers read the annotations of an installed package."""
    assert resources.files("deleatur").joinpath("py.typed").is_file()
