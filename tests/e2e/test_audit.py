"""`deleatur audit` as a user has it: exit codes, the private folder, the page, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def of_model(home: Any, *more: object) -> tuple[object, ...]:
    return ("audit", home.model, "--original", home.model, *home.rows, *more)


def test_a_run_of_six_rows_is_void(call: Callable[..., Any], finished: Path, tmp_path: Path) -> None:
    """Its model, start model and rows are the run's own; six rows are too few, so nothing is asked, and it is no pass."""
    said = call("audit", finished, "--out", tmp_path / "audit")
    report = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert said.code == report["exit"] == 3
    assert "VOID: 6 rows are available, 10 are needed." in said.out
    assert report["models"]["audited"] == str(finished / "model")
    assert (tmp_path / "audit" / "audit.html").exists()
    assert (tmp_path / "audit").stat().st_mode & 0o777 == 0o700


def test_no_rows_are_void(call: Callable[..., Any], home: Any, tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("")
    rows = ("--forget", tmp_path / "none.jsonl", "--retain", home.file("retain"), "--holdout", home.file("holdout"))
    said = call("audit", home.model, "--original", home.model, *rows, "--out", tmp_path / "audit", "--json")
    assert said.code == 3
    assert json.loads(said.out)["verdict"] == "VOID"


def test_the_same_command_gives_the_same_audit_again(call: Callable[..., Any], finished: Path, tmp_path: Path) -> None:
    first, again = (call("audit", finished, "--out", tmp_path / "audit") for _ in range(2))
    assert (first.code, first.out) == (again.code, again.out)


def test_other_settings_are_another_audit(call: Callable[..., Any], finished: Path, tmp_path: Path) -> None:
    call("audit", finished, "--out", tmp_path / "audit")
    said = call("audit", finished, "--out", tmp_path / "audit", "--quick")
    assert said.code == 2
    assert "audit of other settings" in said.err


@pytest.mark.parametrize(("faster", "given"), [("bf16", ()), ("fp32", ()), ("bf16", ("--audit.precision", "fp32"))])
def test_an_audit_computes_in_the_faster_precision_unless_one_is_given(
    faster: str,
    given: tuple[str, ...],
    call: Callable[..., Any],
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deleatur.modeling.machine.faster_precision", lambda: faster)
    call("audit", finished, "--out", tmp_path / "audit", "--quick", *given)
    used = given[1] if given else faster
    for name in ("audit.json", "inputs.json"):
        assert json.loads((tmp_path / "audit" / name).read_text())["settings"]["precision"] == used


def test_a_folder_with_other_things_in_it_is_refused(call: Callable[..., Any], finished: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    said = call("audit", finished, "--out", tmp_path / "mine")
    assert said.code == 2
    assert "is not an audit folder" in said.err


def test_a_model_alone_needs_what_it_was(refused: Callable[..., str], home: Any) -> None:
    assert "give it as --original" in refused("audit", home.model, *home.rows)
    assert "no run at runs/misspelt; " in refused("audit", "runs/misspelt", *home.rows)


def test_decoys_are_not_the_rows_to_forget(refused: Callable[..., str], home: Any) -> None:
    rows = ("--forget", home.file("forget"), "--retain", home.file("retain"), "--holdout", home.file("forget"))
    assert "forget rows are holdout rows too" in refused("audit", home.model, "--original", home.model, *rows)


def test_attacks_that_lack_what_they_need_are_refused(refused: Callable[..., str], home: Any) -> None:
    said = refused(*of_model(home, "--holdout", home.file("holdout"), "--audit.attacks", "depth", "nearer"))
    assert "no attack can be made; depth: it needs a model never trained on the rows (--retrained)" in said


def test_an_adapter_is_audited_on_its_base(call: Callable[..., Any], home: Any, tmp_path: Path) -> None:
    """As PEFT saves it, beside nothing of the base; six rows are too few, so no more than its files are read."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(home.model)
    get_peft_model(lm, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    rows = (*home.rows, "--holdout", home.file("holdout"))
    said = call("audit", tmp_path / "adapter", "--original", home.model, *rows, "--out", tmp_path / "audit")
    assert said.code == 3, said.err
    assert "VOID" in said.out


def test_a_model_that_is_none_is_found_before_anything_is_computed(
    call: Callable[..., Any], finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    said = call("audit", finished, "--retrained", tmp_path / "empty", "--out", tmp_path / "audit")
    assert said.code == 2
    assert str(tmp_path / "empty") in said.err
    assert not (tmp_path / "audit").exists()


def test_without_attacks_there_is_no_audit(call: Callable[..., Any], finished: Path, tmp_path: Path) -> None:
    said = call("audit", finished, "--audit.attacks", "--out", tmp_path / "audit")
    assert said.code == 2
    assert "no attack can be made" in said.err
    assert not (tmp_path / "audit").exists()


def test_without_a_control_nothing_is_audited(refused: Callable[..., str], home: Any) -> None:
    assert "--holdout" in refused(*of_model(home))


def test_the_help_lists_every_attack(call: Callable[..., Any]) -> None:
    said = call("audit", "--help")
    assert said.code == 0
    assert "relearn" in said.out
    assert "Exits 0 when clear, 1 at a leak" in " ".join(said.out.replace("│", " ").split())


def test_an_audit_without_rows_to_keep_is_refused(call: Callable[..., Any], home: Any, tmp_path: Path) -> None:
    rows = ("--forget", home.file("forget"), "--holdout", home.file("holdout"))
    said = call("audit", home.model, "--original", home.model, *rows, "--out", tmp_path / "audit")
    assert said.code == 2
    assert "needs 2 rows to keep or more" in said.err
    assert not (tmp_path / "audit").exists()


def test_a_fault_of_the_tool_does_not_exit_as_a_leak(
    call: Callable[..., Any], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object) -> None:
        raise ZeroDivisionError("by hand")

    monkeypatch.setattr("deleatur.commands.audit.conduct", fails)
    said = call("audit", finished, "--out", tmp_path / "audit")
    assert said.code == 70
    assert "ZeroDivisionError: by hand" in said.err
    assert "a fault of deleatur's own" in said.err.splitlines()[-1]
