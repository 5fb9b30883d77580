"""The learned importance: the scorer, what it minimises, and that neither player's turn touches the other's gradients."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import gelu

from deleatur.data.batches import collate
from deleatur.importance import Learned, Uniform
from deleatur.importance.atwu import LearnedImportance, Scorer, scorer_loss
from deleatur.losses import NPO, GradientDifference
from deleatur.modeling.token_model import TokenModel
from deleatur.protocols import TrainableImportance, TrainingContext
from deleatur.settings import Train
from deleatur.types import Reference, TokenOutputs

LENGTHS = (3, 1, 5)
DEFAULTS = Learned()
SATURATED = GradientDifference(saturation=2.0)
CASES = {  # data term of the scorer: the objective, and the model's forget loss
    "complement": (Learned(objective="complement", budget=0.3), SATURATED),
    "matched": (Learned(objective="matched", budget=0.3), SATURATED),
    "matched to NPO": (Learned(objective="matched", budget=0.3), NPO(beta=0.5)),
}


UNUSED = Reference()  # raises where it is asked
HALF = Reference(nll=lambda tokens: tokens.nll.detach() / 2)


def turn(importance: LearnedImportance, tokens: TokenOutputs) -> dict[str, float]:
    """A turn after a step without retain rows."""
    return importance.update(tokens, tokens.split(0)[0])


def learned(settings: Learned = DEFAULTS, loss=SATURATED, *, width: int = 4, turns: int = 10, **more) -> LearnedImportance:
    reference = HALF if loss.requires.start_nll else UNUSED
    how = {"train": Train(), "width": width, "steps": turns * settings.every} | more
    return LearnedImportance(settings, TrainingContext(loss=loss, reference=reference, **how))


def unsettle(scorer: Scorer, seed: int = 5) -> None:
    """Weights as they might be after some turns."""
    with torch.no_grad():
        for p in scorer.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)) / 2)


def data_term(g, nll, settings: Learned, loss) -> torch.Tensor:
    """The data term as method.md has it, over all sequences."""
    if settings.objective == "complement":
        return ((1 - g) * nll).sum() / len(g)
    if isinstance(loss, GradientDifference):
        return -sum(a * b * (-a * b).detach().exp() ** loss.saturation for a, b in zip(g, nll, strict=True)) / len(g)
    total = torch.zeros(())
    for a, b in zip(g.split(LENGTHS), nll.split(LENGTHS), strict=True):
        w = a * len(a) / a.sum()
        total = total - 2 / loss.beta * torch.sigmoid(loss.beta * ((w * b).sum() - (b / 2).sum())).log()
    return total / len(LENGTHS)


def objective(w, b, tokens: TokenOutputs, settings: Learned, loss) -> torch.Tensor:
    """J(w, b) of method.md, in plain words of torch; the population's gradient is that of g, its value that of g > ½."""
    g = torch.sigmoid(tokens.hidden @ w.flatten() + b)
    entropy = -(g * g.log() + (1 - g) * (1 - g).log()).mean()
    shares = [((part > 0.5).float() - part.detach() + part).mean() for part in g.split(LENGTHS)]
    population = sum((s - settings.budget) ** 2 for s in shares) / len(shares)
    regular = settings.entropy * entropy + settings.population * population + settings.l2 * ((w**2).sum() + (b**2).sum())
    return data_term(g, tokens.nll.detach(), settings, loss) + regular


class TestBeforeTheFirstTurn:
    def test_importance_is_one_half_everywhere(self, make_tokens):
        assert torch.equal(learned()(make_tokens(LENGTHS)), torch.full((9,), 0.5))

    def test_atwu_is_gradient_difference_at_half_weight(self, llama, forget_rows):
        """Σ ½·l is half of Σ l, and so is every gradient in the model."""
        model = TokenModel(llama).prepare()

        def gradients(importance) -> tuple[float, list[torch.Tensor]]:
            tokens = model(collate(forget_rows[:4]))
            value = GradientDifference()(tokens, importance(tokens), UNUSED)
            return value.item(), torch.autograd.grad(value, list(model.parameters()))

        half, ours = gradients(learned(width=32))
        whole, plain = gradients(Uniform())
        assert half == pytest.approx(whole / 2, rel=1e-6)
        for a, b in zip(ours, plain, strict=True):
            torch.testing.assert_close(a, b / 2)


class TestNeitherTurnTouchesTheOther:
    def test_the_models_turn_gives_the_scorer_no_gradient(self, llama, forget_rows):
        model, importance = TokenModel(llama).prepare(), learned(width=32)
        tokens = model(collate(forget_rows[:4]))
        g = importance(tokens)
        SATURATED(tokens, g, UNUSED).backward()
        assert not g.requires_grad
        assert all(p.grad is None for p in importance.scorer.parameters())
        assert all(p.grad is not None for p in model.parameters())

    def test_the_scorers_turn_gives_the_model_no_gradient_and_builds_no_graph_into_it(self, llama, forget_rows):
        """What it sees has no history, and no tensor of the model is saved or filled for it."""
        model, importance = TokenModel(llama).prepare(), learned(width=32)
        tokens = model(collate(forget_rows[:4])).detach()
        assert tokens.hidden.grad_fn is None
        assert tokens.nll.grad_fn is None
        before = [p.clone() for p in model.parameters()]
        turn(importance, tokens)
        assert all(p.grad is None for p in model.parameters())
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        assert importance.scorer.linear.weight.abs().sum() > 0

    @pytest.mark.parametrize("case", CASES)
    def test_even_from_outputs_with_a_history_the_scorers_loss_does_not_reach_the_model(self, case, llama, forget_rows):
        settings, loss = CASES[case]
        model, importance = TokenModel(llama).prepare(), learned(settings, loss, width=32)
        tokens = model(collate(forget_rows[:4]))
        g = importance.scorer(tokens.hidden).sigmoid()
        scorer_loss(g, tokens, settings, loss, HALF).sum().backward()
        assert all(p.grad is None for p in model.parameters())
        assert importance.scorer.linear.weight.grad.abs().sum() > 0


class TestObjective:
    @pytest.mark.parametrize("case", CASES)
    def test_value_and_gradients_are_those_of_the_formula(self, case, make_tokens):
        """J restated in `objective`, at a scorer in mid-course; the gradients by autograd through the restated lines."""
        settings, loss = CASES[case]
        tokens, importance = make_tokens(LENGTHS).detach(), learned(settings, loss)
        unsettle(importance.scorer)
        w, b = (p.detach().clone().requires_grad_() for p in importance.scorer.parameters())
        expected = objective(w, b, tokens, settings, loss)
        expected.backward()
        clipped = torch.nn.utils.clip_grad_norm_([w, b], settings.clip)
        figures = turn(importance, tokens)
        assert figures["scorer_loss"] == pytest.approx(expected.item(), rel=1e-5)
        assert figures["scorer_grad_norm"] == pytest.approx(clipped.item(), rel=1e-5)
        for p, q in zip(importance.scorer.parameters(), (w, b), strict=True):
            torch.testing.assert_close(p.grad, q.grad)

    @pytest.mark.parametrize("objective", ["complement", "matched"])
    def test_the_gradient_is_the_one_worked_out_by_hand(self, objective, make_tokens):
        """With N tokens and S sequences, dJ/dg_t is

            −l_t/N (complement) or −l_t·exp(−g_t·l_t)^β/N (matched: the fade is held fixed)
            + λ_entropy·ln((1 − g_t)/g_t)/N + λ_population·2·(share_s − budget)/(n_s·S)

        with share_s the share of g > ½ in the token's sequence of n_s; dJ/dscore = dJ/dg·g·(1 − g)."""
        settings = Learned(objective=objective, budget=0.3, entropy=0.7, population=4.0, l2=0.0)
        tokens = make_tokens(LENGTHS).detach()
        g = torch.linspace(0.05, 0.95, 9).roll(4).requires_grad_()
        by_token, by_sequence = scorer_loss(g, tokens, settings, SATURATED, UNUSED)
        (by_token / 9 + by_sequence / 3).backward()
        for t, (b, n) in enumerate((b, size) for b, size in enumerate(LENGTHS) for _ in range(size)):
            x, nll = g[t].item(), tokens.nll[t]
            share = (g[tokens.sequence == b] > 0.5).float().mean()
            data = -nll / 9 * ((-x * nll).exp() ** 2 if objective == "matched" else 1)
            by_hand = data + 0.7 * torch.tensor((1 - x) / x).log() / 9 + 4 * 2 * (share - 0.3) / (n * 3)
            torch.testing.assert_close(g.grad[t], by_hand, rtol=1e-4, atol=1e-6)

    def test_the_matched_data_term_is_the_models_own_forget_term(self, make_tokens):
        """Without regularisers the scorer minimises exactly what the model does, divided by the same count."""
        settings = Learned(objective="matched", entropy=0.0, population=0.0, l2=0.0)
        tokens = make_tokens(LENGTHS).detach()
        g = torch.rand(9, generator=torch.Generator().manual_seed(0))
        by_token, by_sequence = scorer_loss(g, tokens, settings, SATURATED, UNUSED)
        torch.testing.assert_close(by_token, SATURATED(tokens, g, UNUSED))
        assert by_sequence == 0

    def test_population_counts_tokens_above_one_half_in_each_sequence(self, make_tokens):
        """Of 4 and 2 tokens 1 and 2 are selected: (¼ − 0.2)² + (1 − 0.2)² = 0.6425."""
        settings = Learned(objective="complement", entropy=0.0, population=1.0, budget=0.2)
        g = torch.tensor([0.9, 0.5, 0.4, 0.1, 0.51, 0.99])
        by_sequence = scorer_loss(g, make_tokens((4, 2)).detach(), settings, SATURATED, UNUSED)[1]
        assert by_sequence.item() == pytest.approx(0.6425)

    def test_entropy_is_in_nats_and_finite_at_the_ends(self, make_tokens):
        """Two tokens at ½ give 2·ln 2; tokens at 0 and 1 next to nothing, with a gradient that is a number."""
        settings = Learned(objective="matched", entropy=1.0, population=0.0)
        none = make_tokens((4,), nll=torch.zeros(4)).detach()
        g = torch.tensor([0.5, 0.5, 0.0, 1.0], requires_grad=True)
        by_token = scorer_loss(g, none, settings, SATURATED, UNUSED)[0]
        by_token.backward()
        assert by_token.item() == pytest.approx(2 * 0.693147, abs=1e-4)
        assert torch.isfinite(g.grad).all()


class TestTurns:
    @pytest.mark.parametrize("case", CASES)
    def test_turns_are_sgd_with_momentum_decay_clip_and_a_rate_falling_to_nothing(self, case, make_tokens):
        """Four turns by hand: v ← m·v + clip(∇J) + d·p, p ← p − lr·(1 − k/4)·v for k = 0, 1, 2, 3."""
        settings, loss = CASES[case]
        settings = replace(settings, lr=0.2, momentum=0.8, weight_decay=0.01, clip=0.5, l2=0.1)
        importance = learned(settings, loss, turns=4)
        w, b = torch.zeros(1, 4), torch.zeros(1)
        speed = [torch.zeros_like(w), torch.zeros_like(b)]
        for k in range(4):
            tokens = make_tokens(LENGTHS, seed=k).detach()
            leaves = [w.requires_grad_(), b.requires_grad_()]
            gradients = torch.autograd.grad(objective(w, b, tokens, settings, loss), leaves)
            norm = torch.sqrt(sum((x**2).sum() for x in gradients))
            for i, (p, x) in enumerate(zip((w, b), gradients, strict=True)):
                speed[i] = 0.8 * speed[i] + x * min(1.0, 0.5 / norm.item()) + 0.01 * p.detach()
            w, b = (p.detach() - 0.2 * (1 - k / 4) * v for p, v in zip((w, b), speed, strict=True))
            turn(importance, tokens)
            torch.testing.assert_close(importance.scorer.linear.weight.detach(), w, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(importance.scorer.linear.bias.detach(), b, rtol=1e-4, atol=1e-5)

    def test_the_rate_falls_linearly_to_zero_over_the_turns(self, make_tokens):
        importance, rates = learned(Learned(lr=0.4), turns=4), []
        for _ in range(4):
            rates.append(importance.optimizer.param_groups[0]["lr"])
            turn(importance, make_tokens(LENGTHS).detach())
        assert rates == pytest.approx([0.4, 0.3, 0.2, 0.1])
        assert importance.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)

    def test_a_turn_is_due_after_every_so_many_steps(self):
        assert [step for step in range(1, 16) if learned(Learned(every=5)).updates_after(step)] == [5, 10, 15]
        assert isinstance(learned(), TrainableImportance)
        assert not isinstance(Uniform(), TrainableImportance)

    @pytest.mark.parametrize("case", CASES)
    @pytest.mark.parametrize("parts", [(1, 3), (1, 2, 3)])
    def test_a_window_in_parts_makes_the_same_scorer(self, case, parts, make_tokens):
        """The turn divides by the counts of all parts, so accumulation cannot bias it."""
        whole = make_tokens(LENGTHS).detach()
        pieces, rest = [], whole
        for a, b in zip((0, *parts), parts, strict=False):
            piece, rest = rest.split(b - a)
            pieces.append(piece)
        joined = TokenOutputs.join([p for p in pieces if p.rows])
        assert joined.rows == whole.rows
        assert torch.equal(joined.sequence, whole.sequence)
        one, other = (learned(*CASES[case]) for _ in range(2))
        for _ in range(3):
            turn(one, whole)
            turn(other, joined)
        for p, q in zip(one.scorer.parameters(), other.scorer.parameters(), strict=True):
            assert torch.equal(p, q)

    @pytest.mark.parametrize("first", [0, 1, 2])
    @pytest.mark.parametrize("case", CASES)
    def test_two_processes_that_sum_make_the_scorer_of_one(self, case, first, make_tokens):
        """Two threads with the first rows (or none) and the others, `total` adding up what both bring. Both log what one
        process would."""
        whole = make_tokens(LENGTHS).detach()
        alone = learned(*CASES[case])
        shares, figures = whole.split(first), [{}, {}]
        together = Together(2)
        both = [learned(*CASES[case], total=together.total) for _ in shares]

        def take_turns(i: int) -> None:
            for _ in range(3):
                figures[i] = turn(both[i], shares[i])

        threads = [threading.Thread(target=take_turns, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=20)
        for _ in range(3):
            expected = turn(alone, whole)
        for importance in both:
            for p, q in zip(importance.scorer.parameters(), alone.scorer.parameters(), strict=True):
                torch.testing.assert_close(p, q)
        for seen in figures:
            assert seen == pytest.approx(expected, rel=1e-5)


class TestNegatives:
    """`negatives`: the mean importance of retain tokens is in the scorer's loss."""

    def shown(self, make_tokens) -> tuple[TokenOutputs, TokenOutputs]:
        return make_tokens(LENGTHS).detach(), make_tokens((4, 2), seed=9).detach()

    @pytest.mark.parametrize("case", CASES)
    def test_the_loss_has_their_mean_importance_on_top_and_its_gradient(self, case, make_tokens):
        """J + λ·mean g over retain tokens, at a scorer in mid-course."""
        forget, retain = self.shown(make_tokens)
        settings, loss = CASES[case]
        importance = learned(replace(settings, negatives=0.7), loss)
        unsettle(importance.scorer)
        w, b = (p.detach().clone().requires_grad_() for p in importance.scorer.parameters())
        mean = torch.sigmoid(retain.hidden @ w.flatten() + b).mean()
        expected = objective(w, b, forget, settings, loss) + 0.7 * mean
        expected.backward()
        torch.nn.utils.clip_grad_norm_([w, b], settings.clip)
        assert importance.update(forget, retain)["scorer_loss"] == pytest.approx(expected.item(), rel=1e-5)
        for p, q in zip(importance.scorer.parameters(), (w, b), strict=True):
            torch.testing.assert_close(p.grad, q.grad)

    def test_without_them_retain_tokens_are_not_looked_at(self, make_tokens):
        forget, retain = self.shown(make_tokens)
        one, other = learned(), learned()
        assert turn(one, forget) == other.update(forget, retain)
        for p, q in zip(one.scorer.parameters(), other.scorer.parameters(), strict=True):
            assert torch.equal(p, q)

    def test_retain_tokens_end_with_less_importance(self, make_tokens):
        """Rows of forget tokens, half of which look like retain tokens: with negatives these are spared."""
        forget, retain = make_tokens((10, 10), width=8).detach(), make_tokens((10, 10), width=8, seed=3).detach()
        shared = torch.arange(20) % 2 == 0
        direction = torch.where(shared[:, None], 1.0, -1.0) * torch.ones(8)
        forget = replace(forget, hidden=forget.hidden / 4 + direction, nll=torch.where(shared, 4.0, 3.0))
        retain = replace(retain, hidden=retain.hidden / 4 + 1.0)
        ends = {}
        for weight in (0.0, 5.0):
            settings = Learned(objective="complement", budget=0.5, l2=0.01, negatives=weight, lr=0.2)
            importance = learned(settings, width=8, turns=100)
            for _ in range(100):
                importance.update(forget, retain)
            ends[weight] = importance(retain).mean().item(), importance(forget)[~shared].mean().item()
        assert ends[0.0][0] > 0.7, "four nats draw the scorer to the tokens that are shared"
        assert ends[5.0][0] < 0.3
        assert ends[5.0][1] > ends[5.0][0] + 0.3

    def test_no_retain_tokens_are_no_division_by_nothing(self, make_tokens):
        figures = turn(learned(Learned(negatives=1.0)), make_tokens(LENGTHS).detach())
        assert all(math.isfinite(x) for x in figures.values())


class Together:
    """Adds up what several threads bring, as an all-reduce does."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count, timeout=10)
        self.brought: list[torch.Tensor] = []

    def total(self, x: torch.Tensor) -> torch.Tensor:
        if self.barrier.wait() == 0:
            self.brought = []
        self.barrier.wait()
        self.brought.append(x.detach().clone())
        self.barrier.wait()
        out = sum(sorted(self.brought, key=lambda t: t.flatten().tolist()))
        self.barrier.wait()
        return out


class TestScorer:
    @pytest.mark.parametrize("depth", [1, 2, 3])
    def test_at_any_depth_it_begins_at_one_half_everywhere(self, depth, make_tokens):
        importance = learned(Learned(depth=depth))
        assert torch.equal(importance(make_tokens(LENGTHS)), torch.full((9,), 0.5))
        assert sum(isinstance(m, torch.nn.Linear) for m in importance.scorer.modules()) == depth

    def test_layers_before_the_last_are_128_wide_at_most(self):
        shapes = [tuple(p.shape) for p in Scorer(200, 3).parameters()]
        assert shapes == [(128, 200), (128,), (128, 128), (128,), (1, 128), (1,)]
        assert [tuple(p.shape) for p in Scorer(40, 2).parameters()] == [(40, 40), (40,), (1, 40), (1,)]

    def test_a_deep_scorer_is_linear_layers_with_gelu_between_and_all_of_it_learns(self, make_tokens):
        """Layer by layer by hand; the first layers get a gradient from the second turn on, when the last is no longer 0."""
        torch.manual_seed(0)
        importance, tokens = learned(Learned(depth=2, lr=0.5)), make_tokens(LENGTHS).detach()
        before = [p.detach().clone() for p in importance.scorer.parameters()]
        for _ in range(2):
            turn(importance, tokens)
        a, b, w, c = (p.detach() for p in importance.scorer.parameters())
        by_hand = gelu(tokens.hidden @ a.T + b) @ w[0] + c
        torch.testing.assert_close(importance(tokens), by_hand.sigmoid())
        assert all(not torch.equal(p, q) for p, q in zip(importance.scorer.parameters(), before, strict=True))

    def test_a_deep_scorer_separates_what_no_line_separates(self, make_tokens):
        """Tokens with 4 nats lie in two opposite corners of a square, those with none in the others."""
        torch.manual_seed(0)
        corner = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0]]).repeat(10, 1)
        drifts = corner.prod(1) > 0
        tokens = make_tokens((20, 20), width=2).detach()
        tokens = replace(tokens, nll=torch.where(drifts, 4.0, 0.0), hidden=tokens.hidden / 10 + corner)
        right = {}
        for depth in (1, 2):
            settings = Learned(objective="complement", budget=0.5, l2=0.0, lr=0.3, depth=depth)
            importance = learned(settings, width=2, turns=400)
            for _ in range(400):
                turn(importance, tokens)
            right[depth] = ((importance(tokens) > 0.5) == drifts).float().mean().item()
        assert right[2] > 0.9
        assert right[1] < 0.8

    def test_it_reads_any_precision_in_fp32(self, make_tokens):
        tokens = make_tokens(LENGTHS)
        scorer = Scorer(4)
        unsettle(scorer)
        rounded = tokens.hidden.bfloat16()
        assert scorer(rounded).dtype == torch.float32
        assert torch.equal(scorer(rounded), scorer(rounded.float()))

    def test_it_finds_the_tokens_that_drift(self, make_tokens):
        """A fifth of the tokens has 4 nats and a direction of its own: the scorer selects these and no others."""
        tokens = make_tokens((20, 20, 20), width=8)
        drifts = torch.arange(60) % 5 == 0
        hidden = tokens.hidden / 4 + torch.where(drifts[:, None], 1.0, -0.5)
        tokens = replace(tokens, nll=torch.where(drifts, 4.0, 0.2), hidden=hidden)
        importance = learned(Learned(objective="complement", budget=0.2, l2=0.01), width=8, turns=200)
        for _ in range(200):
            turn(importance, tokens)
        assert torch.equal(importance(tokens) > 0.5, drifts)
