"""Whether a package that only some commands need is installed, in a version that deleatur knows."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from deleatur.errors import ConfigError


def check_package(name: str, what: str) -> None:
    """Raise ConfigError where `what` needs a package that is not there, or is older than deleatur's own metadata asks."""
    wanted = _wanted(name)
    try:
        found = version(name)
    except PackageNotFoundError:
        found = None
    if found is None or not wanted.specifier.contains(found, prereleases=True):
        extra = next((e for e in ("gguf", "qlora") if wanted.marker and wanted.marker.evaluate({"extra": e})), None)
        how = f"pip install -U '{'deleatur[' + extra + ']' if extra else name + str(wanted.specifier)}'"
        raise ConfigError(f"{what} needs {name}{wanted.specifier}, and {found or 'none'} is installed: {how}")


def _wanted(name: str) -> Requirement:
    """deleatur's own requirement; any version where it was not installed but is only on the path."""
    try:
        every = [Requirement(line) for line in requires("deleatur") or ()]
    except PackageNotFoundError:
        every = []
    return next((r for r in every if r.name == name and "dev" not in str(r.marker)), Requirement(name))
