"""The one loop: what a step is, that dealing does not change it, and that it stops before it does harm."""

from __future__ import annotations

import gc
import math
from dataclasses import asdict, replace
from typing import ClassVar
from weakref import ref

import pytest
import torch

from deleatur.config.method import requirements_of
from deleatur.data.batches import Schedule, collate, fine_tuning_batches, step_windows
from deleatur.errors import ConfigError, Diverged
from deleatur.importance import Learned, Uniform
from deleatur.importance.atwu import LearnedImportance
from deleatur.losses import NPO, RMU, GradientDifference
from deleatur.losses.retain import RETAIN_TERMS
from deleatur.modeling.loading import checkpoint_activations
from deleatur.modeling.reference import make_reference
from deleatur.modeling.start_pass import StartPass
from deleatur.modeling.token_model import TokenModel
from deleatur.progress import Step
from deleatur.protocols import TrainingContext
from deleatur.requirements import HiddenState, Requirements
from deleatur.settings import Train
from deleatur.training.loop import Method, fit
from deleatur.training.optimizer import MOMENTS, MasterWeights, ModelOptimizer
from deleatur.types import Reference, Teacher, TokenOutputs

SATURATED = GradientDifference(saturation=2.0)


class Seen:
    """An importance that takes turns after every second step and remembers what it was shown."""

    def __init__(self, state: HiddenState = "own") -> None:
        self.requires = Requirements(hidden_state=state)
        self.turns: list[tuple[TokenOutputs, TokenOutputs]] = []

    def __call__(self, tokens: TokenOutputs) -> torch.Tensor:
        return torch.full_like(tokens.nll, 0.5).detach()

    def updates_after(self, step: int) -> bool:
        return step % 2 == 0

    def update(self, forget: TokenOutputs, retain: TokenOutputs) -> dict[str, float]:
        self.turns.append((forget, retain))
        return {"tokens": float(len(forget.nll))}


class Broken:
    """A forget loss that is no number from its third call on."""

    unit: ClassVar[str] = "token"
    requires = Requirements()

    def __init__(self, value: float) -> None:
        self.value, self.calls = value, 0

    def __call__(self, tokens, importance, reference) -> torch.Tensor:
        self.calls += 1
        return tokens.nll.sum() * (self.value if self.calls >= 3 else 1.0)


def train(lm, forget, kept, *, loss=SATURATED, importance=None, seed=0, **changed) -> list[Step]:
    """Train in place; `importance` may be the settings of the learned one. Returns the steps."""
    settings = Train(**{"epochs": 2, "batch": 8, "lr": 1e-3} | changed)
    model = TokenModel(lm).prepare()
    dealt = Schedule(**{n: getattr(settings, n) for n in ("epochs", "batch", "tokens", "accumulate")}, seed=seed)
    count = len(list(step_windows(forget, kept, dealt)))
    importance = importance or Learned(every=2, lr=0.5)
    reference = make_reference(StartPass(model, batch=8), [*forget, *kept], requirements_of(loss, importance, settings))
    if isinstance(importance, Learned):
        context = {"train": settings, "width": model.width, "steps": count}
        importance = LearnedImportance(importance, TrainingContext(loss=loss, reference=reference, **context))
    steps: list[Step] = []
    fit(
        model,
        step_windows(forget, kept, dealt),
        Method(loss=loss, importance=importance, settings=settings, reference=reference),
        steps=count,
        on_step=steps.append,
    )
    return steps


def weights(lm) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in lm.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def untimed(steps: list[Step]) -> list[dict]:
    return [{k: v for k, v in asdict(s).items() if "seconds" not in k and k != "memory"} for s in steps]


class TestDealing:
    @pytest.mark.parametrize(
        ("loss", "term"), [(SATURATED, "nll"), (NPO(beta=0.5), "nll"), (SATURATED, "js"), (RMU(layer=0), "layer")]
    )
    @pytest.mark.parametrize(("batch", "accumulate"), [(2, 4), (3, 3), (1, 8)])
    def test_how_rows_are_dealt_into_batches_changes_no_weight(
        self, loss, term, batch, accumulate, make_llama, forget_rows, retain_rows
    ):
        """Losses are sums divided by the global count of the step, so 8×1, 2×4 and 1×8 are one run; windows of 9 rows
        are dealt as 9×1 and 3×3. Rows are ragged: a mean of means would not do. A divergence is flat at the start, so what
        only retain rows touch has a gradient of rounding errors there, which AdamW makes up to a sixth of a step."""
        close = 3e-6 if term == "nll" else 2e-5 / 6
        whole, parts = make_llama(), make_llama()
        rows = forget_rows[: 2 * batch * accumulate]
        a = train(whole, rows, retain_rows, loss=loss, retain=term, batch=batch * accumulate, lr=2e-5)
        b = train(parts, rows, retain_rows, loss=loss, retain=term, batch=batch, accumulate=accumulate, lr=2e-5)
        for name, w in weights(whole).items():
            torch.testing.assert_close(weights(parts)[name], w, rtol=0, atol=close, msg=lambda m, name=name: f"{name}: {m}")
        for ours, theirs in zip(untimed(a), untimed(b), strict=True):
            ours, theirs = (s | (s.pop("scorer") or {}) for s in (ours, theirs))
            assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)

    def test_the_same_seed_gives_the_same_bytes(self, make_llama, forget_rows, retain_rows):
        one, other, third = make_llama(), make_llama(), make_llama()
        logs = [train(lm, forget_rows, retain_rows, seed=s) for lm, s in ((one, 3), (other, 3), (third, 4))]
        assert same(weights(one), weights(other))
        assert untimed(logs[0]) == untimed(logs[1])
        assert not same(weights(one), weights(third))


class TestStep:
    def test_a_step_logs_the_losses_of_its_rows_before_it(self, make_llama, forget_rows, retain_rows):
        """loss = α·mean NLL(retain) + γ·(1/N)·forget loss, with importance ½ in the first step; means over tokens."""
        lm = make_llama()
        (window,) = list(step_windows(forget_rows[:5], retain_rows, Schedule(epochs=1, batch=8)))[:1]
        with torch.no_grad():
            forget, retain = TokenModel(lm).prepare()(window[0]).split(window[0].forget)
        value = SATURATED(forget, torch.full_like(forget.nll, 0.5), Reference())
        step = train(lm, forget_rows[:5], retain_rows, epochs=1, alpha=0.7, gamma=1.9)[0]
        assert step.step == 1
        assert step.forget_nll == pytest.approx(forget.nll.mean().item(), rel=1e-5)
        assert step.retain_nll == pytest.approx(retain.nll.mean().item(), rel=1e-5)
        expected = 0.7 * retain.nll.mean() + 1.9 * value / len(forget.nll)
        assert step.loss == pytest.approx(expected.item(), rel=1e-5)
        assert step.importance == pytest.approx(0.5)
        assert step.scorer is None

    def test_the_rate_rises_over_the_warm_up_and_then_falls_to_nothing(self, make_llama, forget_rows, retain_rows):
        """10 steps, 2 of warm-up: ⅓, ⅔, then 1, 7/8, …, 1/8 of the peak."""
        steps = train(make_llama(), forget_rows[:4], retain_rows, epochs=10, batch=4, warmup=0.2, lr=3e-4)
        assert [s.lr / 3e-4 for s in steps] == pytest.approx([1 / 3, 2 / 3] + [k / 8 for k in range(8, 0, -1)])

    def test_turns_come_when_due_and_see_the_whole_windows_tokens_held_fixed(self, make_llama, forget_rows, retain_rows):
        """Windows of 2×3 rows: the turn after the second step gets all six forget rows of it and all six retain rows."""
        seen, rows = Seen(), forget_rows[:12]
        steps = train(make_llama(), rows, retain_rows, importance=seen, batch=2, accumulate=3, epochs=1)
        window = list(step_windows(rows, retain_rows, Schedule(epochs=1, batch=2, accumulate=3)))[1]
        assert [s.scorer is None for s in steps] == [True, False]
        ((forget, retain),) = seen.turns
        assert forget.rows == tuple(row for b in window for row in b.rows[: b.forget])
        assert retain.rows == tuple(row for b in window for row in b.rows[b.forget :])
        assert steps[1].scorer["tokens"] == len(forget.nll)
        for tokens in (forget, retain):
            assert len(tokens.rows) == 6
            assert len(tokens.nll) == len(tokens.ids) == sum(len(row.ids) - row.start for row in tokens.rows)
            assert not tokens.nll.requires_grad
            assert not tokens.hidden.requires_grad

    @pytest.mark.parametrize("state", ["own", "predicting"])
    def test_the_turn_reads_the_state_that_was_asked_for(self, state, make_llama, forget_rows, retain_rows):
        seen, lm = Seen(state), make_llama()
        train(lm, forget_rows[:8], retain_rows, importance=seen, batch=4, epochs=1, gamma=0.0, alpha=0.0)
        for tokens in seen.turns[0]:
            with torch.no_grad():  # weights of nothing but decay: the model is as good as it was
                expected = TokenModel(lm).prepare()(collate(list(tokens.rows)), state=state)
            torch.testing.assert_close(tokens.hidden, expected.hidden, rtol=1e-2, atol=1e-2)

    def test_an_importance_that_does_not_learn_gets_no_turn(self, make_llama, forget_rows, retain_rows):
        steps = train(make_llama(), forget_rows, retain_rows, importance=Uniform())
        assert all(s.scorer is None for s in steps)
        assert all(s.importance == 1.0 for s in steps)

    def test_forget_rows_part_from_retain_rows(self, make_llama, forget_rows, retain_rows):
        """An untrained model is as bad at both; half a nat and more lies between them after a few steps."""
        steps = train(make_llama(), forget_rows, retain_rows, loss=GradientDifference(), epochs=4, gamma=0.5, lr=3e-3)
        assert abs(steps[0].forget_nll - steps[0].retain_nll) < 0.5
        assert steps[-1].forget_nll > steps[-1].retain_nll + 0.5
        assert steps[-1].retain_nll < steps[0].retain_nll - 0.5

    def test_fine_tuning_rows_have_no_forget_side_and_are_learned(self, make_llama, retain_rows):
        """Without forget rows the loss is the mean NLL of the rows, however the forget loss and its weight are set."""
        lm, steps = make_llama(), []
        fit(
            TokenModel(lm).prepare(),
            fine_tuning_batches(retain_rows[:16], epochs=4, batch=4, seed=0),
            Method(loss=GradientDifference(), importance=Uniform(), settings=Train(lr=3e-3)),
            steps=16,
            on_step=steps.append,
        )
        assert len(steps) == 16
        assert all(s.forget_nll == 0 and math.isclose(s.loss, s.retain_nll, rel_tol=1e-5) for s in steps)
        assert steps[-1].retain_nll < steps[0].retain_nll - 1

    def test_the_model_is_left_in_evaluation_mode(self, make_llama, forget_rows, retain_rows):
        lm = make_llama()
        train(lm, forget_rows[:4], retain_rows, epochs=1)
        assert not lm.training

    def test_what_is_frozen_stays_as_it_was(self, make_llama, forget_rows, retain_rows):
        lm = make_llama()
        lm.model.embed_tokens.requires_grad_(False)
        before = weights(lm)
        train(lm, forget_rows[:8], retain_rows, epochs=1)
        after = weights(lm)
        assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
        assert not torch.equal(before["lm_head.weight"], after["lm_head.weight"])


class TestRetainTerms:
    HELD = [("kl", GradientDifference()), ("js", GradientDifference()), ("layer", RMU(layer=0))]  # noqa: RUF012

    @pytest.mark.parametrize(("term", "loss"), HELD)
    def test_at_the_start_model_it_costs_nothing(self, term, loss, make_llama, forget_rows, retain_rows):
        """The first step's loss is the forget loss alone: that of the same step at α = 0, from which even α = 100 cannot
        move it. After that step it costs something."""
        made = {"loss": loss, "importance": Uniform(), "epochs": 1, "batch": 4, "retain": term}
        free = train(make_llama(), forget_rows[:12], retain_rows, alpha=0.0, **made)
        held = train(make_llama(), forget_rows[:12], retain_rows, alpha=100.0, **made)
        assert held[0].loss == pytest.approx(free[0].loss, abs=1e-3)
        assert held[0].retain_nll == pytest.approx(free[0].retain_nll)
        assert held[1].loss > free[1].loss + 0.01

    @pytest.mark.parametrize(("term", "loss"), HELD)
    def test_it_keeps_retain_rows_near_the_start_model(self, term, loss, make_llama, forget_rows, retain_rows):
        """After twelve steps the rows that were met are nearer to where they were than without it, by the term's own
        measure, and forget rows have moved all the same."""
        gone, start = {}, make_llama()
        for alpha in (0.0, 10.0):
            lm = make_llama()
            train(
                lm,
                forget_rows[:12],
                retain_rows[:12],
                loss=loss,
                importance=Uniform(),
                lr=3e-3,
                batch=4,
                epochs=4,
                alpha=alpha,
                retain=term,
            )
            gone[alpha] = [drift(start, lm, rows, term) for rows in (forget_rows[:12], retain_rows[:12])]
        assert gone[10.0][1] < 0.5 * gone[0.0][1]
        assert gone[10.0][0] > 2 * gone[10.0][1]


@torch.no_grad()
def drift(start, lm, rows, term: str) -> float:
    """Mean cost of a token by a retain term, the start model's outputs made anew."""
    first = TokenModel(start).prepare()
    before = first(collate(rows), logits=True, layer=0, state="predicting")
    teacher = Teacher(states=lambda rows: before.hidden, head=first.head)
    now = TokenModel(lm).prepare()(collate(rows), logits=True, layer=0, teacher=teacher)
    reference = Reference(logits=lambda tokens: before.logits, layer=lambda tokens: before.layer)
    return RETAIN_TERMS[term].cost(now, reference).mean().item()


class TestBound:
    def test_alpha_rises_above_the_bound_and_falls_below_it_to_nothing(self, make_llama, retain_rows, forget_rows):
        """With γ = 0 a step's loss is α·retain NLL, so that α can be read off: it is max(0, α + η·(retain NLL − bound)) of
        the step before. From about 6.7 nats and a bound of 5 it rises, falls, and ends at 0."""
        made = {"importance": Uniform(), "epochs": 12, "batch": 4, "lr": 1e-2, "warmup": 0.0, "gamma": 0.0}
        steps = train(make_llama(), forget_rows[:8], retain_rows[:8], alpha=0.5, bound=5.0, dual_step=0.3, **made)
        alpha, path = 0.5, []
        for step in steps:
            assert step.loss == pytest.approx(alpha * step.retain_nll, rel=1e-4, abs=1e-6)
            path.append(alpha)
            alpha = max(0.0, alpha + 0.3 * (step.retain_nll - 5.0))
        assert path[1] > 0.6
        assert max(path) not in (path[0], path[-1])
        assert path[-1] == 0.0

    def test_it_is_the_weight_of_the_gradient_too(self, make_llama, retain_rows, forget_rows):
        """From α = 0 and γ = 0: below the bound α stays 0 and no weight moves, above it the second step moves them."""
        for bound, moves in ((1e3, False), (0.0, True)):
            lm, before = make_llama(), weights(make_llama())
            made = {"importance": Uniform(), "epochs": 2, "batch": 8, "weight_decay": 0.0, "gamma": 0.0, "alpha": 0.0}
            train(lm, forget_rows[:8], retain_rows, bound=bound, **made)
            assert same(weights(lm), before) is not moves

    def test_without_a_bound_alpha_stays(self, make_llama, retain_rows, forget_rows):
        steps = train(make_llama(), forget_rows[:8], retain_rows, alpha=0.5, gamma=0.0, importance=Uniform(), batch=4)
        assert [s.loss / s.retain_nll for s in steps] == pytest.approx([0.5] * 4, rel=1e-5)

    def test_it_goes_by_the_nll_whatever_holds_the_rows(self, make_llama, retain_rows, forget_rows):
        """A KL of about 0 would let α fall; 6 nats and more above a bound of 1 make it rise by 5·η."""
        made = {"importance": Uniform(), "batch": 8, "retain": "kl", "alpha": 0.0, "gamma": 1.0, "bound": 1.0}
        steps = train(make_llama(), forget_rows[:16], retain_rows, epochs=1, dual_step=100.0, **made)
        free = train(make_llama(), forget_rows[:16], retain_rows, epochs=1, **(made | {"bound": None}))
        assert steps[0].retain_nll > 5
        assert steps[1].loss > free[1].loss + 0.01


class TestDiverged:
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_a_loss_that_is_no_number_stops_before_the_step_it_would_spoil(
        self, value, make_llama, forget_rows, retain_rows
    ):
        """The third step is refused: the weights are those after two."""
        lm, after_two = make_llama(), make_llama()
        dealt = {"importance": Uniform(), "batch": 8, "epochs": 2, "warmup": 0.0}
        with pytest.raises(Diverged, match=r"step 3: the loss is .*lower train\.lr or train\.gamma"):
            train(lm, forget_rows, retain_rows, loss=Broken(value), **dealt)
        with pytest.raises(StopIteration):
            stop_after(2, after_two, forget_rows, retain_rows, **dealt)
        assert same(weights(lm), weights(after_two))
        assert all(torch.isfinite(w).all() for w in weights(lm).values())

    def test_a_gradient_that_is_no_number_stops_the_step_too(self, make_llama, forget_rows, retain_rows):
        """sqrt(NLL − NLL) is 0 with a gradient of ∞·0."""

        class Steep(Broken):
            def __call__(self, tokens, importance, reference) -> torch.Tensor:
                return (tokens.nll - tokens.nll).sqrt().sum()

        lm = make_llama()
        before = weights(lm)
        with pytest.raises(Diverged, match=r"step 1: .*its gradient nan"):
            train(lm, forget_rows, retain_rows, loss=Steep(0.0), importance=Uniform())
        assert same(weights(lm), before)


def stop_after(count: int, lm, forget, retain, **changed) -> None:
    """The same run as with Broken, stopped from outside after some steps."""

    class Stopped(Broken):
        def __call__(self, tokens, importance, reference) -> torch.Tensor:
            if self.calls == count:
                raise StopIteration
            return super().__call__(tokens, importance, reference)

    train(lm, forget, retain, loss=Stopped(1.0), **changed)


class TestPrecision:
    def test_updates_smaller_than_bf16_can_hold_add_up(self):
        """Between 1 and 2 bf16 holds steps of 1/128. Sixty updates of 1/4096 move 1.5 by 15/1024 with a master, and not
        at all without one."""
        p, bare = (torch.nn.Parameter(torch.full((4,), 1.5, dtype=torch.bfloat16)) for _ in range(2))
        kept = MasterWeights([p])
        optimizer = torch.optim.SGD(kept.master, lr=1 / 4096)
        for _ in range(60):
            p.grad = torch.ones_like(p)
            kept.take_gradients()
            optimizer.step()
            optimizer.zero_grad()
            kept.copy_to_model()
            bare.data -= torch.ones_like(bare) / 4096
        assert bare[0] == 1.5
        assert kept.master[0][0] == 1.5 - 60 / 4096
        assert p[0] == torch.tensor(1.5 - 60 / 4096).bfloat16() != 1.5

    def test_gradients_of_several_passes_are_added_in_fp32(self):
        """1 + 64·2⁻⁹: in bf16 each addend would be rounded away."""
        p = torch.nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
        kept = MasterWeights([p])
        for value in [1.0, *[2.0**-9] * 64]:
            p.grad = torch.full_like(p, value)
            kept.take_gradients()
            assert p.grad is None
        assert kept.master[0].grad.item() == 1.125

    def test_fp32_weights_are_their_own_master(self):
        p = torch.nn.Parameter(torch.zeros(1))
        assert MasterWeights([p]).master[0] is p

    def test_a_bf16_run_is_the_rounded_fp32_run(self, make_llama, forget_rows, retain_rows):
        """At a rate at which no single step is larger than half of bf16's spacing for most weights, the run still arrives
        where the fp32 run of the same (rounded) weights does: its distance from there is rounding, not lost updates."""
        full, half = make_llama().bfloat16().float(), make_llama().bfloat16()
        start = weights(full)
        made = {"importance": Uniform(), "loss": GradientDifference(), "lr": 2e-4, "epochs": 15, "batch": 4}
        for lm in (full, half):
            train(lm, forget_rows[:4], retain_rows, **made)
        went = torch.cat([(weights(full)[k] - start[k]).flatten() for k in start])
        missed = torch.cat([(weights(half)[k].float() - weights(full)[k]).flatten() for k in start])
        assert went.norm() > 2.5 * missed.norm()
        assert torch.corrcoef(torch.stack([went, went + missed]))[0, 1] > 0.93
        assert half.dtype == torch.bfloat16

    def test_checkpointing_gives_the_same_gradients(self, make_llama, forget_rows, retain_rows):
        """Activations made twice are the same activations."""
        plain, saving = make_llama(), make_llama()
        checkpoint_activations(saving)
        batch = collate(forget_rows[:4], retain_rows[:4])
        for lm in (plain, saving):
            lm.train()
            forget, retain = TokenModel(lm).prepare()(batch).split(4)
            (retain.nll.mean() - forget.nll.mean()).backward()
        assert saving.model.gradient_checkpointing
        for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
            assert torch.equal(a.grad, b.grad), name


def test_every_field_of_the_settings_reaches_the_loop(make_llama, forget_rows, retain_rows):
    """Each of these, changed alone, changes where the weights end."""
    base = Train(epochs=1, batch=4, lr=1e-3, warmup=0.0)
    ends = []
    for changed in (
        {},
        {"lr": 2e-3},
        {"weight_decay": 0.5},
        {"clip": 1e-2},
        {"alpha": 0.5},
        {"gamma": 2.0},
        {"warmup": 0.4},
        {"retain": "kl"},
        {"bound": 1.0},
        {"bound": 1.0, "dual_step": 2.0},
    ):
        lm = make_llama()
        train(lm, forget_rows[:12], retain_rows, **asdict(replace(base, **changed)))
        ends.append(torch.cat([w.flatten() for w in weights(lm).values()]))
    assert all(not torch.equal(a, b) for i, a in enumerate(ends) for b in ends[:i])


class TestOutOfMemory:
    """The third forward pass, and each after it of as many rows, finds too little memory."""

    @pytest.fixture
    def short(self, monkeypatch):
        def short(lm, most: int) -> None:
            own, calls = TokenModel.forward, []

            def forward(model, batch, **rest):
                if model.lm is lm and model.training:
                    calls.append(len(batch.rows))
                    if len(calls) >= 3 and calls[-1] > most:
                        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB")
                return own(model, batch, **rest)

            monkeypatch.setattr(TokenModel, "forward", forward)

        return short

    @pytest.mark.parametrize(("loss", "most", "pieces"), [(SATURATED, 8, 2), (NPO(beta=0.5), 4, 4)])
    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_a_step_goes_through_in_pieces_and_changes_nothing(
        self, loss, most, pieces, precision, make_llama, forget_rows, retain_rows, short
    ):
        """A batch of 8 pairs has 16 rows; losses are sums over global counts. bf16 gradients are rounded piece by piece."""
        made = [make_llama().to(torch.float32 if precision == "fp32" else torch.bfloat16) for _ in range(2)]
        whole = train(made[0], forget_rows[:8], retain_rows[:8], loss=loss, precision=precision, epochs=4)
        short(made[1], most)
        with pytest.warns(UserWarning, match=f"goes through in {pieces} pieces from now on"):
            cut = train(made[1], forget_rows[:8], retain_rows[:8], loss=loss, precision=precision, epochs=4)
        tolerance = 1e-5 if precision == "fp32" else 2e-2
        for ours, theirs in zip(whole, cut, strict=True):
            for name in ("loss", "forget_nll", "retain_nll", "grad_norm", "importance"):
                assert getattr(theirs, name) == pytest.approx(getattr(ours, name), rel=tolerance, abs=tolerance), name
        for name, weight in weights(made[0]).items():
            torch.testing.assert_close(weights(made[1])[name], weight, rtol=tolerance, atol=tolerance)

    def test_where_single_pairs_do_not_fit_it_says_what_would_help(self, make_llama, forget_rows, retain_rows, short):
        lm = make_llama()
        short(lm, 0)
        with pytest.warns(UserWarning), pytest.raises(ConfigError, match="one pair of rows at a time"):
            train(lm, forget_rows[:8], retain_rows[:8], epochs=4)


def test_nothing_of_the_optimizer_is_left_when_training_ends(make_llama, forget_rows, retain_rows, monkeypatch):
    """Its moments and master weights are three times the model, and would lie beside it during the evaluation."""
    held, release = [], ModelOptimizer.release

    def watched(self):
        moments = (m[name] for m in self.optimizer.state.values() for name in MOMENTS)
        held.extend(map(ref, (*self.weights.master, *moments)))
        release(self)

    monkeypatch.setattr(ModelOptimizer, "release", watched)
    gc.disable()
    try:
        train(lm := make_llama().to(torch.bfloat16), forget_rows[:4], retain_rows[:4])
        left = [tensor for tensor in (kept() for kept in held) if tensor is not None]
    finally:
        gc.enable()
    assert len(held) == 3 * sum(1 for _ in lm.parameters())
    assert not left
