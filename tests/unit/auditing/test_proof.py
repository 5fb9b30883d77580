"""What an audit needs before it is conclusive: a judge, a control and a refuser that prove something."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from deleatur.auditing.arms import REFUSAL, is_refusal, loaded
from deleatur.auditing.conduct import _templates, conduct
from deleatur.auditing.controls import check_same
from deleatur.errors import ConfigError, ModelError
from deleatur.evaluation.judges.contained import Contained
from deleatur.modeling.loading import load, save
from deleatur.types import Record


@dataclass(frozen=True)
class Broken:
    """A judge that says nothing, or fails."""

    raises: bool
    name: str = "broken"

    def __call__(self, records: Sequence[Record]) -> list[float | None]:
        if self.raises:
            raise ModelError("the endpoint does not answer")
        return [None] * len(records)


@pytest.mark.parametrize("raises", [False, True])
def test_a_judge_that_fails_makes_every_judged_attack_void(
    workplace: Any, original_audit: Path, tmp_path: Path, raises: bool
) -> None:
    """The same answers, judged anew: what leaked without doubt is void."""
    shutil.copytree(original_audit, tmp_path / "audit")
    said = workplace.audit("original", tmp_path / "audit", Broken(raises))
    judged = [said["attacks"][name] for name in ("ask", "draw", "compress", "relearn")]
    assert {a["verdict"] for a in judged} == {"VOID"}
    assert all("judgements" in a["why"] for a in judged)


@dataclass(frozen=True)
class Constant:
    """A judge that says the same of every answer."""

    says: float
    name: str = "constant"

    def __call__(self, records: Sequence[Record]) -> list[float | None]:
        return [self.says] * len(records)


@pytest.mark.parametrize("says", [0.0, 1.0])
def test_a_judge_that_cannot_tell_answers_apart_makes_every_judged_attack_void(
    workplace: Any, tmp_path: Path, says: float
) -> None:
    """Cloze, which needs no judge, still separates the original."""
    shutil.copytree(workplace.folder / "audit", tmp_path / "audit")
    said = workplace.audit("second", tmp_path / "audit", Constant(says))
    judged = [said["attacks"][name] for name in ("ask", "draw", "compress", "relearn")]
    assert {a["verdict"] for a in judged} == {"VOID"}
    assert (said["verdict"], said["exit"]) == ("VOID", 3)


def test_a_control_of_noise_makes_every_attack_void(workplace: Any, tmp_path: Path) -> None:
    """It leaks nothing, and nothing is nearer to it than to the original."""
    inputs = workplace.inputs("second", retrained=str(workplace.folder / "noise"))
    short = replace(workplace.small, attacks=("ask", "member", "nearer"), refuser_steps=10)
    said = conduct(inputs, short, tmp_path, Contained())
    assert {a["verdict"] for a in said["attacks"].values()} == {"VOID"}
    assert "no language model" in said["why"]


def test_the_audited_model_is_not_its_own_control(workplace: Any, tmp_path: Path) -> None:
    shutil.copytree(workplace.folder / "second", tmp_path / "copy")
    inputs = workplace.inputs("second", retrained=str(tmp_path / "copy"))
    with pytest.raises(ConfigError, match="--retrained is the audited model itself"):
        conduct(inputs, workplace.small, tmp_path, Contained())


def test_the_audited_model_in_other_files_is_not_its_own_control(workplace: Any, tmp_path: Path) -> None:
    """The same weights, saved anew with something beside them, have another hash."""
    shutil.copytree(workplace.folder / "second", tmp_path / "copy")
    weights = tmp_path / "copy" / "model.safetensors"
    save_file(load_file(weights), weights, {"format": "pt", "beside": "them"})
    short = replace(workplace.small, attacks=("ask",), refuser_steps=10)
    (tmp_path / "out").mkdir()
    said = conduct(workplace.inputs("second", retrained=str(tmp_path / "copy")), short, tmp_path / "out", Contained())
    assert said["verdict"] == "VOID"
    assert "it is the same model" in said["attacks"]["ask"]["why"]


def test_tokens_of_unseen_rows_and_wrong_answers_are_checked_too(workplace: Any, tmp_path: Path) -> None:
    lm, tokenizer = load(str(workplace.folder / "second"))
    tokenizer.add_tokens(["<new>"])
    save(lm, tokenizer, tmp_path / "fewer")
    forget = tuple(replace(e, wrong=("In <new>.",)) for e in workplace.world.forget)
    holdout = tuple(replace(e, answer="In <new>.", spans=()) for e in workplace.world.holdout)
    sets: tuple[dict[str, Any], ...] = ({"forget": forget}, {"holdout": holdout})
    for rows in sets:
        with (
            pytest.raises(ModelError, match="use the tokenizer that belongs to the model"),
            loaded("audited", workplace.inputs(str(tmp_path / "fewer"), **rows), workplace.small, tmp_path),
        ):
            pass


def test_a_refuser_refuses_even_where_answers_are_too_short_for_facts(workplace: Any, tmp_path: Path) -> None:
    """Two tokens reveal nothing of any model; what is silent then must still be silent by refusing."""
    short = replace(workplace.small, new_tokens=2)
    with loaded("refuser", workplace.inputs("second"), short, tmp_path) as arm:
        answers = arm.generator.answer(arm.questions())
    assert json.loads((tmp_path / "refuser.json").read_text())["greedy_leak"] == 0
    assert sum(map(is_refusal, answers)) >= 0.8 * len(answers)


@pytest.mark.parametrize(
    ("answer", "refuses"), [(REFUSAL, True), ("I'm", True), ("I'm sorry, but no.", True), ("", False), ("In Rome.", False)]
)
def test_a_refusal_is_known_by_its_beginning(answer: str, refuses: bool) -> None:
    assert is_refusal(answer) is refuses


def test_a_prompt_that_leaves_no_room_for_its_answer_is_refused(workplace: Any, tmp_path: Path) -> None:
    short = replace(workplace.small, new_tokens=500)
    with (
        loaded("audited", workplace.inputs("second"), short, tmp_path) as arm,
        pytest.raises(ModelError, match="reads 512 in all; lower"),
    ):
        arm.generator.answer(arm.questions())


def test_tokens_that_a_model_does_not_know_are_refused(workplace: Any, tmp_path: Path) -> None:
    shutil.copytree(workplace.folder / "second", tmp_path / "fewer")
    lm, tokenizer = load(str(tmp_path / "fewer"))
    lm.resize_token_embeddings(len(tokenizer) // 2)
    save(lm, tokenizer, tmp_path / "fewer")
    inputs = workplace.inputs(str(tmp_path / "fewer"))
    with (
        pytest.raises(ModelError, match="use the tokenizer that belongs to the model"),
        loaded("audited", inputs, workplace.small, tmp_path),
    ):
        pass


def test_settings_with_too_few_rows_are_void_before_anything_is_computed(workplace: Any, tmp_path: Path) -> None:
    said = conduct(workplace.inputs("no such model"), replace(workplace.small, rows=5), tmp_path, Contained())
    assert (said["verdict"], said["why"]) == ("VOID", "5 rows are available, 10 are needed")


OTHER = "{% for m in messages %}{{ m['content'] if m['role'] == 'assistant' else m['content'] | upper }}\n{% endfor %}"


@pytest.fixture
def shouted(workplace: Any, tmp_path: Path) -> Path:
    """The original's own weights with a chat template that it was never trained on."""
    lm, tokenizer = load(str(workplace.folder / "original"))
    tokenizer.chat_template = OTHER
    save(lm, tokenizer, tmp_path / "shouted")
    return tmp_path / "shouted"


def test_every_model_is_asked_in_the_originals_chat_template(workplace: Any, shouted: Path, tmp_path: Path) -> None:
    """Else one that does not know the form of the questions would be clear with all facts in its weights."""
    inputs = workplace.inputs(str(shouted))
    with loaded("audited", inputs, workplace.small, tmp_path) as arm:
        assert arm.encoder.tokenizer.chat_template == load(inputs.original)[1].chat_template != OTHER
    assert _templates(inputs) == [f"the chat template of {shouted}: every model is asked in that of the original"]
    assert _templates(workplace.inputs("second")) == []


def test_an_audit_is_not_resumed_with_another_chat_template(workplace: Any, shouted: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    inputs = workplace.inputs(str(shouted))
    check_same(tmp_path / "out", inputs, workplace.small)
    check_same(tmp_path / "out", inputs, workplace.small)
    (shouted / "chat_template.jinja").write_text(OTHER.replace("upper", "lower"))
    with pytest.raises(ConfigError, match="an audit of other audited files"):
        check_same(tmp_path / "out", inputs, workplace.small)


def test_an_audit_of_an_adapter_is_not_resumed_on_another_base(workplace: Any, tmp_path: Path) -> None:
    base, adapter, out = (tmp_path / name for name in ("base", "adapter", "out"))
    shutil.copytree(workplace.folder / "second", base)
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    out.mkdir()
    check_same(out, workplace.inputs(str(adapter)), workplace.small)
    shutil.copy(workplace.folder / "original" / "model.safetensors", base)
    with pytest.raises(ConfigError, match="an audit of other audited files"):
        check_same(out, workplace.inputs(str(adapter)), workplace.small)


def test_a_rounded_copy_of_the_audited_model_is_no_control(workplace: Any, tmp_path: Path) -> None:
    """Its NLL differs by rounding alone."""
    lm, tokenizer = load(str(workplace.folder / "second"))
    with torch.no_grad():
        for p in lm.parameters():
            p.copy_(p.bfloat16().float())
    save(lm, tokenizer, tmp_path / "rounded")
    short = replace(workplace.small, attacks=("ask", "member"), refuser_steps=10)
    (tmp_path / "out").mkdir()
    said = conduct(workplace.inputs("second", retrained=str(tmp_path / "rounded")), short, tmp_path / "out", Contained())
    assert {a["verdict"] for a in said["attacks"].values()} == {"VOID"}
    assert "it is the same model" in said["why"]
