"""Templates to text, text to files: no network, no scripts, the same bytes for the same view."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from deleatur.errors import DataError
from deleatur.io.atomic import write_atomic
from deleatur.report.tables import by_judge, metric_name, percent, set_name


def render(template: str, view: dict[str, Any]) -> str:
    """A page of this package; whatever the view says stays text unless it is markup."""
    return _environment().get_template(template).render(view)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("deleatur.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "set_name": set_name, "metric_name": metric_name, "by_judge": by_judge}
    return environment


def put(path: Path, text: str) -> Path:
    """Write a file atomically, and return its path. Raises DataError where it cannot be written."""
    try:
        # a lone surrogate, which JSON lets through, becomes a reference that browsers show as U+FFFD
        write_atomic(path, text, errors="xmlcharrefreplace")
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}") from None
    return path
