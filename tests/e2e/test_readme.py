"""The README's commands run, word for word, but for the model's name."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"


def section(heading: str) -> str:
    """What stands under a heading, down to the next one of its rank or above."""
    found = re.search(rf"^(#+) {re.escape(heading)}$(.*?)(?=^#{{1,2}} |\Z)", README.read_text(encoding="utf-8"), re.M | re.S)
    assert found, f"README.md has no heading {heading!r}"
    return found[2]


def blocks(language: str, heading: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", section(heading), re.M | re.S)
    assert found, f"README.md has no block of {language} under {heading!r}"
    return found


def commands(script: str) -> list[str]:
    """A script's commands: lines, with the here-documents that belong to them and lines that a backslash continues."""
    out: list[str] = []
    waiting = ""
    for line in script.splitlines():
        if waiting or (out and out[-1].endswith("\\")):
            out[-1] += f"\n{line}"
            waiting = "" if line == waiting else waiting
        elif line.strip() and not line.startswith("#"):
            out.append(line)
            here = re.search(r"<<-?\s*'?(\w+)'?", line)
            waiting = here[1] if here else ""
    return out


def run(script: str, home, call, folder: Path) -> list[str]:
    """Run the commands of deleatur in this process, the others in a shell; returns deleatur's."""
    ran = []
    for command in commands(script.replace(NAME, str(home.model))):
        if command.startswith("deleatur "):
            said = call(*shlex.split(command, comments=True)[1:])
            assert said.code == 0, f"{command}\n{said.err}"
            ran.append(command)
        else:
            subprocess.run(["bash", "-e", "-c", command], cwd=folder, check=True, capture_output=True)
    return ran


@pytest.fixture
def started(home, call, tmp_path) -> list[str]:
    """The Quickstart's commands, run in the test's folder."""
    return [command for block in blocks("bash", "Quickstart") for command in run(block, home, call, tmp_path)]


def test_the_quickstart_runs(started, tmp_path):
    forget = started[0].split()
    assert forget[:2] == ["deleatur", "forget"]
    out = tmp_path / forget[forget.index("--out") + 1]
    assert (out / "results.json").exists()
    assert (out / "report.html").exists()


def test_the_python_block_runs_on_the_quickstarts_rows(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for block in blocks("bash", "Quickstart"):
        for command in commands(block):
            if not command.startswith("deleatur "):
                subprocess.run(["bash", "-e", "-c", command], cwd=tmp_path, check=True)
    (code,) = blocks("python", "From Python")
    assert NAME in code
    space: dict[str, object] = {}
    exec(compile(code.replace(NAME, str(home.model)), "README.md", "exec"), space)
    assert capsys.readouterr().out.strip()


def test_every_command_and_option_that_the_readme_names_exists(call):
    text = README.read_text(encoding="utf-8")
    verbs = (
        (),
        ("forget",),
        ("forget", "--recipe", "npo"),
        ("score",),
        ("demo",),
        ("evaluate",),
        ("report",),
        ("bench",),
        ("export",),
    )
    helped = "".join(call(*args, "--help").out for args in verbs)
    named = set(re.findall(r"`[^`\n]*?(--[a-z][a-z.-]*)", text))
    assert named
    assert [option for option in sorted(named - {"--help"}) if option not in helped] == []
    named = set(re.findall(r"`deleatur ([a-z]+)", text))
    assert [verb for verb in sorted(named) if f"\n  {verb} " not in call().out] == []
