"""A package that is missing or too old: which version is wanted, which is there, what to type."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from deleatur.errors import ConfigError
from deleatur.io import packages
from deleatur.io.packages import check_package

REQUIRED = [
    "peft>=0.18",
    "gguf>=0.17; extra == 'gguf'",
    "bitsandbytes>=0.49; extra == 'dev'",
    "bitsandbytes>=0.50; extra == 'qlora'",
]


@pytest.fixture(autouse=True)
def own(monkeypatch):
    monkeypatch.setattr(packages, "requires", lambda name: REQUIRED)


def with_version(monkeypatch, found: str | None) -> None:
    def version(name: str) -> str:
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(packages, "version", version)


@pytest.mark.parametrize(
    ("name", "found", "said"),
    [
        ("peft", "0.17.1", r"it needs peft>=0\.18, and 0\.17\.1 is installed: pip install -U 'peft>=0\.18'$"),
        ("gguf", None, r"it needs gguf>=0\.17, and none is installed: pip install -U 'deleatur\[gguf\]'$"),
        ("bitsandbytes", "0.49.2", r"bitsandbytes>=0\.50, and 0\.49\.2 is installed: pip install -U 'deleatur\[qlora\]'$"),
    ],
)
def test_what_is_wanted_and_found_is_said_with_the_remedy(name, found, said, monkeypatch):
    with_version(monkeypatch, found)
    with pytest.raises(ConfigError, match=said):
        check_package(name, "it")


@pytest.mark.parametrize("found", ["0.18", "0.21.3", "1.0.0.dev0"])
def test_newer_ones_and_their_previews_are_fine(found, monkeypatch):
    with_version(monkeypatch, found)
    check_package("peft", "it")


def test_where_deleatur_itself_was_not_installed_any_version_is_fine(monkeypatch):
    def requires(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(packages, "requires", requires)
    with_version(monkeypatch, "0.0.1")
    check_package("peft", "it")
    with_version(monkeypatch, None)
    with pytest.raises(ConfigError, match="needs peft, and none is installed"):
        check_package("peft", "it")
