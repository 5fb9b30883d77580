"""What `deleatur export` gives to others: the same model, in two forms, with a card that says what it is."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from deleatur.io.lock import try_lock
from deleatur.modeling.loading import load, load_tokenizer


def nll(model, tokenizer, texts: list[str]) -> list[float]:
    """Mean NLL of each text's tokens in nats, as transformers itself counts it."""
    ids = [torch.tensor([tokenizer(text).input_ids]) for text in texts]
    with torch.no_grad():
        return [float(model(i, labels=i).loss) for i in ids]


def front_matter(card: str) -> dict:
    head, _, _ = card.removeprefix("---\n").partition("\n---\n")
    return yaml.safe_load(head)


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    from deleatur.cli.main import main

    dest = tmp_path_factory.mktemp("export") / "model"
    main(["export", str(finished), str(dest), "--gguf"])
    return dest


def test_safetensors_and_gguf_say_what_the_runs_model_says(exported, finished, home):
    texts = [f"{e.question} {e.answer}" for e in (*home.world.forget, *home.world.retain)]
    own = nll(*load(str(finished / "model")), texts)
    merged = nll(AutoModelForCausalLM.from_pretrained(exported), AutoTokenizer.from_pretrained(exported), texts)
    gguf = nll(*load(str(exported / "model.gguf")), texts)
    assert max(abs(a - b) for a, b in zip(own, merged, strict=True)) == 0
    assert max(abs(a - b) for a, b in zip(own, gguf, strict=True)) < 1e-5


def test_the_gguf_files_own_tokenizer_is_read_next_to_a_tokenizer_json(exported):
    """Its ends of turns and chat template, of which transformers alone reads neither here: else no answer would end."""
    own, gguf = load_tokenizer(str(exported)), load_tokenizer(str(exported / "model.gguf"))
    assert own.eos_token
    assert (gguf.eos_token, gguf.bos_token, gguf.chat_template) == (own.eos_token, own.bos_token, own.chat_template)


def test_the_gguf_file_holds_the_very_weights(exported):
    saved, read = load_file(exported / "model.safetensors"), load(str(exported / "model.gguf"))[0].state_dict()
    assert saved.keys() == read.keys()
    assert all(torch.equal(saved[name], read[name]) for name in saved)


def test_transformers_alone_reads_the_gguf_file(exported, home):
    where = {"pretrained_model_name_or_path": exported, "gguf_file": "model.gguf"}
    texts = [e.answer for e in home.world.forget]
    there = nll(AutoModelForCausalLM.from_pretrained(**where), AutoTokenizer.from_pretrained(**where), texts)
    assert there == pytest.approx(nll(*load(str(exported)), texts), abs=1e-5)


def test_the_gguf_file_keeps_its_begin_and_end_of_text_next_to_the_folders_tokenizer(exported, finished):
    """transformers alone loses both there, and an answer without an end cannot be evaluated."""
    own, read = load(str(finished / "model"))[1], load(str(exported / "model.gguf"))[1]
    assert (read.bos_token, read.eos_token) == (own.bos_token, own.eos_token) == ("<s>", "</s>")


def test_the_card_has_rows_by_hash_method_evidence_limits_and_base(exported, finished, home):
    card = (exported / "README.md").read_text(encoding="utf-8")
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert front_matter(card) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["unlearning", "deleatur"],
    }
    assert all(part["sha256"] in card for part in results["data"].values())
    assert "graddiff × learned" in card
    assert "The base model still has it" in card
    assert "Licence: not known here" in card
    for metric in ("revealed", "probability", "rouge_l", "extraction_strength", "exact_memorisation"):
        figure = results["after"]["forget"][metric]
        assert f"± {100 * figure['se']:.1f} | {figure['n']} |" in card, metric
    assert [e.answer for e in home.world.forget if e.answer in card or e.question in card] == []
    assert str(home.folder) not in card


def test_nothing_in_the_folder_names_rows_or_places(exported, home):
    for path in exported.iterdir():
        content = path.read_bytes()
        assert str(home.folder).encode() not in content, path
        assert not [e for e in home.world.forget if e.answer.encode() in content], path


def test_rows_are_named_when_that_is_allowed(finished, home, call, tmp_path):
    assert call("export", finished, "named", "--name-rows", "--license", "apache-2.0").code == 0
    card = (tmp_path / "named" / "README.md").read_text(encoding="utf-8")
    assert all(e.question in card.replace("\\", "") for e in home.world.forget)
    assert front_matter(card)["license"] == "apache-2.0"


@pytest.mark.parametrize(
    ("head", "licence"),
    [
        ("---\nlicense: mit\ntags: [a]\n---\n# Tiny\n", "mit"),
        ("---\nlicense: !!python/object/apply:os.mkdir ['/nowhere/x']\n---\n", None),
        ("---\nlicense: [mit]\n---\n", None),
        ("# Tiny\nlicense: mit\n", None),
    ],
)
def test_the_licence_is_read_from_the_base_models_card(head, licence, tmp_path):
    from deleatur.commands.export import licence_of

    (tmp_path / "README.md").write_text(head, encoding="utf-8")
    assert licence_of(str(tmp_path)) == licence


def test_an_export_is_complete_or_absent(finished, tmp_path, refused, call, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    assert "full exists" in refused("export", finished, "full")
    assert "owner/name" in refused("export", finished, "new", "--push", "../name")
    assert "results.json" in refused("export", tmp_path / "full", "new")
    monkeypatch.setattr("deleatur.commands.export.save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    said = call("export", finished, "new")
    assert (said.code, said.err.splitlines()[-1][:34]) == (2, "deleatur: new cannot be written (d")
    assert [p.name for p in tmp_path.iterdir()] == ["full"]


def test_two_exports_to_one_folder_do_not_mix_their_files(finished, call, tmp_path):
    with try_lock(tmp_path / "model.lock"):
        said = call("export", finished, "model")
        assert (said.code, list(tmp_path.iterdir())) == (2, [tmp_path / "model.lock"])
        assert "another export is writing model; let it end" in said.err
    assert call("export", finished, "model").code == 0
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_a_family_that_gguf_lacks_is_refused_before_anything_is_written(run_folder, refused):
    tokenizer = AutoTokenizer.from_pretrained(run_folder / "model")
    shutil.rmtree(run_folder / "model")
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2)).save_pretrained(
        run_folder / "model"
    )
    tokenizer.save_pretrained(run_folder / "model")
    assert "a gpt2 model cannot be written as GGUF" in refused("export", run_folder, "new", "--gguf")


class Hub:
    """What the hub's client would have been told."""

    said: list = []  # noqa: RUF012
    fails = False

    def create_repo(self, name, *, private, exist_ok):
        if self.fails:
            raise OSError("401 no such\nlogin")
        self.said.append(("create", name, private, exist_ok))

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        self.said.append(("upload", repo_id, sorted(p.name for p in folder_path.iterdir())))


def test_push_goes_to_the_named_place_privately_and_takes_the_export_alone(finished, call, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr(Hub, "said", [])
    assert call("export", finished, "plain").code == 0
    assert Hub.said == []
    assert call("export", finished, "pushed", "--push", "me/forgot").code == 0
    files = sorted(p.name for p in (tmp_path / "pushed").iterdir())
    assert Hub.said == [("create", "me/forgot", True, True), ("upload", "me/forgot", files)]
    assert "README.md" in files


def test_a_push_that_fails_keeps_the_folder_and_says_how_to_continue(finished, call, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr(Hub, "fails", True)
    said = call("export", finished, "new", "--push", "me/forgot")
    assert said.code == 2
    assert "401 no such" in said.err
    assert "hf upload me/forgot new" in said.err
    assert (tmp_path / "new" / "model.safetensors").exists()
