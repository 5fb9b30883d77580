"""Settings that cannot be used, by option, by file and by name: one line that says what is needed, and nothing touched."""

from __future__ import annotations

import dataclasses
import re

import pytest
import yaml

from deleatur.config.recipes import RECIPES
from deleatur.config.run_config import from_yaml, to_dict
from deleatur.importance import IMPORTANCES
from deleatur.losses import FORGET_LOSSES
from deleatur.settings import Data, Evaluation, Judge, Lora, Train

OUTSIDE = {  # every number of a run → what it must not be
    "seed": (-1,),
    "data.max-length": (-1, 0, 7),
    "data.split": (-1, 0, 15, 1025),
    "data.overlap": (-1, 1),
    "data.reasoning-tokens": (-1, 0),
    "lora.rank": (-1, 0),
    "lora.alpha": (-1, 0),
    "lora.bits": (0, 3, 8),
    "train.epochs": (-1, 0),
    "train.batch": (-1, 0),
    "train.accumulate": (-1, 0),
    "train.tokens": (-1, 0),
    "train.lr": (-1e-5, 0, "nan"),
    "train.warmup": (-0.1, 1, "nan"),
    "train.weight-decay": (-0.1, "nan"),
    "train.clip": (-1, 0, "nan"),
    "train.alpha": (-1, "nan"),
    "train.gamma": (-1, "nan"),
    "train.bound": (-0.1, "nan"),
    "train.dual-step": (-1, 0, "nan"),
    "evaluation.new-tokens": (-1, 0),
    "evaluation.batch": (-1, 0),
    "evaluation.rows": (-1, 0),
    "evaluation.shots": (-1,),
    "judge.threshold": (0, 1, "nan"),
    "judge.per-minute": (-1, 0),
    "judge.retries": (-1,),
    "loss.saturation": (-1, "nan"),
    "importance.depth": (-1, 0),
    "importance.negatives": (-0.1, "nan"),
    "importance.pretrain": (-1,),
    "importance.every": (-1, 0),
    "importance.budget": (-0.1, 0, 1, "nan"),
    "importance.entropy": (-1, "nan"),
    "importance.population": (-1, "nan"),
    "importance.l2": (-1, "nan"),
    "importance.lr": (-1, 0, "nan"),
    "importance.momentum": (-0.1, 1, "nan"),
    "importance.weight-decay": (-1, "nan"),
    "importance.clip": (-1, 0, "nan"),
}
OF_OTHERS = {  # recipe → its own numbers
    **{name: {"loss.beta": (-1, 0, "nan")} for name in ("npo", "dpo", "altpo")},
    "simnpo": {"loss.beta": (-1, 0), "loss.delta": (-0.1, "nan"), "loss.scale": (-1, 0, "nan")},
    "rmu": {"loss.layer": (-1,), "loss.coefficient": (-1, 0, "nan")},
    "undial": {"loss.beta": (-1, "nan")},
    "ceu": {"loss.skip": (-1,)},
    "wga": {"importance.beta": (-1, "nan")},
    "satimp": {"importance.beta1": (-1, "nan"), "importance.beta2": (-1, "nan")},
    "tokenunlearn": {"importance.mix": (-0.1, 1.1, "nan"), "importance.share": (-0.1, 0, 1.1, "nan")},
    "seul": {"importance.k": ("nan",), "importance.gap": (-1,)},
    "su-llm": {"importance.k": ("nan",), "importance.widen": (-1,)},
    "su-ngram": {"importance.n": (-1, 0), "importance.k": ("nan",), "importance.widen": (-1,)},
    "contrast": {"importance.nearest": (-1, 0), "importance.rows": (-1, 0)},
    "atwu": {
        "importance.surprise": (0, 1, -0.1, "nan"),
        "importance.ridge": (0, -1, "nan"),
        "importance.nearest": (-1, 0),
        "importance.rows": (-1, 0),
        "loss.level": (0, -1, "nan"),
        "train.keep": (-1, "nan"),
    },
}
ANY = {"loss.seed", "loss.ids"}  # every whole number will do, and ids that no tokenizer made
CASES = [(name, value, "atwu-scorer") for name, values in OUTSIDE.items() for value in values]
CASES += [(n, v, recipe) for recipe, numbers in OF_OTHERS.items() for n, values in numbers.items() for v in values]


@pytest.mark.parametrize(("name", "value", "recipe"), CASES)
def test_a_number_out_of_range_is_refused_with_the_range(name, value, recipe, home, refused):
    line = refused(*home.forget("run", "--recipe", recipe, f"--{name}={value}"))
    assert re.match(rf"deleatur: {re.escape(name.replace('-', '_'))} is \S+, but must be ", line), line


def test_every_number_of_every_method_is_among_those():
    parts = {"data": [Data], "lora": [Lora], "train": [Train], "evaluation": [Evaluation], "judge": [Judge]}
    parts |= {"loss": [*FORGET_LOSSES.values()], "importance": [*IMPORTANCES.values()]}
    fields = {(part, f) for part, classes in parts.items() for cls in classes for f in dataclasses.fields(cls)}
    numbers = {f"{part}.{f.name.replace('_', '-')}" for part, f in fields if re.search(r"\b(int|float)\b", str(f.type))}
    known = {*OUTSIDE, *(name for names in OF_OTHERS.values() for name in names)}
    assert numbers - ANY == known - {"seed"}


@pytest.mark.parametrize("name", ["train.lr", "train.gamma", "importance.l2"])
def test_infinity_is_no_number(name, home, refused):
    assert "inf" in refused(*home.forget("run", f"--{name}=inf"))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--train.epoch", "3"), r"--train\.epoch.*--train\.epochs"),
        (("--trian.epochs", "3"), r"--trian\.epochs.*--train\.epochs"),
        (("--train.epochs", "many"), r"--train\.epochs.*many"),
        (("--train.epochs", "1.5"), r"--train\.epochs.*1\.5"),
        (("--train.epochs",), r"--train\.epochs"),
        (("--train.lr", "fast"), r"--train\.lr.*fast"),
        (("--train.precision", "fp8"), "fp8.*precision"),
        (("--data.template", "jinja"), "jinja.*template"),
        (("--recipe", "atuw"), r"--recipe is 'atuw' \(did you mean atwu\?\)"),
        (("--loss", "nop"), r"--loss is 'nop' \(did you mean npo\?\)"),
        (("--importance=lerned",), r"--importance is 'lerned' \(did you mean learned\?\)"),
        (("--loss.beta", "0.1"), r"loss\.beta"),  # npo's, and the recipe's loss is another
        (("--show", "-1"), "show is -1"),
        (("stray",), "stray"),
    ],
)
def test_an_option_that_is_not_one_is_refused(args, said, home, refused):
    line = refused(*home.forget("run", *args))
    assert re.search(said, line), line
    assert "--" * 3 not in line
    assert "─" not in line


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("forgte",), r"'forgte' \(did you mean forget\?\)"),
        (("--verbose",), "no verb '--verbose'"),
        (("forget",), "--model.*--forget"),
        (("forget", "--forget", "f.jsonl", "--retain", "r.jsonl"), "--model"),
        (("evaluate",), "--model.*--forget.*--retain"),
        (("score",), "Folder of the run"),
        (("report",), "Folder of the run"),
        (("score", "run", "--limit", "0"), "limit is 0"),
        (("recipes", "all"), "all"),
        (("demo", "--recipe", "atuw"), "recipe is 'atuw'"),
        (("demo", "--people", "2"), "people is 2"),
        (("demo", "--forgotten", "0"), "forgotten is 0"),
        (("demo", "--fine-tune-epochs", "-1"), "fine_tune_epochs is -1"),
    ],
)
def test_a_command_that_is_not_one_is_refused(args, said, refused):
    line = refused(*args)
    assert re.search(said, line), line


REST = "model: a\nforget: b\nretain: c\n"
YAMLS = {  # what stands in the file → what the line says
    "forget: [": "not valid YAML",
    "\tforget: x": "not valid YAML",
    "": "must be a table of settings, not None",
    "a word": "must be a table of settings, not 'a word'",
    "- a\n- b": r"must be a table of settings, not \['a', 'b'\]",
    "modle: a": r"unknown key modle \(did you mean model\?\)",
    REST + "train: {wramup: 0.1}": r"unknown key train\.wramup \(did you mean warmup\?\)",
    REST + "importance: {name: learned, buget: 0.1}": r"unknown key importance\.buget \(did you mean budget\?\)",
    "{model: a, retain: b}": "forget is missing",
    "{model: 5, forget: b, retain: c}": "model is 5, but must be str",
    REST + "seed: true": "seed is True, but must be int",
    REST + "train: 3": r"train\. must be a table of settings, not 3",
    REST + "train: {lr: fast}": r"train\.lr is 'fast', but must be float",
    REST + "train: {lr: -1}": r"train\.lr is -1\.0, but must be above 0",
    REST + "train: {precision: fp8}": r"train\.precision is 'fp8'.*one of fp32, bf16",
    REST + "data: {ignore: page}": r"data\.ignore is 'page', but must be a list of texts",
    REST + "loss: nop": r"loss\.name is 'nop', but must be one of graddiff, npo",
    REST + "loss: 5": r"loss.*must be one of graddiff, npo",
    REST + "importance: {budget: 0.1}": r"importance\.name is None",
}


@pytest.mark.parametrize("text", YAMLS, ids=lambda text: text.removeprefix(REST)[:40])
def test_a_run_file_that_is_not_one_is_refused(text, tmp_path, refused):
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    line = refused("forget", "run.yaml")
    assert re.search(YAMLS[text], line), line
    assert "run.yaml" in line or " is -1" in line


@pytest.mark.parametrize("text", [REST + "loss: {name: [npo]}", "[" * 2000], ids=["list", "deep"])
def test_a_run_file_of_the_wrong_shape_is_refused(text, tmp_path, refused):
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    assert "run.yaml" in refused("forget", "run.yaml")


def test_a_run_file_that_cannot_be_read_is_refused(tmp_path, refused):
    (tmp_path / "run.yaml").write_bytes(b"model: \xff\xfe")
    assert "run.yaml" in refused("forget", "run.yaml")
    assert "nowhere.yaml" in refused("forget", "nowhere.yaml")
    assert "No such file" in refused("forget", "nowhere.yaml")


def test_a_run_file_names_its_method_itself(finished, refused):
    """A recipe beside it would be half in force; a loss and an importance are what it is made of."""
    assert "--recipe" in refused("forget", finished / "run.yaml", "--recipe", "npo")


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_goes_into_yaml_and_comes_back(recipe, tmp_path):
    run = RECIPES[recipe].run(model="m", forget="f", retain="r")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(to_dict(run)), encoding="utf-8")
    assert from_yaml(tmp_path / "run.yaml") == run


def test_a_pair_that_makes_no_sense_is_refused_by_both_its_names(home, refused):
    said = refused(*home.forget("run", "--loss", "rmu", "--importance", "satimp"))
    assert "loss rmu with importance satimp makes no sense" in said


def test_a_loss_that_does_not_go_with_the_recipes_importance_goes_with_another(home, call):
    chosen = ("--loss", "rmu", "--loss.layer", "0", "--importance", "uniform", "--train.retain", "layer")
    said = call(*home.forget("run", *chosen))
    assert said.code == 0, said.err


def test_a_run_file_behind_the_options_is_told_where_it_belongs(call, tmp_path):
    (tmp_path / "run.yaml").touch()
    said = call("forget", "--train.lr", "1e-4", "run.yaml")
    assert said.code == 2
    assert "run.yaml has to come first: deleatur forget run.yaml …" in said.err
