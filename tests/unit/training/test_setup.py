"""A run's settings become the parts of the loop, each of which does what it says and nothing beside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deleatur.commands.inputs import rows_suite
from deleatur.config.run_config import Run
from deleatur.data.batches import Schedule, collate, step_windows
from deleatur.data.encode import encode_all
from deleatur.errors import ConfigError, DataError, ModelError
from deleatur.importance import ETW, Learned, Uniform
from deleatur.importance.atwu import Scorer
from deleatur.importance.scorer import load_scorer
from deleatur.losses import CEU, DPO, FORGET_LOSSES, NPO, RMU, UNDIAL, AltPO, Erase, GradientDifference
from deleatur.modeling.reference import start_of
from deleatur.modeling.session import Session
from deleatur.modeling.start_pass import StartPass
from deleatur.modeling.token_model import TokenModel
from deleatur.progress import Progress, Step
from deleatur.settings import Guard, Train
from deleatur.training.loop import Method, fit
from deleatur.training.setup import (
    check_parts,
    make_importance,
    preferred_rows,
    reference_of,
    step_batches,
)
from deleatur.training.train import pretrain, train, training_only
from deleatur.types import Batch, Divergence, Encoded, Reference, TokenOutputs

# at an untrained model's NLL of 8 nats SimNPO has let go
GENTLE = {"rmu": {"layer": 0}, "simnpo": {"beta": 0.1}, "erase": {"level": 4.0}}
LOSSES = {name: cls(**GENTLE.get(name, {})) for name, cls in FORGET_LOSSES.items()}
QUICK = {"epochs": 2, "batch": 4, "lr": 1e-3, "warmup": 0.0}


def run_of(*, loss=None, importance=None, seed: int = 0, **train) -> Run:
    loss, importance = loss or GradientDifference(saturation=2.0), importance or Uniform()
    settings = Train(**(QUICK | train))
    parts = {"loss": loss, "importance": importance, "train": settings}
    return Run(model="m", forget="f", retain="r", seed=seed, guard=Guard(retain=None, probe=None, stop=None), **parts)


def session_of(model: TokenModel, rows, encoder, **callbacks) -> Session:
    return Session(model=model, encoder=encoder, suite=rows_suite({}), rows=rows, progress=Progress(**callbacks))


def weights(lm) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in lm.named_parameters()}


def moved(lm, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, p in lm.named_parameters() if not torch.equal(p, before[name])}


@pytest.fixture
def rows(forget_rows, retain_rows) -> dict[str, list[Encoded]]:
    return {"forget": forget_rows[:10], "retain": retain_rows[:9]}


@pytest.fixture
def unlearn(rows, plain) -> Callable:
    """Carry out a run's training in place; returns the importance and the steps."""

    def unlearn(lm, run: Run, **more) -> tuple[object, list[Step]]:
        done = train(session_of(TokenModel(lm).prepare(), rows, plain, **more), run, {})
        return done.importance, done.steps

    return unlearn


@pytest.fixture
def scorer_folder(tmp_path: Path) -> Callable[..., Path]:
    """A run folder with a scorer in it, its weights as they might be after some turns, and nothing else."""

    def make(width: int = 32, depth: int = 1) -> Path:
        scorer, generator = Scorer(width, depth), torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in scorer.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) / 3)
        save_file(scorer.state_dict(), tmp_path / "scorer.safetensors")
        return tmp_path

    return make


def same_scorer(a: Scorer, b: Scorer) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class TestOnly:
    @pytest.mark.parametrize(
        ("pattern", "names"),
        [
            (r"layers\.1\.mlp\.down_proj", {"model.layers.1.mlp.down_proj.weight"}),
            (r"^lm_head", {"lm_head.weight"}),
            (r"[qk]_proj", {f"model.layers.{i}.self_attn.{m}_proj.weight" for i in (0, 1) for m in "qk"}),
        ],
    )
    def test_only_weights_in_whose_name_the_pattern_is_found_are_trained(self, pattern, names, make_llama, unlearn):
        """With weight decay, which would move every weight that the optimiser is given; afterwards all can be trained."""
        lm = make_llama()
        before = weights(lm)
        unlearn(lm, run_of(only=pattern, weight_decay=0.1))
        assert moved(lm, before) == names
        assert all(p.requires_grad for p in lm.parameters())

    def test_without_a_pattern_all_are_trained(self, make_llama, unlearn):
        lm = make_llama()
        before = weights(lm)
        unlearn(lm, run_of(weight_decay=0.1))
        assert moved(lm, before) == set(before)

    def test_what_could_be_trained_before_can_be_trained_again_after_an_error_too_and_nothing_else(self, llama):
        """Weights that were held already, as with adapters, stay held."""
        llama.lm_head.requires_grad_(False)
        before = {name: p.requires_grad for name, p in llama.named_parameters()}
        with pytest.raises(KeyboardInterrupt), training_only(TokenModel(llama).prepare(), "lm_head|mlp"):
            assert {n for n, p in llama.named_parameters() if p.requires_grad} == {n for n in before if "mlp" in n}
            raise KeyboardInterrupt
        assert {name: p.requires_grad for name, p in llama.named_parameters()} == before

    def test_a_pattern_that_is_found_nowhere_is_refused_in_one_line(self, llama):
        with pytest.raises(
            ConfigError, match=r"train\.only is 'experts'.*the first is model\.embed_tokens\.weight"
        ) as caught:
            check_parts(TokenModel(llama).prepare(), run_of(only="experts").method)
        assert "\n" not in str(caught.value)
        check_parts(TokenModel(llama).prepare(), run_of(only="mlp").method)

    def test_a_layer_that_the_model_has_not_is_refused_in_one_line(self, make_llama):
        """A model of three layers has layers 0 and 1 to be steered: what the last one hands on is known behind the norm."""
        model = TokenModel(make_llama(num_hidden_layers=3)).prepare()
        for layer in (2, 3):
            with pytest.raises(ConfigError, match=rf"loss\.layer is {layer}, but .* layers 0 to 1 ") as caught:
                check_parts(model, run_of(loss=RMU(layer=layer)).method)
            assert "\n" not in str(caught.value)
        check_parts(model, run_of(loss=RMU(layer=1)).method)

    def test_weights_behind_the_layer_that_the_loss_reads_are_refused(self, make_llama):
        """They would get no gradient."""
        model = TokenModel(make_llama(num_hidden_layers=3)).prepare()
        with pytest.raises(ConfigError, match=r"train\.only is .*, which matches no weight up to layer 0, where"):
            check_parts(model, run_of(loss=RMU(layer=0), only=r"layers\.[12]\.|model\.norm").method)
        for only in ("embed", r"layers\.[012]\.mlp", None):
            check_parts(model, run_of(loss=RMU(layer=0), only=only).method)


class TestPreferred:
    def test_other_answers_follow_the_same_prompt(self, rows, plain):
        """Ids up to the answer are the forget row's own; the scored ones are the other answer and the end."""
        loss = DPO()
        made = preferred_rows(loss, rows["forget"], plain)
        for row, instead in zip(rows["forget"], made, strict=True):
            assert [r.example.answer for r in instead] == list(loss.answers(row.example))
            for other in instead:
                assert other.ids[: other.start] == row.ids[: row.start]
                said = plain.tokenizer.decode(other.ids[other.start :], skip_special_tokens=True)
                assert said.strip() == other.example.answer != row.example.answer
                assert other.gold is None

    def test_a_row_brings_its_own_alternates(self, rows, plain):
        examples = [replace(r.example, alternates=(f"In {k}.", f"By {k}.")) for k, r in enumerate(rows["forget"])]
        made = preferred_rows(AltPO(), encode_all(plain, examples), plain)
        assert [[r.example.answer for r in instead] for instead in made] == [[f"In {k}.", f"By {k}."] for k in range(10)]

    def test_a_row_without_alternates_is_refused_by_its_id(self, rows, plain):
        first, *others = [row.example for row in rows["forget"]]
        bare = encode_all(plain, [replace(first, alternates=("In Runa.",)), *(replace(e, alternates=()) for e in others)])
        with pytest.raises(DataError, match=f"row {others[0].id} has no alternates"):
            preferred_rows(AltPO(), bare, plain)

    def test_a_loss_without_preferred_answers_gets_none(self, rows, plain):
        assert preferred_rows(NPO(), rows["forget"], plain) == []

    @pytest.mark.parametrize("processes", [1, 2])
    def test_each_meeting_draws_one_of_the_rows_own_and_leaves_the_other_rows_where_they_were(self, processes, rows, plain):
        """Over 20 epochs a row of 16 other answers meets several; forget and retain rows fall as they do without."""
        dealt = Schedule(epochs=20, batch=3, accumulate=2, seed=1)
        instead = preferred_rows(DPO(), rows["forget"], plain)
        place = {row: k for k, row in enumerate(rows["forget"])}
        met: dict[int, list[Encoded]] = {k: [] for k in place.values()}
        for process in range(processes):
            bare = step_windows(rows["forget"], rows["retain"], dealt, process=process, processes=processes)
            full = step_windows(
                rows["forget"], rows["retain"], dealt, process=process, processes=processes, preferred=instead
            )
            for without, batch in zip((b for w in bare for b in w), (b for w in full for b in w), strict=True):
                ends = batch.forget, batch.forget + batch.preferred
                assert batch.preferred == batch.forget == without.forget
                assert (*batch.rows[: ends[0]], *batch.rows[ends[1] :]) == without.rows
                for row, other in zip(batch.rows[: ends[0]], batch.rows[ends[0] : ends[1]], strict=True):
                    assert other in instead[place[row]]
                    met[place[row]].append(other)
        assert all(len(others) == 20 and len(set(others)) > 5 for others in met.values())

    def test_the_draw_is_the_seeds(self, rows, plain):
        instead, dealt = preferred_rows(DPO(), rows["forget"], plain), Schedule(epochs=2, batch=4)
        drawn = [
            [
                b.rows
                for w in step_windows(rows["forget"], rows["retain"], replace(dealt, seed=s), preferred=instead)
                for b in w
            ]
            for s in (0, 0, 1)
        ]
        assert drawn[0] == drawn[1] != drawn[2]


class TestReference:
    def dealt(self, run: Run, rows, plain) -> list[list[Batch]]:
        return list(step_batches(rows, run.train, preferred_rows(run.loss, rows["forget"], plain), seed=run.seed))

    @pytest.mark.parametrize(
        ("changed", "known"),
        [
            ({"loss": NPO()}, {"forget"}),
            ({"loss": DPO()}, {"forget", "preferred"}),
            ({"loss": GradientDifference(), "retain": "kl"}, {"forget", "retain"}),  # one forward makes it for all rows
            ({"loss": GradientDifference(), "retain": "js"}, {"retain"}),
            ({"loss": Erase(level=4.0)}, {"forget", "retain"}),
            ({"loss": GradientDifference(), "keep": 1.0}, {"forget", "retain"}),
            ({"loss": UNDIAL(), "retain": "js"}, {"forget", "retain"}),
            ({"loss": RMU(layer=0), "retain": "layer"}, {"retain"}),
            ({"loss": RMU(layer=0)}, set()),
        ],
    )
    def test_the_start_model_is_run_only_on_rows_whose_numbers_are_read(
        self, changed, known, llama, rows, plain, monkeypatch
    ):
        run, model = run_of(**changed), TokenModel(llama).prepare()
        batches, met = self.dealt(run, rows, plain), []
        forward = model.forward
        model.forward = lambda batch, **more: met.extend(batch.rows) or forward(batch, **more)
        reference_of(session_of(model, rows, plain), batches, run.method, StartPass(model, batch=32))
        preferred = {row for window in batches for b in window for row in b.rows[b.forget : b.forget + b.preferred]}
        sides = {"forget": set(rows["forget"]), "preferred": preferred, "retain": set(rows["retain"])}
        assert len(met) == len(set(met))
        assert set(met) == {row for side in known for row in sides[side]}

    def test_what_an_importance_may_look_at_is_the_start_model_or_one_by_name(
        self, make_llama, make_tokenizer, rows, tmp_path
    ):
        """Another model is loaded from its folder; NLL and entropy are its own."""
        ours, other = TokenModel(make_llama()).prepare(), make_llama(seed=1)
        other.save_pretrained(tmp_path / "other")
        make_tokenizer().save_pretrained(tmp_path / "other")
        start = start_of(StartPass(ours, batch=4), rows, precision="fp32")
        assert (start.forget, start.retain) == (rows["forget"], rows["retain"])
        for name, lm in ((None, ours), (str(tmp_path / "other"), TokenModel(other).prepare())):
            (said,) = start.likelihood(rows["forget"][:1], name)
            with torch.no_grad():
                alone = lm(collate(rows["forget"][:1]), logits=True)
            p = alone.logits.softmax(-1)
            torch.testing.assert_close(said.nll, alone.nll, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(said.entropy, -(p * p.log()).sum(-1), rtol=1e-4, atol=1e-4)


class TestScorerAlone:
    """`pretrain`, `frozen` and `start`: when the scorer moves, and from where."""

    def test_pretraining_moves_the_scorer_and_leaves_the_model_alone(self, make_llama, rows, plain):
        """Two passes of three windows are six turns, after which the rate of all turns has fallen that far."""
        lm, run = make_llama(), run_of(importance=Learned(pretrain=2, lr=0.4))
        model, before = TokenModel(lm).prepare(), weights(lm)
        made = make_importance(
            session_of(model, rows, plain), run.method, Reference(), StartPass(model, batch=32), steps=6, pretraining_steps=6
        )
        pretrain(made, model, step_batches(rows, run.train, [], seed=run.seed, epochs=2))
        assert made.scorer.linear.weight.abs().sum() > 0
        assert moved(lm, before) == set()
        assert all(p.grad is None for p in lm.parameters())
        assert made.optimizer.param_groups[0]["lr"] == pytest.approx(0.4 * (1 - 6 / 12))

    def test_pretraining_comes_before_the_first_step(self, make_llama, unlearn):
        """The first step's importance is the scorer's, no longer ½; said is how many passes there are."""
        said: list[str] = []
        _, steps = unlearn(make_llama(), run_of(importance=Learned(pretrain=3, lr=0.4)), phase=said.append)
        assert abs(steps[0].importance - 0.5) > 1e-3
        assert said == ["The scorer alone: 3 passes", "Unlearning: 6 steps"]
        _, untaught = unlearn(make_llama(), run_of(importance=Learned(lr=0.4)))
        assert untaught[0].importance == 0.5

    def test_its_passes_are_the_turns_of_a_loop_in_which_the_model_is_fixed(self, make_llama, rows, unlearn):
        """A loop without a rate, or in which only the scorer's turns count, makes the same scorer: pass for pass the rows
        are dealt alike."""
        taught = unlearn(make_llama(), run_of(importance=Learned(pretrain=2, frozen=True, lr=0.4)))[0]
        still = unlearn(make_llama(), run_of(importance=Learned(lr=0.4), lr=1e-30, weight_decay=0.0))[0]
        for p, q in zip(taught.scorer.parameters(), still.scorer.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
        assert taught.scorer.linear.weight.abs().sum() > 0.01

    def test_it_is_shown_forget_and_retain_rows_but_not_the_preferred_ones(self, llama, rows, plain, monkeypatch):
        """Windows of 2×2: retain rows stand behind the preferred ones in each batch."""
        run = run_of(loss=DPO(), importance=Learned(objective="complement"), batch=2, accumulate=2, epochs=1)
        model, preferred = TokenModel(llama).prepare(), preferred_rows(run.loss, rows["forget"], plain)
        made = make_importance(session_of(model, rows, plain), run.method, Reference(), StartPass(model, batch=32), steps=3)
        shown: list[tuple[TokenOutputs, TokenOutputs]] = []
        monkeypatch.setattr(made, "update", lambda forget, retain: shown.append((forget, retain)) or {})
        pretrain(made, model, step_batches(rows, run.train, preferred, seed=run.seed))
        dealt = list(step_batches(rows, run.train, preferred, seed=run.seed))
        for (forget, retain), window in zip(shown, dealt, strict=True):
            assert forget.rows == tuple(row for b in window for row in b.rows[: b.forget])
            assert retain.rows == tuple(row for b in window for row in b.rows[b.forget + b.preferred :])
            assert set(retain.rows) <= set(rows["retain"])
            for tokens in (forget, retain):
                with torch.no_grad():
                    alone = model(collate(list(tokens.rows)))
                torch.testing.assert_close(tokens.nll, alone.nll, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("pretrain", [0, 2])
    def test_frozen_it_does_not_move_while_the_model_does(self, pretrain, make_llama, unlearn, monkeypatch):
        """It ends as `pretrain` left it, and without that as it began: ½ everywhere."""
        lm, seen = make_llama(), []
        before = weights(lm)

        def fitted(model, batches, method: Method, **more) -> None:
            seen.append({k: v.clone() for k, v in method.importance.scorer.state_dict().items()})
            fit(model, batches, method, **more)

        monkeypatch.setattr("deleatur.training.train.fit", fitted)
        made, steps = unlearn(lm, run_of(importance=Learned(frozen=True, pretrain=pretrain, lr=0.4)))
        assert moved(lm, before) == set(before)
        assert all(step.scorer is None for step in steps)
        assert all(torch.equal(v, seen[0][k]) for k, v in made.scorer.state_dict().items())
        assert bool(made.scorer.linear.weight.any()) is (pretrain > 0)

    def test_not_frozen_it_moves(self, make_llama, unlearn):
        made, steps = unlearn(make_llama(), run_of(importance=Learned(lr=0.4)))
        assert all(step.scorer is not None for step in steps)
        assert made.scorer.linear.weight.abs().sum() > 0

    @pytest.mark.parametrize("depth", [1, 2])
    def test_it_starts_as_another_run_left_its_own(self, depth, make_llama, rows, unlearn, scorer_folder):
        """Frozen it is that scorer to the end, and gives the first step's tokens what that one gives them."""
        folder = scorer_folder(depth=depth)
        other = load_scorer(folder, 32)
        run = run_of(importance=Learned(start=str(folder), frozen=True, depth=depth))
        made, steps = unlearn(make_llama(), run)
        assert same_scorer(made.scorer, other)
        ((batch, *_), *_) = step_batches(rows, run.train, [], seed=run.seed)
        with torch.no_grad():
            forget, _ = TokenModel(make_llama()).prepare()(batch).split(batch.forget)
            expected = other(forget.hidden).sigmoid().mean().item()
        assert abs(expected - 0.5) > 1e-2
        assert steps[0].importance == pytest.approx(expected, rel=1e-4)

    def test_a_start_of_another_width_is_refused(self, make_llama, unlearn, scorer_folder):
        with pytest.raises(ModelError, match="reads states of width 48, the model's have 32"):
            unlearn(make_llama(), run_of(importance=Learned(start=str(scorer_folder(48)))))

    @pytest.mark.parametrize(("own", "asked"), [(1, 2), (2, 1), (2, 3)])
    def test_a_start_of_another_depth_is_refused_in_one_line(self, own, asked, make_llama, unlearn, scorer_folder):
        with pytest.raises(ConfigError, match=f"importance.depth is {asked}, .* has {own}") as caught:
            unlearn(make_llama(), run_of(importance=Learned(start=str(scorer_folder(depth=own)), depth=asked)))
        assert "\n" not in str(caught.value)

    def test_a_start_without_a_scorer_is_refused(self, make_llama, unlearn, tmp_path):
        with pytest.raises(ConfigError, match=r"has no scorer\.safetensors"):
            unlearn(make_llama(), run_of(importance=Learned(start=str(tmp_path))))


class TestDepth:
    @pytest.mark.parametrize("depth", [1, 2, 3])
    def test_a_saved_scorer_is_the_same_when_it_is_loaded(self, depth, scorer_folder):
        """Its depth is read off the file."""
        folder = scorer_folder(width=200, depth=depth)
        states = torch.randn(7, 200, generator=torch.Generator().manual_seed(1))
        first, again = (load_scorer(folder, 200) for _ in range(2))
        assert sum(isinstance(m, torch.nn.Linear) for m in first.modules()) == depth
        save_file(first.state_dict(), folder / "scorer.safetensors")
        assert same_scorer(load_scorer(folder, 200), again)
        assert torch.equal(load_scorer(folder, 200)(states), again(states))
        assert again(states).std() > 0.01

    def test_what_is_no_scorer_is_refused(self, tmp_path):
        save_file({"weight": torch.zeros(3)}, tmp_path / "scorer.safetensors")
        with pytest.raises(ModelError, match="holds no scorer"):
            load_scorer(tmp_path, 3)


class TestJoint:
    def test_steps_are_adamws_on_the_one_objective_of_model_and_scorer(self, make_llama, rows, plain):
        """Three steps by autograd through

            α·mean NLL(retain) − γ·mean g·l·sg[exp(−g·l)^β] + λ_entropy·mean H(g) + λ_population·mean (share − budget)²
            + λ_l2·(‖w‖² + b²)

        over all weights at once, from a scorer in mid-course, without clipping: within a twentieth of a step."""
        free, rate = 1e9, 1e-3
        settings = Learned(objective="matched", joint=True, budget=0.3, entropy=0.7, population=4.0, l2=0.1, clip=free)
        loss = GradientDifference(saturation=2.0)
        run = run_of(loss=loss, importance=settings, alpha=0.8, gamma=1.7, clip=free, lr=rate, epochs=1, warmup=0.4)
        ours, theirs = make_llama(), make_llama()
        model = TokenModel(ours).prepare()
        made = make_importance(session_of(model, rows, plain), run.method, Reference(), StartPass(model, batch=32), steps=3)
        unsettle(made.scorer)
        scorer = Scorer(32)
        scorer.load_state_dict(made.scorer.state_dict())
        start = {k: v.clone() for k, v in scorer.state_dict().items()}
        batches = list(step_batches(rows, run.train, [], seed=run.seed))
        steps: list[Step] = []
        fit(
            model,
            batches,
            Method(loss=loss, importance=made, settings=run.train),
            steps=3,
            on_step=steps.append,
        )
        optimizer = torch.optim.AdamW(
            [*theirs.parameters(), *scorer.parameters()], lr=rate, weight_decay=run.train.weight_decay
        )
        for share_of_rate, (batch,) in zip((1 / 2, 1.0, 1 / 2), batches, strict=True):  # one of warm-up, then down to 0
            forget, retain = TokenModel(theirs).prepare()(batch).split(batch.forget)
            g = (forget.hidden.detach() @ scorer.linear.weight[0] + scorer.linear.bias).sigmoid()
            fade = (-g * forget.nll).exp().detach() ** 2
            entropy = -(g * g.log() + (1 - g) * (1 - g).log()).mean()
            parts = g.split(forget.sequence.bincount().tolist())
            shares = torch.stack([((p > 0.5).float() - p.detach() + p).mean() for p in parts])
            size = scorer.linear.weight.square().sum() + scorer.linear.bias.square().sum()
            whole = 0.8 * retain.nll.mean() - 1.7 * (g * forget.nll * fade).mean()
            whole = whole + 0.7 * entropy + 4.0 * (shares - 0.3).square().mean() + 0.1 * size
            optimizer.zero_grad()
            whole.backward()
            optimizer.param_groups[0]["lr"] = rate * share_of_rate
            optimizer.step()
        assert [s.lr for s in steps] == pytest.approx([rate / 2, rate, rate / 2])
        for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=rate / 20, msg=lambda m, name=name: f"{name}: {m}")
        for name, value in made.scorer.state_dict().items():
            torch.testing.assert_close(value, scorer.state_dict()[name], rtol=0, atol=rate / 20)
            assert (value - start[name]).abs().max() > rate

    def test_alternating_training_would_give_another_scorer(self, make_llama, unlearn):
        """The control of the above: SGD at its own rate is not AdamW at the model's."""
        ends = [
            unlearn(make_llama(), run_of(importance=Learned(objective="matched", joint=joint)))[0].scorer.linear.weight
            for joint in (True, False)
        ]
        assert (ends[0] - ends[1]).abs().max() > 1e-3


def unsettle(scorer: Scorer, seed: int = 5) -> None:
    """Weights as they might be after some turns."""
    with torch.no_grad():
        for p in scorer.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)) / 10)


class TestEveryPair:
    @pytest.mark.parametrize("name", LOSSES)
    def test_the_first_steps_loss_is_the_forget_losses_own_value(self, name, make_llama, forget_rows, retain_rows, plain):
        """Without a retain term a step of 2×2 rows is γ·loss/count, from the model's outputs of the four rows at once and
        the start model's, which are the same."""
        examples = [replace(row.example, alternates=("Nobody knows.", "In the north.")) for row in forget_rows[:4]]
        rows = {"forget": encode_all(plain, examples), "retain": retain_rows[:4]}
        run = run_of(loss=LOSSES[name], batch=2, accumulate=2, epochs=1, alpha=0.0, gamma=1.3)
        lm, model = make_llama(), TokenModel(make_llama()).prepare()
        (step,) = train(session_of(TokenModel(lm).prepare(), rows, plain), run, {}).steps
        loss = run.loss.tokenized(plain.tokens) if name == "jensun" else run.loss
        preferred = preferred_rows(loss, rows["forget"], plain)
        ((one, two),) = step_batches(rows, run.train, preferred, seed=run.seed)
        instead = [row for b in (one, two) for row in b.rows[b.forget : b.forget + b.preferred]]
        with torch.no_grad():
            tokens = model(collate([*one.rows[:2], *two.rows[:2]]), logits=True, layer=0)
            tokens = replace(tokens, preferred=model(collate(instead)) if instead else None)
            same = Divergence(kept=torch.zeros_like(tokens.nll), erased=-torch.log1p(-(-tokens.nll).exp()))
            tokens = replace(tokens, divergence=same)
            same = Reference(nll=lambda t: t.nll, logits=lambda t: t.logits, layer=lambda t: t.layer)
            value = loss(tokens, torch.ones(len(tokens.nll)), same)
        count = len(tokens.nll) if loss.unit == "token" else 4
        assert value.abs() > 0.1
        assert step.loss == pytest.approx(1.3 * value.item() / count, rel=1e-4)

    def test_an_importance_may_read_logits_that_the_loss_does_not(self, make_llama, unlearn):
        """The mean of ETW over a sequence is 1, so it is over a step."""
        _, steps = unlearn(make_llama(), run_of(loss=GradientDifference(), importance=ETW()))
        assert [s.importance for s in steps] == pytest.approx([1.0] * 6, rel=1e-4)

    def test_a_learned_importance_goes_with_a_loss_that_reads_logits(self, make_llama, unlearn):
        """Its complement objective reads the NLL alone."""
        made, steps = unlearn(make_llama(), run_of(loss=CEU(), importance=Learned(lr=0.4)))
        assert made.scorer.linear.weight.abs().sum() > 0
        assert all(s.scorer is not None for s in steps)
