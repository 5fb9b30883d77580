"""The commands and the Python that stand in a page, and how a test runs them on the tiny model."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    assert found, f"{page.name} has no block of {language}"
    return found


def commands(script: str) -> list[str]:
    """A script's commands: lines, with the here-documents that belong to them."""
    out: list[str] = []
    waiting = ""
    for line in script.splitlines():
        if waiting:
            out[-1] += f"\n{line}"
            waiting = "" if line == waiting else waiting
        elif line.strip() and not line.startswith("#"):
            out.append(line)
            here = re.search(r"<<-?\s*'?(\w+)'?", line)
            waiting = here[1] if here else ""
    return out


def run(script: str, home, call, folder: Path, *more: str) -> list[str]:
    """Run a script: commands of deleatur in this process (`more` behind `forget`), all others in a shell. Returns all."""
    ran = commands(script.replace(NAME, str(home.model)))
    for command in ran:
        verb, *args = shlex.split(command, comments=True)
        if verb == "deleatur":
            said = call(*args, *(more if args[0] == "forget" else ()))
            assert said.code == 0, f"{command}\n{said.err}"
        elif verb == "make":
            subprocess.run(["make", "-n", *args], cwd=ROOT, check=True, capture_output=True)
        elif verb == "pip":
            offline = ["--no-deps", "--no-build-isolation", "--no-index", "--target", folder / "installed"]
            subprocess.run(["pip", *args, *offline], cwd=ROOT, check=True, capture_output=True)
        else:
            subprocess.run(["bash", "-e", "-c", command], cwd=folder, check=True, capture_output=True)
    return ran
