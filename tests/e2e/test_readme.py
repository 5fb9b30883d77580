"""The README's commands run, word for word, but for the model's name; and it is short."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from page_commands import NAME, ROOT, blocks, run

README = ROOT / "README.md"
FULL_NAMES = re.compile(r"`[^`\n]*?(--[a-z][a-z.-]*)")


@pytest.fixture
def started(home, call, tmp_path, monkeypatch) -> list[str]:
    """All of the README's commands, in order, in the test's folder."""
    monkeypatch.setenv("PATH", f"{sys.prefix}/bin:/usr/bin:/bin")
    return [command for block in blocks(README, "bash") for command in run(block, home, call, tmp_path)]


def test_the_commands_run_in_order(started, tmp_path):
    """`pip install .` gives a package that works, with its templates; `make demo` is read only; rows are forgotten."""
    installed = tmp_path / "installed"
    program = "import deleatur.report.render as r; print(r.render.__module__); r.PackageLoader('deleatur.report', '')"
    told = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(installed)}, capture_output=True, text=True
    )
    assert told.stdout.strip() == "deleatur.report.render", told.stderr
    assert {p.name for p in (installed / "deleatur" / "report").glob("*.jinja")} >= {"page.html.jinja", "page.css.jinja"}
    assert "make demo" in started
    forget = next(command for command in started if command.startswith("deleatur forget")).split()
    out = tmp_path / forget[forget.index("--out") + 1]
    assert (out / "results.json").exists()
    assert (out / "report.html").exists()
    assert (out / "model").is_dir()


def test_the_python_block_runs_on_the_rows(home, call, tmp_path, monkeypatch, capsys):
    """And docs/how-to/metric.md goes on with what it left."""
    monkeypatch.chdir(tmp_path)
    rows = "".join(block for block in blocks(README, "bash") if "forget.jsonl" in block).partition("deleatur forget")[0]
    run(rows, home, call, tmp_path)
    (code,) = blocks(README, "python")
    assert NAME in code
    space: dict[str, object] = {}
    exec(compile(code.replace(NAME, str(home.model)), "README.md", "exec"), space)
    assert capsys.readouterr().out.strip()
    (metric,) = blocks(ROOT / "docs" / "how-to" / "metric.md", "python")
    exec(compile(metric, "metric.md", "exec"), space)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["before", "after"]


def test_it_is_short():
    """120 lines; no line of prose has more than 100 characters (test_site.py)."""
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120


def test_its_tree_names_every_package():
    tree = README.read_text(encoding="utf-8").partition("## The tree")[2]
    packages = [path.parent.name for path in (ROOT / "src" / "deleatur").glob("*/__init__.py")]
    assert [name for name in packages if f" {name}/ " not in tree] == []


def test_every_command_and_option_that_the_pages_name_exists(call):
    """Of the README and of docs/, in backticks; options of `docs/log.md` and its like are of their day."""
    verbs = (("forget",), ("forget", "--recipe", "npo"), ("score",), ("demo",), ("evaluate",), ("report",), ("bench",))
    verbs += (("audit",), ("export",), ("compare",), ("methods",), ("metrics",), ("rows",), ("request", "run"))
    verbs += (("forget", "--recipe", "atwu-scorer"),)
    helped = "".join(call(*args, "--help").out for args in verbs)
    usage = call().out
    dated = {"log", "results", "performance", "scale", "method"}
    pages = [README, *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.stem not in dated)]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        named = set(FULL_NAMES.findall(text)) - {"--help"}
        assert [option for option in sorted(named) if option not in helped] == [], page
        named = set(re.findall(r"`deleatur ([a-z]+)", text))
        assert [verb for verb in sorted(named) if f"\n  {verb} " not in usage] == [], page
