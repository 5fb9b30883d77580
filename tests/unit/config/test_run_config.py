"""A run in and out of YAML: what is written is read back, and everything else is refused by name."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deleatur.commands.options import Demo
from deleatur.config.recipes import RECIPES
from deleatur.config.run_config import Run, from_dict, from_yaml, to_dict, to_yaml
from deleatur.errors import ConfigError
from deleatur.importance import IMPORTANCES, WGA, Learned, Uniform
from deleatur.losses import FORGET_LOSSES, NPO, GradientDifference
from deleatur.settings import Data, Evaluation, Guard, Keep, Lora, Train

ROWS = {"model": "m", "forget": "f", "retain": "r"}
above = st.floats(1e-12, 1e6)
share = st.floats(0, 0.999)
weight = st.floats(0, 1e6)
factor = st.floats(1.001, 1e6)
count = st.integers(1, 10**6)
text = st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), max_size=20)
precision = st.sampled_from(["fp32", "bf16"])
LEARNED = {
    "name": st.just("learned"),
    "objective": st.sampled_from(["matched", "complement"]),
    "state": st.sampled_from(["own", "predicting"]),
    "depth": count,
    "negatives": weight,
    "pretrain": st.integers(0, 10**6),
    "warm": st.just(False),
    "frozen": st.booleans(),
    "start": st.none() | text,
    "joint": st.just(False),
    "every": count,
    "budget": st.floats(1e-6, 0.999),
    **dict.fromkeys(("entropy", "population", "l2", "weight_decay"), weight),
    "lr": above,
    "momentum": share,
    "clip": above,
}
TRAIN = {
    **dict.fromkeys(("epochs", "batch", "accumulate"), count),
    "tokens": st.none() | count,
    **dict.fromkeys(("lr", "clip"), above),
    **dict.fromkeys(("weight_decay", "alpha", "gamma"), weight),
    "warmup": share,
    "retain": st.sampled_from(["nll", "kl", "js"]),
    "keep": weight,
    "own_answers": st.booleans(),
    "bound": st.none() | weight,
    "dual_step": above,
    "only": st.none() | st.sampled_from(["mlp", r"layers\.1\."]),
    "precision": precision,
    "checkpointing": st.booleans(),
}
DATA = {
    "root": st.none() | text,
    "template": st.sampled_from(["auto", "chat", "plain"]),
    "layout": st.sampled_from(["own", "open-unlearning"]),
    "max_length": st.integers(8, 10**6),
    "ignore": st.lists(text, max_size=3),
    "columns": st.just(["question=prompt", "answer=a.0"]) | st.just([]),
    "turns": st.sampled_from(["last", "each"]),
    "split": st.none(),
    "overlap": st.just(0),
    "system_prompt": st.none() | text.filter(str.strip),
    "fold_system": st.booleans(),
    "date": st.dates().map(str),
    "reasoning_tokens": count,
}
EVALUATION = {
    **dict.fromkeys(("new_tokens", "batch"), count),
    "rows": st.none() | count,
    "precision": precision,
    "shots": st.integers(0, 10**6),
    "grad_norm": st.booleans(),
    "retrained": st.none() | text,
    "start": st.none() | text,
}
JUDGE = {
    "kind": st.sampled_from(["contained", "cosine"]),
    "model": st.none() | text,
    "url": st.none(),
    "threshold": st.floats(0.001, 0.999),
    "per_minute": st.none() | count,
    "retries": st.integers(0, 10**6),
}
LOSS = {"name": st.just("graddiff"), "saturation": weight}, {"name": st.just("npo"), "beta": above}
IMPORTANCE = {"name": st.just("uniform")}, {"name": st.just("wga"), "beta": weight}, LEARNED
some = st.fixed_dictionaries
RUNS = some(  # every value in its range, as plain values
    {
        **dict.fromkeys(("model", "forget", "retain"), text),
        **dict.fromkeys(("holdout", "held", "out"), st.none() | text),
        "subject": st.just([]),
        "suite": st.none(),
        "seed": st.integers(0, 2**63),
        "loss": st.one_of(map(some, LOSS)),
        "importance": st.one_of(map(some, IMPORTANCE)),
        "data": some(DATA),
        "lora": some({"rank": st.none() | count, "alpha": count, "bits": st.none()})
        | some({"rank": count, "alpha": count, "bits": st.just(4)}),
        "train": some(TRAIN),
        "keep": some({"every": st.none() | count, "newest": count}),
        "guard": some(
            {"retain": st.none() | factor, "probe": st.none() | factor, "stop": st.none() | count, "budget": weight}
        ),
        "evaluation": some(EVALUATION),
        "judge": some(JUDGE),
    }
).filter(  # what is refused together
    lambda raw: (
        (raw["lora"]["rank"] is None or raw["train"]["only"] is None)
        and (raw["lora"]["bits"] is None or raw["train"]["precision"] == "bf16")
    )
)


def refused(raw: object) -> str:
    with pytest.raises(ConfigError) as caught:
        from_dict(raw, where="run.yaml")
    assert "\n" not in str(caught.value)
    assert str(caught.value)
    return str(caught.value)


def set_at(path: str, value: object) -> dict[str, Any]:
    """A run's plain values with one of them changed: `train.lr` → {"train": {"lr": …}}."""
    *parents, key = path.split(".")
    raw: dict[str, Any] = dict(ROWS)
    inner = raw
    for parent in parents:
        inner = inner.setdefault(parent, {"name": "learned"} if parent == "importance" else {})
    inner[key] = value
    return raw


class TestRoundTrip:
    @pytest.mark.parametrize("recipe", RECIPES)
    def test_every_recipes_run_is_written_and_read(self, recipe, tmp_path):
        run = RECIPES[recipe].run(**ROWS)
        (tmp_path / "run.yaml").write_text(to_yaml(run), encoding="utf-8")
        assert from_yaml(tmp_path / "run.yaml") == run

    @settings(max_examples=50)
    @given(RUNS)
    def test_any_run_is_written_and_read(self, raw):
        run = from_dict(raw)
        assert to_dict(run) == raw
        assert from_dict(yaml.safe_load(to_yaml(run))) == run

    def test_every_value_is_written_out(self):
        """No default stays unsaid, and a loss and an importance carry their names."""
        written = yaml.safe_load(to_yaml(Run(**ROWS)))
        assert written == to_dict(Run(**ROWS))
        assert set(written) == {f.name for f in dataclasses.fields(Run)}
        assert written["loss"]["name"] == "graddiff"
        assert set(written["importance"]) == {"name", *(f.name for f in dataclasses.fields(Learned))}

    def test_what_is_left_out_has_its_default(self):
        assert from_dict(dict(ROWS)) == Run(**ROWS)
        assert from_dict(ROWS | {"train": {"epochs": 3}}).train == Train(epochs=3)

    @pytest.mark.parametrize("table", [("loss", FORGET_LOSSES), ("importance", IMPORTANCES)])
    def test_a_name_alone_is_that_method_with_its_defaults(self, table):
        """The other half is one that goes with all of them."""
        key, methods = table
        rows = ROWS | ({"importance": "uniform"} if key == "loss" else {"loss": "graddiff"})
        for name, method in methods.items():
            assert getattr(from_dict(rows | {key: name}), key) == method()
            assert getattr(from_dict(rows | {key: {"name": name}}), key) == method()

    def test_an_integer_is_accepted_for_a_float(self):
        run = from_dict(set_at("train.lr", 1))
        assert run.train.lr == 1.0
        assert isinstance(run.train.lr, float)

    @pytest.mark.parametrize("written", ["2e-5", "2E-5", "1e3", "2.0e-05", "0.00002"])
    def test_a_number_in_the_usual_notation_is_a_number(self, written, tmp_path):
        """YAML 1.1 takes 2e-5 for a text; people and json.dumps write it so."""
        path = tmp_path / "run.yaml"
        path.write_text(f"model: m\nforget: f\nretain: r\ntrain:\n  lr: {written}\n")
        assert from_yaml(path).train.lr == float(written)


class TestRefusals:
    @pytest.mark.parametrize(
        ("raw", "words"),
        [
            ({"modell": "m"}, "unknown key modell (did you mean model?)"),
            (set_at("train.learning", 1), "unknown key train.learning"),
            (set_at("train.epoch", 1), "unknown key train.epoch (did you mean epochs?)"),
            (set_at("importance.budgets", 1), "unknown key importance.budgets (did you mean budget?)"),
            (ROWS | {"loss": {"name": "npo", "saturation": 1.0}}, "unknown key loss.saturation"),
            (ROWS | {5: 1}, "unknown key 5"),
            (ROWS | {"subject": ["n"]}, "subject is read where retain rows are made"),
            ({"model": "m", "retain": "r"}, "forget is missing"),
            ({"model": "m"}, "give rows to forget, or a suite"),
            (ROWS | {"suite": "tofu/forget01"}, "give rows to forget, or a suite, and not both"),
            (ROWS | {"loss": "npoo"}, "loss.name is 'npoo', but must be one of graddiff, npo"),
            (ROWS | {"loss": {"beta": 1.0}}, "loss.name is None"),
            (ROWS | {"loss": 5}, "loss.name is None"),
            (ROWS | {"loss": {"name": ["npo"]}}, "loss.name is ['npo']"),
            (ROWS | {"importance": {"name": {}}}, "importance.name is {}"),
            (ROWS | {"train": 3}, "train. must be a table of settings, not 3"),
            ("text", "the run must be a table of settings, not 'text'"),
            (None, "the run must be a table of settings, not None"),
        ],
    )
    def test_what_is_not_a_run_is_refused_with_the_place_and_the_reason(self, raw, words):
        assert f"run.yaml: {words}" in refused(raw)

    @pytest.mark.parametrize("section", ["", "data", "lora", "train", "keep", "guard", "evaluation", "importance"])
    def test_a_value_of_another_type_is_refused_by_name(self, section):
        """A list of lists is no value of any setting."""
        cls = {"": Run, "data": Data, "lora": Lora, "train": Train, "importance": Learned}.get(section) or {
            "keep": Keep,
            "guard": Guard,
            "evaluation": Evaluation,
        }[section]
        for field in dataclasses.fields(cls):
            path = f"{section}.{field.name}".lstrip(".")
            assert path in refused(set_at(path, [[1]]))

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            *(("train.epochs", value) for value in (1.5, True, "3", None)),
            *(("train.lr", value) for value in (True, "fast", None)),
            ("train.checkpointing", 1),
            ("model", 3),
            ("holdout", 4),
            ("seed", 1.0),
            ("lora.rank", 1.0),
            *(("data.ignore", value) for value in ("page", [1])),
            ("data.template", "Chat"),
        ],
    )
    def test_near_misses_of_a_type_are_refused_too(self, path, value):
        message = refused(set_at(path, value))
        assert f"{path} is {value!r}, but must be " in message

    @pytest.mark.parametrize(
        ("path", "values"),
        [
            ("seed", [-1]),
            ("data.max_length", [7, 0, -1]),
            ("lora.rank", [0, -1]),
            ("lora.alpha", [0, -1]),
            ("train.epochs", [0, -1]),
            ("train.batch", [0]),
            ("train.accumulate", [0]),
            ("train.lr", [0.0, -1.0, math.nan]),
            ("train.clip", [0.0, math.nan]),
            ("train.weight_decay", [-0.1, math.nan]),
            ("train.alpha", [-0.1]),
            ("train.bound", [-0.1, math.nan]),
            ("train.dual_step", [0.0, -1.0, math.nan]),
            ("train.only", ["(", "*"]),
            ("importance.depth", [0, -1]),
            ("importance.every", [0]),
            ("importance.pretrain", [-1]),
            ("importance.negatives", [-0.1, math.nan]),
            ("train.gamma", [-0.1]),
            ("train.warmup", [-0.1, 1.0, math.nan]),
            ("keep.every", [0, -1]),
            ("keep.newest", [0]),
            ("guard.retain", [1.0, 0.0, math.nan]),
            ("guard.probe", [1.0, math.inf]),
            ("guard.stop", [0, -1]),
            ("guard.budget", [-0.1]),
            ("evaluation.new_tokens", [0]),
            ("evaluation.rows", [0]),
            ("evaluation.batch", [0]),
            ("evaluation.shots", [-1]),
            ("judge.threshold", [0.0, 1.0, math.nan]),
            ("judge.per_minute", [0, -1]),
            ("judge.retries", [-1]),
        ],
    )
    def test_a_value_out_of_range_is_refused_by_name(self, path, values):
        for value in values:
            assert f"{path} is {value!r}, but must be " in refused(set_at(path, value))

    @pytest.mark.parametrize(
        ("whole", "changed", "words"),
        [
            *(
                (
                    {"loss": "rmu", "importance": name},
                    {"loss": "graddiff"},
                    f"loss rmu with importance {name} makes no sense",
                )
                for name in ("learned", "wga", "satimp", "etw")
            ),
            *(
                (
                    {"loss": name, "importance": {"name": "learned", "objective": "matched"}},
                    {"importance": {"name": "learned", "objective": "complement"}},
                    f"loss {name} with importance learned has no matched objective, since the loss needs {need};",
                )
                for name, need in (("dpo", "preferred"), ("ceu", "logits"), ("undial", "logits"))
            ),
            (
                {"train": {"retain": "layer"}},
                {"loss": "rmu", "importance": "uniform"},
                "train.retain is layer, but loss graddiff",
            ),
            (
                {"train": {"only": "mlp"}, "lora": {"rank": 4}},
                {"lora": {}},
                "train.only chooses among the model's own weights",
            ),
            (
                {"lora": {"rank": 4, "bits": 4}},
                {"train": {"precision": "bf16"}},
                "lora.bits 4 computes in bf16; give --train.precision bf16",
            ),
            ({"lora": {"bits": 4}, "train": {"precision": "bf16"}}, {"lora": {"bits": 4, "rank": 4}}, "lora.rank is None"),
        ],
    )
    def test_parts_that_make_no_method_together_are_refused_with_the_reason(self, whole, changed, words):
        """Each of these is refused for that pair alone: with one part of it changed it is a run."""
        assert words in refused(ROWS | whole)
        assert isinstance(from_dict(ROWS | whole | changed), Run)

    @pytest.mark.parametrize("changed", [{}, {"objective": "complement"}, {"every": 2}, {"frozen": True}])
    def test_a_joint_scorer_must_learn_the_models_loss_at_every_step(self, changed):
        """Matched, every step and not frozen it is a run; with any of the three changed it is refused."""
        plain = {"name": "learned", "joint": True, "objective": "matched"}
        if not changed:
            assert from_dict(ROWS | {"importance": plain}).importance == Learned(joint=True, objective="matched")
        else:
            assert "importance.joint is True, but must be off" in refused(ROWS | {"importance": plain | changed})

    json = st.recursive(
        st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    )
    keys = st.sampled_from(["loss", "importance", "train", "data", "lora", "evaluation", "seed", "out", "holdout", "x"])
    inner = st.sampled_from(
        ["name", "name", "beta", "budget", "every", "epochs", "lr", "precision", "rank", "ignore", "state"]
    )

    @given(st.dictionaries(keys, json | st.dictionaries(inner, json | st.sampled_from(["npo", "learned"]), max_size=3)))
    def test_whatever_is_there_it_is_a_run_or_one_line(self, raw):
        try:
            assert isinstance(from_dict(ROWS | raw), Run)
        except ConfigError as e:
            assert "\n" not in str(e)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"model: [", "is not valid YAML"),
            (b"model: \xff", "cannot read"),
            (b"", "must be a table of settings, not None"),
            (b"- a\n", "must be a table of settings"),
            (b"a: !!python/object:os.system {}", "is not valid YAML"),
            (b"seed: 2001-13-45", "is not valid YAML.*month"),
            (b"seed: !!int 'x'", "is not valid YAML"),
            (b"seed: !!bool maybe", "is not valid YAML"),
            (b"seed: !!timestamp 'x'", "is not valid YAML"),
            (b"seed: " + b"1" * 5000, "is not valid YAML"),
            (b"seed: 1\nmodel: a\nseed: 2", "the key 'seed' is there twice.*line 1.*leave one out"),
            (b"train: {lr: 1.0e-5, epochs: 3, lr: 1.0e-4}", "the key 'lr' is there twice"),
            (b"? {a: b}\n: c", "is not valid YAML"),
        ],
    )
    def test_a_file_that_is_none_is_refused_in_one_line(self, content, words, tmp_path):
        path = tmp_path / "run.yaml"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=words) as caught:
            from_yaml(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_value_of_a_billion_parts_is_shown_by_its_beginning(self, tmp_path):
        """Nine lists, each of nine times the one before: a line of YAML a list, and text for days where all is shown."""
        lists = [f"- &l{n} [{', '.join([f'*l{n - 1}' if n else 'x'] * 9)}]" for n in range(9)]
        (tmp_path / "run.yaml").write_text("\n".join(lists), encoding="utf-8")
        with pytest.raises(ConfigError, match="must be a table of settings") as caught:
            from_yaml(tmp_path / "run.yaml")
        assert len(str(caught.value)) < 500

    odd = (
        "nan",
        ".inf",
        "1e400",
        "~",
        "[]",
        "{}",
        "*a",
        "&a b",
        "!!float 'x'",
        "!!binary aGk=",
        "2001-01-01",
        "0o17",
        "9" * 400,
    )
    pieces = st.sampled_from(
        [*odd, "<<: {seed: 1}", "---", "? a", ": b", "|", "'", '"\\ud800"', "\t", "\0", "\x85", "\ufeff", "\u202e", "#", "-"]
    )

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.sampled_from(sorted(RECIPES)), st.lists(st.tuples(st.integers(0, 80), pieces, st.booleans()), max_size=4))
    def test_whatever_was_done_to_a_file_it_is_a_run_or_one_line(self, tmp_path, recipe, changes):
        """Values replaced and lines pushed in, in a run file as deleatur writes it. What is read is read again alike."""
        lines = to_yaml(RECIPES[recipe].run(**ROWS)).splitlines()
        for at, piece, within in changes:
            at %= len(lines)
            lines[at : at + within] = [f"{lines[at].partition(':')[0]}: {piece}" if within else piece]
        path = tmp_path / "run.yaml"
        path.write_text("\n".join(lines), encoding="utf-8")
        try:
            run = from_yaml(path)
        except ConfigError as e:
            assert "\n" not in str(e) and len(str(e)) < 1500
            return
        path.write_text(to_yaml(run), encoding="utf-8")
        assert from_yaml(path) == run

    def test_a_file_that_is_not_there_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match="cannot read"):
            from_yaml(tmp_path / "none.yaml")


class TestValues:
    @pytest.mark.parametrize(
        "cls", [Run, Data, Lora, Train, Keep, Guard, Evaluation, Demo, Learned, Uniform, WGA, GradientDifference, NPO]
    )
    def test_settings_are_frozen_slotted_and_named(self, cls):
        value = cls(**ROWS) if cls is Run else cls()
        for field in dataclasses.fields(cls):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(value, field.name, 1)
        assert not hasattr(value, "__dict__")
        with pytest.raises(TypeError):
            cls("positional")

    @pytest.mark.parametrize(
        "cls", [Run, Data, Lora, Train, Keep, Guard, Evaluation, Demo, Learned, WGA, GradientDifference, NPO]
    )
    def test_every_field_says_what_it_is(self, cls):
        """`--help` is made of the lines under the fields."""
        from tyro import _docstrings

        for field in dataclasses.fields(cls):
            if field.name not in ("unit", "needs"):
                assert _docstrings.get_field_docstring(cls, field.name, ()), field.name

    @pytest.mark.parametrize(("changed", "words"), [({"forgotten": 0}, "forgotten"), ({"people": 2}, "people")])
    def test_a_demo_without_anyone_to_forget_or_to_keep_is_refused(self, changed, words):
        with pytest.raises(ConfigError, match=words):
            Demo(**changed)

    def test_a_recipe_is_a_pair_that_settings_replace(self):
        run = RECIPES["atwu-scorer"].run(**ROWS, seed=7, loss=NPO())
        assert (run.seed, run.loss) == (7, NPO())
        assert run.importance == RECIPES["atwu-scorer"].importance == Learned()
        assert run.train == RECIPES["atwu-scorer"].train

    @pytest.mark.parametrize("recipe", RECIPES)
    def test_recipes_name_methods_of_the_tables(self, recipe):
        assert type(RECIPES[recipe].loss) in FORGET_LOSSES.values()
        assert type(RECIPES[recipe].importance) in IMPORTANCES.values()
        assert RECIPES[recipe].source
