"""DPO and AltPO: another answer preferred. l: NLL of the answer to forget, w: of the one to give instead."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deleatur.errors import ConfigError, DataError
from deleatur.losses import DPO, NPO, AltPO
from deleatur.types import Example, Reference, TokenOutputs

LENGTHS, INSTEAD = (3, 1, 5), (2, 4, 1)
EXAMPLE = Example(id="people.jsonl:3", prompt=(("user", "Who?"),), answer="Ada", alternates=("Bo", "Cy"))


@pytest.fixture
def tokens(make_tokens: Callable[..., TokenOutputs]) -> TokenOutputs:
    return replace(make_tokens(LENGTHS), preferred=make_tokens(INSTEAD, seed=1))


def said(tokens: TokenOutputs, lose: Tensor, win: Tensor) -> Reference:
    by_rows = {tokens.rows: lose.detach(), tokens.preferred.rows: win.detach()}
    return Reference(nll=lambda asked: by_rows[asked.rows])


def start_of(tokens: TokenOutputs, shift: float = 0.0) -> Reference:
    """A start model that gave the same NLLs, the answers' to forget lower by `shift` a token."""
    return said(tokens, tokens.nll - shift, tokens.preferred.nll)


def evaluate(loss, tokens, g, reference) -> list[Tensor]:
    """Its value and the gradients of both NLLs."""
    value = loss(tokens, g, reference)
    return [value.detach(), *torch.autograd.grad(value, (tokens.nll, tokens.preferred.nll))]


def test_the_value_of_one_pair(make_tokens):
    """l rose from 2 to 3, w fell from 1.5 to .5: a margin of 2, and at β = 1 a value of −2·log σ(2) = 2·log(1 + e^−2)."""
    tokens = make_tokens((2,), nll=torch.tensor([1.0, 2.0]))
    tokens = replace(tokens, preferred=make_tokens((1,), seed=1, nll=torch.tensor([0.5])))
    start = said(tokens, torch.tensor([1.0, 1.0]), torch.tensor([1.5]))
    value, lose, win = evaluate(DPO(beta=1.0), tokens, torch.ones(2), start)
    assert value.item() == pytest.approx(2 * math.log1p(math.exp(-2)), rel=1e-6)
    pull = 2 / (1 + math.exp(2))  # −2·σ(−2) on each l, the opposite on w
    torch.testing.assert_close(lose, torch.tensor([-pull, -pull]))
    torch.testing.assert_close(win, torch.tensor([pull]))


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
def test_at_the_reference_each_sequence_gives_two_over_beta_log_two(tokens, beta):
    """−(2/β)·log σ(0); the gradient is −1 on answers to forget and 1 on those to give, whatever β."""
    value, lose, win = evaluate(DPO(beta=beta), tokens, torch.ones(9), start_of(tokens))
    assert value.item() == pytest.approx(3 * 2 / beta * math.log(2), rel=1e-6)
    torch.testing.assert_close(lose, -torch.ones(9))
    torch.testing.assert_close(win, torch.ones(7))


def test_it_is_npo_while_the_other_answer_stays_where_it_was(tokens):
    g = 0.1 + torch.rand(9, generator=torch.Generator().manual_seed(0))
    start = start_of(tokens, shift=0.7)
    value, lose, _ = evaluate(DPO(beta=0.3), tokens, g, start)
    npo = NPO(beta=0.3)(tokens, g, start)
    torch.testing.assert_close(value, npo.detach())
    torch.testing.assert_close(lose, torch.autograd.grad(npo, tokens.nll)[0])


def test_it_tends_to_ascent_on_one_and_descent_on_the_other_as_beta_tends_to_zero(tokens):
    start = start_of(tokens, shift=1.3)
    far = []
    for beta in (1e-1, 1e-2, 1e-3):
        _, lose, win = evaluate(DPO(beta=beta), tokens, torch.ones(9), start)
        far.append(max((lose + 1).abs().max().item(), (win - 1).abs().max().item()))
    assert far[2] < 1e-2
    assert far[1] / far[2] == pytest.approx(10, rel=0.05)


def test_only_the_shape_of_importance_within_an_answer_counts(tokens):
    """So that the learned importance before its first turn is plain DPO."""
    start = start_of(tokens, shift=0.4)
    plain = evaluate(DPO(), tokens, torch.ones(9), start)
    for g in (torch.full((9,), 0.5), torch.tensor([0.1, 9.0, 0.5])[tokens.sequence]):
        for a, b in zip(evaluate(DPO(), tokens, g, start), plain, strict=True):
            torch.testing.assert_close(a, b)


def test_importance_does_not_touch_the_answer_to_give_beyond_its_sequences_pull(tokens):
    """Its tokens all get the same gradient within a sequence."""
    g = 0.1 + torch.rand(9, generator=torch.Generator().manual_seed(0))
    _, _, win = evaluate(DPO(), tokens, g, start_of(tokens, shift=0.4))
    assert all(len(part.unique()) == 1 for part in win.split(INSTEAD))


def test_a_pair_that_is_distinguished_gets_no_gradient(tokens):
    """At β = 1 and 60 nats a token apart, the pull is below 2·σ(−60)."""
    _, lose, win = evaluate(DPO(beta=1.0), tokens, torch.ones(9), start_of(tokens, shift=60.0))
    assert max(lose.abs().max(), win.abs().max()) < 1e-24


def test_altpo_is_dpo_towards_other_answers(tokens):
    start = start_of(tokens, shift=0.4)
    for a, b in zip(
        *(evaluate(loss, tokens, torch.ones(9), start) for loss in (AltPO(beta=0.3), DPO(beta=0.3))), strict=True
    ):
        assert torch.equal(a, b)


def test_the_built_in_refusals_are_many_and_no_two_are_the_same():
    refusals = DPO().answers(EXAMPLE)
    assert len(set(refusals)) == len(refusals) >= 10
    assert all(r == r.strip() and r.endswith(".") for r in refusals)


def test_refusals_come_from_a_file_a_line_each(tmp_path: Path):
    (tmp_path / "refusals.txt").write_text("No.\n\n  Ich weiß es nicht. \r\nPas d'idée", encoding="utf-8")
    assert tuple(DPO(refusals=str(tmp_path / "refusals.txt")).answers(EXAMPLE)) == (
        "No.",
        "Ich weiß es nicht.",
        "Pas d'idée",
    )


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, r"loss\.refusals cannot be read from .*refusals\.txt .*; give a text file with one refusal a line"),
        (b"\xff\xfe\x00\x01", r"loss\.refusals cannot be read from .*; give a text file"),
        (b"", r"refusals\.txt holds no refusal; give a text file with one refusal a line"),
        (b" \n\t\n", r"holds no refusal"),
    ],
    ids=["missing", "not text", "empty", "blank"],
)
def test_a_file_without_refusals_is_refused_in_one_line(tmp_path: Path, content, match):
    if content is not None:
        (tmp_path / "refusals.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=match) as refused:
        DPO(refusals=str(tmp_path / "refusals.txt"))
    assert "\n" not in str(refused.value)


def test_a_folder_of_refusals_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"loss\.refusals cannot be read"):
        DPO(refusals=str(tmp_path))


def test_altpo_gives_the_rows_own_alternates():
    assert tuple(AltPO().answers(EXAMPLE)) == ("Bo", "Cy")


def test_altpo_refuses_a_row_without_alternates_by_its_name():
    with pytest.raises(DataError, match=r"row people\.jsonl:3 has no alternates; altpo needs at least one") as refused:
        AltPO().answers(replace(EXAMPLE, alternates=()))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("loss", [DPO, AltPO])
@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan"), float("inf")])
def test_a_beta_not_above_zero_is_refused(loss, beta):
    with pytest.raises(ConfigError, match=r"loss\.beta is .*, but must be above 0"):
        loss(beta=beta)
