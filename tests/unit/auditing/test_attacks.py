"""Single attacks, on weights, rows and numbers whose truth is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM

from deleatur.auditing.arms import Arm, halves
from deleatur.auditing.asking import Generator, Question
from deleatur.auditing.attacks import ATTACKS, EXPOSING, choose, depth, nearer
from deleatur.auditing.attacks.ask import WAYS
from deleatur.auditing.attacks.compress import NF4, ROUND, compress
from deleatur.auditing.attacks.relearn import nearest
from deleatur.auditing.cells import Answered, Cell, path_of, read_cell, write_cell
from deleatur.auditing.finetuning import restore_weights
from deleatur.auditing.settings import ATTACK_NAMES, AuditSettings, quick
from deleatur.auditing.states import changed, nll_with, states
from deleatur.data.encode import Encoder
from deleatur.data.spacing import evenly_spaced
from deleatur.data.world import World
from deleatur.errors import ConfigError
from deleatur.modeling.token_model import TokenModel
from deleatur.types import Encoded, Example

WEIGHT = torch.randn(24, 96, generator=torch.Generator().manual_seed(0))


def test_the_settings_know_every_attack() -> None:
    assert tuple(ATTACKS) == ATTACK_NAMES
    assert EXPOSING == ("compress", "relearn", "steer")


def test_q4_0_is_gguf_s_own() -> None:
    """To the bit, against the package that writes the files."""
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType.Q4_0
    theirs = gguf.quants.dequantize(gguf.quants.quantize(WEIGHT.numpy(), kind), kind)
    assert np.array_equal(ROUND["q4_0"](WEIGHT).numpy(), theirs)


def test_nf4_takes_the_nearest_of_its_levels() -> None:
    blocks = WEIGHT.view(-1, 64)
    rounded = ROUND["nf4"](WEIGHT).view(-1, 64) / blocks.abs().amax(1, keepdim=True)
    levels = torch.tensor(NF4)
    scaled = blocks / blocks.abs().amax(1, keepdim=True)
    best = levels[(scaled[..., None] - levels).abs().argmin(-1)]
    torch.testing.assert_close(rounded, best)


def test_int8_is_off_by_half_a_step_at_most() -> None:
    step = WEIGHT.abs().amax(1, keepdim=True) / 127
    assert bool(((ROUND["int8"](WEIGHT) - WEIGHT).abs() <= step / 2 + 1e-7).all())


@pytest.mark.parametrize(("name", "share"), [("prune10", 0.1), ("prune30", 0.3), ("prune50", 0.5)])
def test_pruning_takes_the_smallest(name: str, share: float) -> None:
    pruned = ROUND[name](WEIGHT)
    gone = pruned == 0
    assert int(gone.sum()) == int(share * WEIGHT.numel())
    assert float(WEIGHT[gone].abs().max()) <= float(WEIGHT[~gone].abs().min())
    assert torch.equal(pruned[~gone], WEIGHT[~gone])


def test_the_head_stays_and_everything_comes_back(make_llama: Callable[..., object]) -> None:
    model = TokenModel(make_llama())  # pyright: ignore
    held = {name: p.detach().clone() for name, p in model.lm.named_parameters()}
    with restore_weights(model):
        compress(model, "nf4")
        moved = {name for name, p in model.lm.named_parameters() if not torch.equal(p, held[name])}
        assert {name.split(".")[-2] for name in moved} == set(
            "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
        )
    assert all(torch.equal(p, held[name]) for name, p in model.lm.named_parameters())


def test_fused_experts_and_routers_are_rounded_too() -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64}
    lm = MixtralForCausalLM(MixtralConfig(**shape, num_key_value_heads=2, num_local_experts=3, bos_token_id=0))
    held = {name: p.detach().clone() for name, p in lm.named_parameters()}
    compress(TokenModel(lm), "prune50")
    same = {name for name, p in lm.named_parameters() if torch.equal(p, held[name])}
    assert all("norm" in name or "embed" in name or "lm_head" in name for name in same)
    experts = {name: p for name, p in lm.named_parameters() if "experts" in name}
    assert experts
    assert all(float((p == 0).float().mean()) == pytest.approx(0.5, abs=0.01) for p in experts.values())


@pytest.fixture(scope="module")
def arm(world: World, make_llama: Callable[..., object], plain: Encoder) -> Arm:
    generator = Generator(model=TokenModel(make_llama()), encoder=plain, new_tokens=6, batch=4)  # pyright: ignore
    sets = {"rows": world.forget, "retain": world.retain, "probe": world.retain[:4], "unseen": world.holdout}
    return Arm(name="audited", generator=generator, **sets, settings=AuditSettings(), folder=Path())


def test_every_way_asks_for_the_same_fact_and_none_gives_it_away(world: World, arm: Arm) -> None:
    for i, example in enumerate(world.forget):
        fact = example.answer[example.spans[0].start : example.spans[0].end]
        for name, way in WAYS.items():
            for q in way(Question(row=i, example=example), arm):
                text = " ".join(content for _, content in q.example.prompt) + q.lead
                assert q.row == i
                if name == "reversed":
                    assert q.example.answer == example.subject
                    assert str(example.subject) not in text
                else:
                    assert q.example.answer == example.answer
                    assert fact not in text


def test_shots_are_answered_retain_questions(world: World, arm: Arm) -> None:
    (q,) = WAYS["shots3"](Question(row=0, example=world.forget[0]), arm)
    shown = {(e.question, e.answer) for e in world.retain}
    turns = [content for _, content in q.example.prompt]
    assert [role for role, _ in q.example.prompt] == ["user", "assistant"] * 3 + ["user"]
    assert {*zip(turns[:6:2], turns[1:6:2], strict=True)} <= shown


def test_wrong_choices_are_other_answers(world: World) -> None:
    options = choose._options(world.forget[0], world.forget, 0)
    assert options[0] == world.forget[0].answer
    assert len(set(options)) == len(options) >= 2


def test_subjects_are_never_split_between_halves() -> None:
    assert halves(["a", "a", "b", "c", "b"]) == ([0, 1, 3], [2, 4])
    assert halves(["a", "a", "a"]) == ([0, 2], [1])


def test_the_nearest_retain_rows_are_worded_alike(world: World) -> None:
    """Of all retain rows about six facts, those about birthplaces come first for a birthplace."""
    wanted = [e for e in world.forget if "birthplace" in e.id]
    found = nearest(wanted, world.retain, 4)
    assert all("birth" in e.id for e in found)


def test_rows_are_spread() -> None:
    rows = [Example(id=str(i), prompt=(), answer="x") for i in range(10)]
    assert [e.id for e in evenly_spaced(rows, 3)] == ["0", "3", "6"]
    assert evenly_spaced(rows, 20) == rows


def test_the_scale_of_nearness_runs_from_control_to_original() -> None:
    """The original lies at 1, the control at 0, what is halfway at a half."""
    original, control = [[-0.1, -0.2], [-0.1]], [[-3.0, -1.0], [-2.0]]
    middle = [[(a + b) / 2 for a, b in zip(x, y, strict=True)] for x, y in zip(original, control, strict=True)]
    assert np.mean(nearer.places(original, control, original)) == pytest.approx(1)
    assert np.mean(nearer.places(control, control, original)) == pytest.approx(0)
    assert nearer.places(middle, control, original) == pytest.approx([0.5, 0.5])


def test_depth_weighs_layers_by_what_the_control_takes_away() -> None:
    """Layer 1 counts 3 nats, layer 0 one; .01 is under the threshold. Half of layer 1 erased: 1 − 1.5/4."""
    control = {"0": (1.0,), "1": (3.0,), "2": (0.01,)}
    assert depth.places(control, control, 0.05) == [0.0]
    assert depth.places(dict.fromkeys(control, (0.0,)), control, 0.05) == [1.0]
    assert depth.places({"0": (0.0,), "1": (1.5,), "2": (5.0,)}, control, 0.05) == pytest.approx([1 - 1.5 / 4])
    assert np.isnan(depth.places(control, dict.fromkeys(control, (0.0,)), 0.05)).all()


def test_a_models_own_states_change_nothing(make_llama: Callable[..., object], forget_rows: list[Encoded]) -> None:
    model, row = TokenModel(make_llama()), forget_rows[0]  # pyright: ignore
    seen = states(model, row)
    places = list(range(len(row.offsets)))
    for layer in range(model.layers):
        torch.testing.assert_close(
            nll_with(model, row, layer, places, seen[layer]), nll_with(model, row, layer, [], seen[layer][:0])
        )
        assert not torch.allclose(
            nll_with(model, row, layer, places, -seen[layer]), nll_with(model, row, layer, [], seen[layer][:0])
        )


def test_states_are_those_of_transformers(make_llama: Callable[..., object], forget_rows: list[Encoded]) -> None:
    """After the first layer, at the positions that predict the answer."""
    model, row = TokenModel(make_llama()), forget_rows[0]  # pyright: ignore
    with torch.no_grad():
        theirs = model.lm(torch.tensor([row.ids]), output_hidden_states=True).hidden_states[1][0, row.start - 1 : -1]
    torch.testing.assert_close(states(model, row)[0], theirs, rtol=1e-4, atol=1e-4)


def test_hooks_are_taken_off(make_llama: Callable[..., object], forget_rows: list[Encoded]) -> None:
    model, row = TokenModel(make_llama()), forget_rows[0]  # pyright: ignore
    before = states(model, row)
    with changed(model, {0: lambda out: out + 1}):
        assert not torch.allclose(states(model, row), before)
    assert torch.equal(states(model, row), before)


def test_a_cell_is_read_as_it_was_written(tmp_path: Path) -> None:
    answered = Answered(row=1, question="Who?", answer="Ada.", spans=((0, 3),), given=("Bob.", "Ada"))
    found = {"values": {"cloze": (0.5, None)}, "trained": (2.0, 1.0), "retain_nll": 0.25}
    cell = Cell(attack="ask", arm="audited", setting="plain", answered=(answered,), **found)
    write_cell(tmp_path, cell)
    path = path_of(tmp_path, "ask", "audited", "plain")
    assert '"health": 0.25' in path.read_text()  # the key that files of earlier audits have
    assert read_cell(path) == cell


@pytest.mark.parametrize("text", ["", "{}", '{"answered": 5}', "[1]"])
def test_a_broken_cell_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "cell.json").write_text(text)
    with pytest.raises(ConfigError, match="is not a result of an audit"):
        read_cell(tmp_path / "cell.json")


@pytest.mark.parametrize(
    "wrong",
    [
        {"attacks": ("beg",)},
        {"formats": ("int3",)},
        {"rows": 0},
        {"resamples": 10},
        {"ways": ("beg",)},
        {"strengths": (0.2, -0.5)},
        {"strengths": (1e-5,)},
        {"half_lrs": (float("nan"),)},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match="audit"):
        AuditSettings(**wrong)


def test_a_quick_audit_still_has_an_attack_that_detects_a_refuser() -> None:
    short = quick(AuditSettings())
    assert set(short.attacks) & set(EXPOSING)
    assert short.rows >= 10
    asked = quick(AuditSettings(attacks=("ask", "steer"), formats=("q4_0",)))
    assert (asked.attacks, asked.formats, asked.rows) == (("ask", "steer"), ("q4_0",), 24)
