"""Files that would run somebody's code when read, or lead a write elsewhere: refused in a line, and the code did not run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
from killing import FEW
from transformers import AutoConfig

from deleatur.modeling.loading import load


class Poison:
    """Makes a folder when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path_factory):
    """The folder that poison makes; the test fails where it is there at the end."""
    mark = tmp_path_factory.mktemp("poison") / "ran"
    yield mark
    assert not mark.exists()


@pytest.fixture
def poison(mark) -> bytes:
    """A pickle that works: elsewhere it makes its folder."""
    other = mark.with_name("elsewhere")
    pickle.loads(pickle.dumps(Poison(other)))
    assert other.exists()
    return pickle.dumps(Poison(mark))


@pytest.fixture
def model(home, tmp_path) -> Path:
    return Path(shutil.copytree(home.model, tmp_path / "model"))


def say(path: Path, **changed: object) -> None:
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(known | changed), encoding="utf-8")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_pickled_weights_are_refused_by_name(name, model, poison, home, refused):
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(poison)
    line = refused(*home.forget("run", "--model", "./model"))
    assert name in line
    assert "safetensors" in line


@pytest.mark.parametrize("shard", ["pytorch_model-1.bin", "../pytorch_model-1.bin"])
def test_an_index_cannot_lead_to_pickled_weights(shard, model, poison, home, tmp_path, refused):
    (model / "model.safetensors").unlink()
    (model / shard).write_bytes(poison)
    index = {"metadata": {}, "weight_map": {"lm_head.weight": shard}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert f"names {shard}, which is no safetensors file" in refused(*home.forget("run", "--model", "./model"))


@pytest.mark.parametrize("name", ["scorer.pt", "weights.bin", "model.safetensors"])
def test_a_file_of_weights_is_no_model(name, poison, home, tmp_path, refused):
    (tmp_path / name).write_bytes(poison)
    assert name in refused(*home.forget("run", "--model", f"./{name}"))


def test_pickles_next_to_safetensors_are_not_read(model, poison):
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (model / name).write_bytes(poison)
    assert load(str(model))[0].num_parameters() > 0


@pytest.mark.parametrize("weights", ["adapter_model.bin", None])
def test_an_adapter_is_safetensors_or_refused(weights, model, poison, home, refused):
    adapter = model.with_name("adapter")
    adapter.mkdir()
    say(
        adapter / "adapter_config.json", base_model_name_or_path=str(model), peft_type="LORA", r=2, target_modules=["q_proj"]
    )
    if weights:
        (adapter / weights).write_bytes(poison)
    assert "adapter_model.safetensors" in refused(*home.forget("run", "--model", "./adapter"))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"base_model_name_or_path": "./adapter"}, "an adapter as its base"),
        ({"base_model_name_or_path": "./model", "megatron_config": {"a": 1}, "megatron_core": "evil"}, "megatron_config"),
        ({"base_model_name_or_path": ["./model"]}, "names no base_model_name_or_path"),
    ],
)
def test_an_adapters_settings_cannot_lead_astray(config, words, model, home, refused):
    adapter = model.with_name("adapter")
    adapter.mkdir()
    say(adapter / "adapter_config.json", peft_type="LORA", r=2, target_modules=["q_proj"], **config)
    assert words in refused(*home.forget("run", "--model", "./adapter"))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_model_that_brings_its_own_code_is_refused_with_what_to_do(file, model, mark, home, refused):
    code = f"import os\nos.mkdir({str(mark)!r})\n"
    for name in ("evil.py", "configuration_evil.py"):
        (model / name).write_text(code, encoding="utf-8")
    if file == "config.json":
        say(model / file, model_type="evil", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})
    else:
        say(model / file, tokenizer_class="EvilTokenizer", auto_map={"AutoTokenizer": ["evil.T", None]})
    line = refused(*home.forget("run", "--model", "./model"))
    assert "never run" in line
    assert "deleatur.forget in Python" in line


def test_a_known_family_is_read_by_transformers_code_and_points_at_no_other_when_saved(model, mark, tmp_path):
    (model / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n", encoding="utf-8")
    say(model / "config.json", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})
    lm, _ = load(str(model))
    lm.save_pretrained(tmp_path / "saved")
    assert not hasattr(AutoConfig.from_pretrained(tmp_path / "saved"), "auto_map")


@pytest.mark.parametrize("verb", ["forget", "evaluate", "score"])
def test_yaml_that_makes_objects_is_refused(verb, run_folder, mark, home, refused):
    """PyYAML's unsafe loader would make the folder."""
    with (run_folder / "run.yaml").open("a", encoding="utf-8") as f:
        f.write(f"evil: !!python/object/apply:os.mkdir [{str(mark)!r}]\n")
    args = {"forget": ("run/run.yaml",), "evaluate": ("run",), "score": ("run", "--rows", home.file("holdout"))}
    line = refused(verb, *args[verb])
    assert "run.yaml is not valid YAML" in line
    assert "python/object" in line


def test_a_pickled_scorer_is_refused_under_any_name(run_folder, poison, home, refused):
    rows = ("score", "run", "--rows", home.file("holdout"))
    (run_folder / "scorer.safetensors").write_bytes(poison)
    assert "holds no scorer" in refused(*rows)
    (run_folder / "scorer.safetensors").rename(run_folder / "scorer.pt")
    assert "scorer.safetensors" in refused(*rows)


def test_pickled_rows_are_refused(tmp_path, poison, home, refused):
    (tmp_path / "rows.pkl").write_bytes(poison)
    assert "not a known kind of file" in refused(*home.forget("run", "--forget", "rows.pkl"))
    (tmp_path / "rows.parquet").write_bytes(poison)
    assert "broken Parquet" in refused(*home.forget("run", "--forget", "rows.parquet"))


@pytest.mark.parametrize("source", ["..", "rows/..", "./..", "/"])
def test_a_run_without_a_name_is_never_written_into_a_parent_folder(source, home, tmp_path, monkeypatch):
    """A default folder is named after the forget rows; `..` would be the folder that all runs are in, or the one above."""
    from deleatur.config.run_config import Run
    from deleatur.run_folder.writer import free_folder

    monkeypatch.chdir(tmp_path)
    assert free_folder(Run(model="m", forget=source, retain="r")) == Path("runs/run")
    assert free_folder(Run(model="m", suite=f"rwku/{source}")).resolve().parent == tmp_path / "runs"


def test_rows_that_are_named_like_paths_write_nothing_elsewhere(home, tmp_path, call):
    """Their ids, subjects and the names of their files would lead out of the folder, were they ever a path."""
    evil = tmp_path / "rows" / "...jsonl"
    evil.parent.mkdir()
    for name, file in (("forget", evil), ("retain", tmp_path / "rows" / "retain.jsonl")):
        rows = [json.loads(line) for line in home.file(name).read_text(encoding="utf-8").splitlines()]
        ids = ("../x", "../../x", "/tmp/deleatur-x", "..", "a/../../x", "~/x", "C:\\x")
        named = ({**row, "id": ids[k % 7] + " " * (k // 7), "subject": ids[k % 7]} for k, row in enumerate(rows))
        file.write_text("".join(json.dumps(row) + "\n" for row in named), encoding="utf-8")
    own = set(tmp_path.rglob("*"))
    rows = ("--forget", evil, "--retain", evil.with_name("retain.jsonl"))
    commands = [("forget", "--model", home.model, *rows, *FEW, "--train.epochs", "1")]
    commands += [("evaluate", "runs/run", "--out", "eval"), ("score", "runs/run", "--rows", evil)]
    commands += [("report", "runs/run", *more) for more in ((), ("--redact",), ("--form", "lm-eval"))]
    commands += [("report", "runs/run", "--form", "open-unlearning"), ("export", "runs/run", "exported", "--name-rows")]
    for command in commands:
        said = call(*command)
        assert said.code == 0, (command, said.err)
    made = {path.relative_to(tmp_path).parts[0] for path in set(tmp_path.rglob("*")) - own}
    assert made == {"runs", "eval", "exported"}
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run"]
    assert not Path("/tmp/deleatur-x").exists()


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        (("report",), "report.html.part"),
        (("report", "--redact"), "report-redacted.html.part"),
        (("report", "--form", "lm-eval"), "lm_eval.json"),
        (("score",), "importance-holdout.jsonl"),
        (("forget", "--resume"), "steps.jsonl"),
        (("forget", "--resume"), "records/after.0.part.jsonl"),
    ],
)
def test_links_in_a_run_folder_are_not_followed_when_writing(verb, name, run_folder, home, tmp_path, refused):
    """A run folder may come from somebody else."""
    target = tmp_path / "precious"
    target.write_text("mine", encoding="utf-8")
    (run_folder / name).unlink(missing_ok=True)
    (run_folder / name).symlink_to(target)
    if verb[0] == "forget":
        (run_folder / "results.json").unlink()
    more = ("--rows", home.file("holdout")) if verb[0] == "score" else ()
    assert name in refused(verb[0], "run", *verb[1:], *more)
    assert target.read_text(encoding="utf-8") == "mine"
