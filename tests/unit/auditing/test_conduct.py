"""Audits of tiny models whose truth is known: it has to come out, in both directions."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from deleatur.auditing.arms import loaded
from deleatur.auditing.attacks import ATTACKS
from deleatur.auditing.cells import read_cell
from deleatur.auditing.conduct import conduct, plan
from deleatur.auditing.controls import digest_of
from deleatur.auditing.helpers import start_helper
from deleatur.auditing.settings import ATTACK_NAMES, AuditSettings
from deleatur.auditing.work import Work
from deleatur.errors import ConfigError
from deleatur.evaluation.judges.contained import Contained
from deleatur.modeling.loading import save
from deleatur.progress import Progress
from deleatur.report.audit_page import write_audit_page
from deleatur.types import Example


@pytest.fixture(scope="module")
def of_original(original_audit: Path) -> dict[str, Any]:
    return json.loads((original_audit / "audit.json").read_text())


def test_the_original_leaks_under_every_attack_that_claims_power(workplace: Any, of_original: dict[str, Any]) -> None:
    """All but membership have it: of twelve rows against twenty-four the control's AUC alone strays too far."""
    assert (of_original["verdict"], of_original["exit"]) == ("LEAK", 1)
    verdicts = {name: a["verdict"] for name, a in of_original["attacks"].items()}
    assert verdicts.pop("member") in ("LEAK", "VOID")
    assert set(verdicts.values()) == {"LEAK"}


def test_a_model_never_trained_on_the_rows_does_not_leak(of_second: dict[str, Any]) -> None:
    """Twelve rows rule nothing out; on the two scales such a model is nearer to the control."""
    assert (of_second["verdict"], of_second["exit"]) == ("INCONCLUSIVE", 3)
    assert of_second["needed"] >= 59
    assert of_second["flags"] == []
    assert any(line.startswith("more than 2 subjects") for line in of_second["not_evaluated"])
    assert {of_second["attacks"][name]["verdict"] for name in ("nearer", "depth")} == {"CLEAR"}
    assert all(a["leaked"] == [] for a in of_second["attacks"].values())


def test_the_refuser_does_not_leak_under_questions_and_is_detected_by_other_attacks(of_second: dict[str, Any]) -> None:
    plain = of_second["attacks"]["ask"]["arms"]["refuser"]["settings"]["plain"]
    found = [name for name in ("compress", "relearn") if of_second["attacks"][name]["finds_refuser"]]
    assert of_second["refuser_leak"] == plain == 0
    assert found


def test_the_refuser_itself_is_found_leaking(workplace: Any, tmp_path: Path) -> None:
    """Saved as a model and audited as any other: clear to the plain question, and a leak of the whole."""
    with loaded("refuser", workplace.inputs("second"), workplace.small, workplace.folder / "audit") as arm:
        arm.model.lm.save_pretrained(tmp_path / "refuser")
        arm.encoder.tokenizer.save_pretrained(tmp_path / "refuser")
    said = workplace.audit(str(tmp_path / "refuser"), tmp_path / "audit")
    assert said["attacks"]["ask"]["arms"]["audited"]["settings"]["plain"] == 0
    assert said["verdict"] == "LEAK"
    assert "LEAK" in [said["attacks"][name]["verdict"] for name in ("compress", "relearn")]


def test_a_model_of_noise_is_damaged(workplace: Any, tmp_path: Path) -> None:
    said = workplace.audit("noise", tmp_path / "audit")
    assert "DAMAGED" in said["flags"]
    assert said["verdict"] != "LEAK"


@pytest.mark.parametrize("rows", [0, 3, 9])
def test_a_few_rows_are_void_and_no_model_is_loaded(workplace: Any, tmp_path: Path, rows: int) -> None:
    inputs = workplace.inputs("no such model", forget=workplace.world.forget[:rows])
    said = conduct(inputs, workplace.small, tmp_path, Contained())
    assert (said["verdict"], said["exit"]) == ("VOID", 3)
    assert said["why"] == f"{rows} rows are available, 10 are needed"


def test_a_control_that_knows_the_rows_makes_the_audit_void(workplace: Any, tmp_path: Path) -> None:
    """What was handed in as retrained is the original itself."""
    inputs = workplace.inputs("second", retrained=str(workplace.folder / "original"))
    short = AuditSettings(attacks=("ask",), ways=("plain",), new_tokens=16, refuser_steps=10)
    said = conduct(inputs, short, tmp_path, Contained())
    assert (said["verdict"], said["attacks"]["ask"]["verdict"]) == ("VOID", "VOID")
    assert "does not tell the two apart" in said["attacks"]["ask"]["why"]


def test_finished_cells_are_not_made_again(workplace: Any, tmp_path: Path) -> None:
    """One cell is taken away, as after a kill: it alone is made anew, and says the same."""
    shutil.copytree(workplace.folder / "audit", tmp_path / "audit")
    said = json.loads((tmp_path / "audit" / "audit.json").read_text())
    path = tmp_path / "audit" / "cells" / "relearn.audited.benign-60.json"
    before, made = json.loads(path.read_text()), []
    path.unlink()
    watched = Progress(evaluated=lambda *a: made.append(a[3]))
    again = conduct(workplace.inputs("second"), workplace.small, tmp_path / "audit", Contained(), watched)
    assert made == ["relearn benign-60 on audited"]
    assert json.loads(path.read_text()) | {"seconds": 0} == before | {"seconds": 0}
    assert {n: a["p"] for n, a in again["attacks"].items()} == {n: a["p"] for n, a in said["attacks"].items()}


def test_a_folder_of_another_audit_is_refused(workplace: Any, tmp_path: Path) -> None:
    few = {"forget": workplace.world.forget[:3]}
    conduct(workplace.inputs("second", **few), workplace.small, tmp_path, Contained())
    with pytest.raises(ConfigError, match="audit of other retain"):
        other = workplace.inputs("second", retain=workplace.world.retain[:9], **few)
        conduct(other, workplace.small, tmp_path, Contained())


def test_without_a_retrained_model_unseen_rows_are_evaluated_instead(workplace: Any) -> None:
    decoys = workplace.inputs("second", retrained=None)
    jobs, left_out = plan(decoys, workplace.small)
    assert decoys.rows_of("control") == workplace.world.holdout
    assert decoys.model_of("control") == decoys.audited
    assert {j.attack for j in jobs} == {"base", *workplace.small.attacks} - {"nearer", "depth"}
    assert [line.split(":")[0] for line in left_out][:2] == ["nearer", "depth"]


def test_marked_rows_are_not_compared_with_decoys_without_marks(workplace: Any) -> None:
    """Else words of the phrasing, which any model says, count as recovered on the decoys alone."""
    plain = tuple(replace(e, spans=()) for e in workplace.world.holdout)
    marked, mixed = (workplace.inputs("second", retrained=None, holdout=h) for h in (workplace.world.holdout, plain))
    assert not marked.unmarked and marked.rows_of("audited") == workplace.world.forget
    assert mixed.unmarked and not any(e.spans for arm in ("audited", "control", "original") for e in mixed.rows_of(arm))
    retrained = workplace.inputs("second", holdout=plain)
    assert not retrained.unmarked, "a retrained model is evaluated on the forget rows themselves"


def test_an_audit_with_decoys_runs_to_a_verdict(workplace: Any, tmp_path: Path) -> None:
    """Every attack that needs no retrained model, U asked about unseen rows as the control: it tells the original from a
    model that was never trained on the rows."""
    few = {"ways": ("plain", "again"), "strengths": (0.5,), "windows": 1, "random_directions": 1, "half_lrs": (1e-3,)}
    few |= {"half_epochs": 3, "benign_steps": (60,)}
    whole = replace(workplace.small, attacks=ATTACK_NAMES, **few)
    said = {}
    for name in ("original", "second"):
        (tmp_path / name).mkdir()
        source = None if name == "original" else tmp_path / "original"
        inputs = workplace.inputs(name, retrained=None)
        said[name] = conduct(inputs, whole, tmp_path / name, Contained(), controls=source)
    assert (said["original"]["verdict"], said["original"]["exit"]) == ("LEAK", 1)
    assert {a["verdict"] for n, a in said["original"]["attacks"].items() if n != "member"} == {"LEAK"}
    assert said["second"]["verdict"] == "INCONCLUSIVE", {n: a["why"] for n, a in said["second"]["attacks"].items()}
    assert said["second"]["attacks"].keys() == set(ATTACK_NAMES) - {"nearer", "depth"}
    assert any("a retrained model" in line for line in said["second"]["not_evaluated"])


def test_texts_without_questions_have_no_refuser(workplace: Any) -> None:
    texts = tuple(Example(id=e.id, prompt=(), answer=e.answer) for e in workplace.world.forget)
    jobs, left_out = plan(workplace.inputs("second", forget=texts), workplace.small)
    assert "refuser" not in {j.arm for j in jobs}
    assert "without questions" in left_out[0]


def test_rows_without_choices_leave_the_rest_of_the_audit(workplace: Any, tmp_path: Path) -> None:
    """Nothing is marked, so there is no other fact to choose: that attack is void, and the audit goes on."""
    plain = tuple(replace(e, spans=(), wrong=(), alternates=()) for e in workplace.world.forget)
    short = replace(workplace.small, attacks=("ask", "choose"), refuser_steps=10)
    said = conduct(workplace.inputs("second", forget=plain), short, tmp_path, Contained())
    assert said["attacks"]["choose"]["verdict"] == "VOID"
    assert said["attacks"]["choose"]["why"] == "no setting counts: not every model is evaluated in it"
    assert "samples: 56 of 64 to each question" in said["not_evaluated"]
    write_audit_page(tmp_path)


def test_models_with_another_tokenizer_or_size_can_be_audited(workplace: Any, tmp_path: Path, make_tokenizer: Any) -> None:
    """Token by token there is nothing to compare, nor a direction: these attacks are void."""
    torch.manual_seed(0)
    other = make_tokenizer()
    other.add_tokens([" was born in", " student of", " lives in"])
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    lm = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=len(other), max_position_embeddings=512))
    save(lm, other, tmp_path / "other")
    short = replace(workplace.small, attacks=("ask", "nearer", "steer", "depth"), strengths=(0.5,), windows=1)
    short = replace(short, random_directions=0, refuser_steps=10)
    said = conduct(workplace.inputs(str(tmp_path / "other")), short, tmp_path, Contained())
    assert {name: said["attacks"][name]["verdict"] for name in ("nearer", "steer", "depth")} == dict.fromkeys(
        ("nearer", "steer", "depth"), "VOID"
    )
    assert said["attacks"]["ask"]["verdict"] != "VOID"


def test_a_training_that_diverges_is_a_setting_that_does_not_count(workplace: Any, tmp_path: Path) -> None:
    short = replace(workplace.small, attacks=("relearn",), benign_steps=(2,), benign_lr=1e30)
    with loaded("original", workplace.inputs("second"), short, tmp_path) as arm:
        found = dict(ATTACKS["relearn"].run(arm, ["benign-2"]))["benign-2"]
        assert all(p.isfinite().all() for p in arm.model.lm.parameters())
    assert found.retain_nll == 1e9
    assert found.values == {"cloze": (None,) * len(workplace.world.forget)}


def test_other_marks_make_another_audit(workplace: Any) -> None:
    bare = [replace(e, spans=()) for e in workplace.world.forget]
    assert digest_of(bare) != digest_of(workplace.world.forget)
    assert digest_of(bare * 2) == digest_of(bare)


def test_arms_are_as_they_were_after_every_attack(workplace: Any, tmp_path: Path) -> None:
    """Weights come back bit by bit, hooks are gone: the plain answers are the same before and after."""
    with loaded("original", workplace.inputs("second"), workplace.small, tmp_path) as arm:
        held = {name: p.detach().clone() for name, p in arm.model.lm.named_parameters()}
        ATTACKS["steer"].prepare(arm)
        for attack, setting in (("relearn", "benign-60"), ("relearn", "half-0.01"), ("compress", "q4_0"), ("steer", "1-0")):
            list(ATTACKS[attack].run(arm, [setting]))
        assert {n for n, p in arm.model.lm.named_parameters() if not torch.equal(p, held[n])} == set()
        assert all(p.requires_grad for p in arm.model.lm.parameters())


def test_the_benign_training_goes_on_from_one_evaluation_to_the_next(workplace: Any, tmp_path: Path) -> None:
    """What is evaluated after 4 steps is the same whether 2 steps were evaluated in between or not, and not what 4 give that
    begin anew; an interrupted attack resumes to the same figures."""
    base = replace(workplace.small, attacks=("relearn",), benign_steps=(4, 2))
    with loaded("original", workplace.inputs("second"), base, tmp_path) as arm:
        both = dict(ATTACKS["relearn"].run(arm, ["benign-4", "benign-2"]))
        assert [*both] == ["benign-2", "benign-4"]
        (again,) = ATTACKS["relearn"].run(arm, ["benign-4"])
        assert again == ("benign-4", both["benign-4"])
        alone = replace(arm, settings=replace(base, benign_steps=(4,)))
        assert dict(ATTACKS["relearn"].run(alone, ["benign-4"]))["benign-4"].trained != both["benign-4"].trained


def work_in(folder: Path, workplace: Any) -> Work:
    """The work of a short audit, of which nothing is done."""
    folder.mkdir()
    inputs, short = workplace.inputs("second"), replace(workplace.small, attacks=("ask",), refuser_steps=10)
    return Work(inputs=inputs, settings=short, folder=folder, jobs=plan(inputs, short)[0], is_helper=True)


def test_a_helper_finds_what_its_starter_would(workplace: Any, tmp_path: Path) -> None:
    alone, helped = work_in(tmp_path / "alone", workplace), work_in(tmp_path / "helped", workplace)
    helper = start_helper(helped.task(), 1)
    alone.finish()
    assert helper.wait(timeout=180) == 0
    for job in alone.jobs:
        one, other = (replace(read_cell(work.cell(job)), seconds=0.0) for work in (alone, helped))
        assert one == other


def test_a_helper_ends_with_whoever_started_it(workplace: Any, tmp_path: Path) -> None:
    helper = start_helper(work_in(tmp_path / "audit", workplace).task(), 1)
    assert helper.stdin is not None
    helper.stdin.close()
    assert helper.wait(timeout=180) == 1
    assert not list(tmp_path.glob("audit/cells/*refuser*"))
