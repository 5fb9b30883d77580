"""The pages of docs/ that hold code or tables are what the code says."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser
from transformers import AutoModelForCausalLM, AutoTokenizer

import deleatur

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES, BENCHMARKS = DOCS.parent / "examples", DOCS.parent / "benchmarks"
LAUNCHERS = {"torchrun": get_args_parser, "accelerate launch": launch_command_parser}


def commands() -> list[str]:
    """Of the page on scale, and of the SkyPilot example."""
    page = (DOCS / "scale.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", page, re.M | re.S)
    task = yaml.safe_load((EXAMPLES / "sky.yaml").read_text(encoding="utf-8"))
    rented = [line.strip() for line in task["run"].splitlines() if "deleatur forget --model" in line]
    return [line for block in blocks for line in block.splitlines()] + rented


@pytest.mark.parametrize("command", commands())
def test_the_commands_on_scale_run(command, home, call, tmp_path):
    """Behind its launcher, whose own parser takes the rest, each is a command for one process too."""
    launched, ours = command.split("deleatur ", 1)
    for launcher, parser in LAUNCHERS.items():
        if launched.startswith(launcher):
            parsed = parser().parse_args([*shlex.split(launched.removeprefix(launcher)), "deleatur", *shlex.split(ours)])
            assert parsed.module
            launched = ""
    assert launched == ""
    for name in ("forget", "retain"):
        shutil.copy(home.file(name), tmp_path)
    told = re.sub(r"meta-llama/\S+", str(home.model), ours).replace("~/run", "run")
    said = call(*shlex.split(told), "--train.epochs", "1", "--evaluation.new-tokens", "4", "--keep.every", "None")
    assert said.code == 0, said.err


def test_the_table_of_memory_is_what_the_script_prints():
    made = subprocess.run([sys.executable, BENCHMARKS / "memory.py"], capture_output=True, text=True, check=True).stdout
    assert f"<!-- table -->\n{made}<!-- /table -->" in (DOCS / "scale.md").read_text(encoding="utf-8")


def test_the_importance_of_the_page_on_adding_one_runs_as_it_stands(home, capsys):
    """The page's two blocks, in order; the importance is 20 lines or fewer and stands in no table."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (DOCS / "adding.md").read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 2
    assert len(blocks[0].splitlines()) <= 20
    rows = {n: [json.loads(line) for line in home.file(n).read_text().splitlines()] for n in ("forget", "retain")}
    lm, tokenizer = AutoModelForCausalLM.from_pretrained(home.model), AutoTokenizer.from_pretrained(home.model)
    space: dict[str, object] = {"model": lm, "tokenizer": tokenizer} | rows
    for block in blocks:
        exec(compile(block, "adding.md", "exec"), space)
    outcome = space["outcome"]
    assert outcome.results["run"]["importance"] == {"name": "Capitals", "rest": 0.1}
    record = outcome.records["after"]["forget"][0]
    capitals = [record.answer[a:b].strip()[:1].isupper() for a, b in record.offsets]
    assert [i > 0.5 for i in record.importance] == capitals
    assert 0.5 < outcome.results["importance"]["roc_auc"] <= 1
    assert "Capitals" in capsys.readouterr().out


def test_the_page_of_methods_is_what_the_command_prints(call):
    page = (DOCS / "methods.md").read_text(encoding="utf-8")
    assert call("methods", "--markdown").out.strip() in page


def test_the_examples_of_the_page_on_python_run_in_order(home, tmp_path, monkeypatch, capsys):
    """The page's model and rows replaced by tiny ones; every public name of the package is in the page's table."""
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    table = page.split("| module |")[0]
    assert set(re.findall(r"^\| `deleatur\.(\w+)` \|", table, re.M)) == {*deleatur.__all__} - {"__version__"}
    for name in ("forget", "retain", "holdout"):
        shutil.copy(home.file(name), tmp_path)
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    for block in blocks:
        code = block.replace("HuggingFaceTB/SmolLM2-135M-Instruct", str(home.model))
        exec(compile(code, "python.md", "exec"), space)
    assert {f"deleatur.{name}" for name in deleatur.__all__ if name != "__version__"} <= set(
        re.findall(r"deleatur\.\w+", "".join(blocks))
    )
    assert len(capsys.readouterr().out.splitlines()) > len(blocks)
