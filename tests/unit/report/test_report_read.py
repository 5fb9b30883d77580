"""What is not a run folder is refused in one line that says what to do."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deleatur.errors import DeleaturError
from deleatur.run_folder.schema import read_folder

FILES = ("results.json", "steps.jsonl", "importance.jsonl", "records/before.jsonl", "records/after.jsonl")


def refusal(run: Path) -> str:
    with pytest.raises(DeleaturError) as caught:
        read_folder(run)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert name in refusal(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_cut_off_is_named(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2 + 3])
    assert "is not valid JSON" in refusal(folder)
    assert name in refusal(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_text_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\xff\xfe{}")
    assert name in refusal(folder)


def test_a_folder_without_results_is_no_run_folder(tmp_path: Path) -> None:
    assert "is not a run folder" in refusal(tmp_path)
    assert "is not a run folder" in refusal(tmp_path / "nowhere")


def test_another_version_is_refused(folder: Path) -> None:
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    (folder / "results.json").write_text(json.dumps(results | {"schema_version": 99}), encoding="utf-8")
    assert "schema_version 99" in refusal(folder)


@pytest.mark.parametrize(
    ("changed", "needle"),
    [
        ({"before": {"forget": {"revealed": {"value": "all", "n": 3, "se": 0.1}}}}, "before forget revealed value is 'all'"),
        ({"after": {"forget": {"revealed": {"value": 1.0, "se": 0.1}}}}, "after forget revealed has no 'n'"),
        ({"run": {"loss": {"name": "npo"}}}, "run has no 'importance'"),
        ({"fq": "high"}, "fq is 'high', but must be int or float or NoneType"),
        ({"model": None}, "model is None, but must be an object"),
    ],
)
def test_a_wrong_shape_is_refused_with_its_place(tmp_path: Path, make: Any, changed: dict[str, Any], needle: str) -> None:
    assert needle in refusal(make(tmp_path / "run", **changed))


def test_a_wrong_line_is_refused_with_its_number(folder: Path) -> None:
    lines = (folder / "importance.jsonl").read_text(encoding="utf-8").split("\n")
    row = json.loads(lines[2])
    row["tokens"][1]["importance"] = None
    lines[2] = json.dumps(row)
    (folder / "importance.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert "importance.jsonl, line 3, tokens 2 importance is None" in refusal(folder)


def test_line_separators_inside_of_strings_do_not_cut_a_line(folder: Path) -> None:
    """U+2028 and U+0085 may stand in JSON as they are; str.splitlines would cut there."""
    path = folder / "records" / "after.jsonl"
    row = {"set": "retain", "id": "x", "question": "a\u2028b", "answer": "c\u0085d", "generated": ""}
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n\n", encoding="utf-8")
    assert read_folder(folder).after == [row]


def test_unknown_keys_are_accepted(tmp_path: Path, make: Any) -> None:
    assert read_folder(make(tmp_path / "run", audit={"later": 1})).results["audit"] == {"later": 1}


def test_torch_is_not_imported(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from deleatur.report import write_report; write_report(Path(sys.argv[1]));"
        "sys.exit(', '.join(m for m in ('torch', 'transformers', 'matplotlib.pyplot') if m in sys.modules) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
