"""Two deletion requests one after the other on a tiny model that knows the rows, as a user makes them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from two_requests import WAYS, lines, write_files

from deleatur.commands.request_folders import check_same, is_next
from deleatur.config.run_config import from_yaml
from deleatur.errors import ConfigError
from deleatur.modeling.gguf import plan_gguf, write_gguf


def test_the_second_request_runs_on_the_model_that_the_first_left_and_holds_its_rows(done, fine_tuned_model):
    first, second = lines(done / "requests.jsonl")
    runs = [(done / request["run"] / "run.yaml").read_text() for request in (first, second)]
    assert f"model: {fine_tuned_model}" in runs[0]
    assert f"{first['run']}/model\n" in runs[1].splitlines(True)[0]
    assert "held: null" in runs[0]
    assert f"{first['run']}/held.jsonl" in runs[1]
    held = lines(done / first["run"] / "held.jsonl")
    answers = [row["answer"] for row in lines(done / "first.jsonl")]
    assert len(held) == 6
    assert not {row["messages"][-1]["content"] for row in held} & set(answers), "never the truth, what the model says now"


def test_both_are_forgotten_after_the_second_run(done):
    first, second = lines(done / "requests.jsonl")
    assert (first["state"], second["state"]) == ("done", "done")
    assert first["before"]["revealed"] == 1
    assert second["before"]["revealed"] > 0.3, "so small a model loses some of the others too"
    assert first["left"]["revealed"] == second["left"]["revealed"] == 0
    checks = json.loads((done / second["run"] / "requests.json").read_text())
    assert [(c["request"]["sha256"], c["now"]["revealed"], c["known"]) for c in checks] == [
        (first["sha256"], 0, False),
        (second["sha256"], 0, False),
    ]


def test_an_unfinished_run_is_left_where_another_request_was_done_in_the_meantime(done):
    """The second run began with the first one's model."""
    first, second = lines(done / "requests.jsonl")
    assert is_next(done / second["run"], [first])
    assert not is_next(done / second["run"], [first, second])


def test_an_interrupted_run_does_not_go_on_with_other_options(done):
    run = done / lines(done / "requests.jsonl")[1]["run"]
    begun = from_yaml(run / "run.yaml")
    check_same(run, lambda inputs: replace(begun, out=inputs.out), None)
    with pytest.raises(ConfigError, match=r"was begun with other settings \(seed: 0\); give the same options to go on, or"):
        check_same(run, lambda inputs: replace(begun, seed=7), None)


def test_the_ledger_has_no_text_of_any_row(done):
    text = (done / "requests.jsonl").read_text(encoding="utf-8")
    rows = [row for name in ("first", "second", "keep") for row in lines(done / f"{name}.jsonl")]
    pieces = [piece for row in rows for piece in (row["question"], row["answer"], row["subject"], row["answer"][24:32])]
    assert not [piece for piece in pieces if piece in text]


def test_verify_finds_the_last_model_clean_and_the_one_before_not(copied, call, fine_tuned_model):
    assert call("request", "verify").code == 0
    first, second = lines(copied / "requests.jsonl")
    assert call("request", "verify", copied / second["run"]).code == 0  # a run's folder
    said = call("request", "verify", copied / first["run"] / "model", "--json")
    assert said.code == 1, "the second person is still in it"
    assert [c["known"] for c in json.loads(said.out)["requests"]] == [False, True]
    said = call("request", "verify", fine_tuned_model)
    assert said.code == 1
    assert "knows the rows of 2 of 2 requests" in said.out


def test_verify_reads_a_gguf_file(copied, call, fine_tuned_model):
    _, second = lines(copied / "requests.jsonl")
    for name, folder in (("clean", copied / second["run"] / "model"), ("leaking", fine_tuned_model)):
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        write_gguf(plan_gguf(model, tokenizer), model, tokenizer, copied / f"{name}.gguf", licence=None)
    assert call("request", "verify", "clean.gguf").code == 0
    assert call("request", "verify", "leaking.gguf").code == 1


def test_rows_that_changed_or_went_are_refused_in_a_sentence(copied, refused):
    text = (copied / "first.jsonl").read_text(encoding="utf-8")
    name = lines(copied / "requests.jsonl")[0]["sha256"][:12]
    (copied / "first.jsonl").write_text(text.replace("was", "is"), encoding="utf-8")
    assert f"the rows in first.jsonl have changed since request {name} was added" in refused("request", "verify")
    (copied / "first.jsonl").unlink()
    assert f"the rows of request {name} are not at first.jsonl" in refused("request", "verify")


def test_a_withdrawn_request_is_not_checked_and_is_added_again_unchanged(copied, call, refused):
    name = lines(copied / "requests.jsonl")[0]["sha256"][:12]
    said = call("request", "withdraw", name)
    assert said.out.startswith(f"Request {name} is withdrawn; what a run has forgotten stays forgotten")
    assert f"request {name} is withdrawn; to take it up again" in refused("request", "withdraw", name[:5])
    assert f"request {name} is withdrawn" in refused("request", "run", "--request", name)
    row, *others = lines(copied / "first.jsonl")
    more = json.dumps(row | {"paraphrases": [*row["paraphrases"], "Which?"]})
    (copied / "more.jsonl").write_text("\n".join([more, *map(json.dumps, others)]), encoding="utf-8")
    assert ", open. Next" in call("request", "add", "--forget", "more.jsonl").out, "another wording is another request"
    call("request", "withdraw", lines(copied / "requests.jsonl")[-1]["sha256"])
    (copied / "first.jsonl").rename("elsewhere.jsonl")
    assert call("request", "verify").code == 0, "its rows are no longer needed"
    said = call("request", "add", "--forget", "elsewhere.jsonl", "--retain", "keep.jsonl", "--due", "2027-01-01")
    assert "done. Next: deleatur request verify" in said.out
    assert lines(copied / "requests.jsonl")[0]["due"] == "2027-01-01"
    assert call("request", "verify").code == 0, "they are read where they are now"


def test_what_cannot_be_done_is_said_in_a_sentence(copied, call, refused, home):
    known = lines(copied / "requests.jsonl")[0]["sha256"][:12]
    assert f"no request in requests.jsonl begins with 'ffff'; give the hash of one of {known}" in refused(
        "request", "withdraw", "ffff"
    )
    assert "no request in requests.jsonl is open" in refused("request", "run")
    assert f"request {known} is done" in refused("request", "run", "--request", known)
    assert "there is no ledger at other.jsonl" in refused("request", "run", "--ledger", "other.jsonl")
    assert f"these rows are request {known}, which is done" in refused("request", "add", "--forget", "first.jsonl")
    assert "gone.jsonl is not there" in refused("request", "add", "--forget", "gone.jsonl")
    assert "requests.jsonl lies in ., so that it would count as rows" in refused("request", "add", "--forget", ".")
    assert "--retain is set by the ledger" in refused("request", "run", "--retain", "keep.jsonl")
    assert "--data.max-length is set by the ledger" in refused("request", "run", "--data.max-length=99")
    assert "the model's name is empty" in refused("request", "verify", "")
    assert "no action 'runn'" in refused("request", "runn")
    shutil.copy(home.file("holdout"), "third.jsonl")
    call("request", "add", "--forget", "third.jsonl", "--retain", "keep.jsonl")
    assert "leave --model out" in refused("request", "run", "--model", home.model)
    first, *others = lines(copied / "requests.jsonl")
    changed = [first | {"data": {"from_tomorrow": 1}}, *others]
    (copied / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in changed), encoding="utf-8")
    assert "use the deleatur that wrote them, or correct `data` in its line" in refused("request", "verify")


def test_every_row_of_a_request_is_asked_with_room_for_its_answer_whatever_the_options(
    home, call, tmp_path, fine_tuned_model
):
    """Of two rows and one token of each answer nothing would be seen, so a run that teaches nothing would be done."""
    write_files(home, tmp_path)
    call("request", "add", "--forget", "first.jsonl", "--retain", "keep.jsonl")
    little = ("--evaluation.rows", "2", "--evaluation.new-tokens", "1")
    nothing = ("--train.lr", "1e-9", "--train.epochs", "1")
    said = call("request", "run", "--model", fine_tuned_model, *WAYS, *nothing, *little)
    (request,) = lines(tmp_path / "requests.jsonl")
    assert (said.code, request["state"], request["before"]["revealed"]) == (1, "open", 1)
    results = json.loads((tmp_path / request["run"] / "results.json").read_text())
    assert results["after"]["forget"]["revealed"] == {"value": 1.0, "n": 6, "se": 0.0}


def test_a_request_that_is_named_ends_with_its_run_also_with_all(copied, call):
    first, second = lines(copied / "requests.jsonl")
    waiting = second | {"state": "open", "run": None, "verdict": None, "finished": None, "before": None, "left": None}
    (copied / "requests.jsonl").write_text(f"{json.dumps(first)}\n{json.dumps(waiting)}\n", encoding="utf-8")
    said = call("request", "run", "--request", second["sha256"], "--all", *WAYS)
    assert (said.code, said.err.splitlines()[-1:][0].startswith("deleatur:")) == (0, False), said.err
    assert f"Request {second['sha256'][:12]}: Forgotten" in said.out


def test_the_first_run_needs_a_model(home, call, tmp_path):
    write_files(home, tmp_path)
    call("request", "add", "--forget", "first.jsonl", "--retain", "keep.jsonl", "--due", "2026-12-24")
    said = call("request", "run")
    assert (said.code, "give one as --model" in said.err) == (2, True)
    assert "2026-12-24" in call("request", "list").out


def test_a_request_that_is_not_forgotten_stays_open_and_the_next_does_not_start_from_its_model(
    copied,
    call,
    home,
    fine_tuned_model,
):
    """Nothing is learned at a rate of 1e-9. The rows of the one who stayed are the third request."""
    first, last = (request["run"] for request in lines(copied / "requests.jsonl"))
    shutil.rmtree(copied / first)  # older runs are not needed any more
    call("request", "add", "--forget", "keep.jsonl", "--retain", home.file("holdout"))
    said = call("request", "run", *WAYS, "--train.lr", "1e-9", "--train.epochs", "1")
    third = lines(copied / "requests.jsonl")[-1]
    assert (said.code, third["state"], third["finished"]) == (1, "open", None)
    assert "It stays open" in said.out
    assert third["verdict"].startswith("Not forgotten")
    call("request", "run", *WAYS, "--train.lr", "1e-9", "--train.epochs", "1")
    again = lines(copied / "requests.jsonl")[-1]
    assert again["run"] == f"{third['run']}-2"
    assert f"model: {last}/model" in (copied / again["run"] / "run.yaml").read_text()


def test_where_an_earlier_request_comes_back_the_run_is_not_taken(copied, call, home, fine_tuned_model):
    """A third run that is given the first one's rows to keep teaches them again."""
    name = lines(copied / "requests.jsonl")[0]["sha256"][:12]
    call("request", "add", "--forget", home.file("holdout"), "--retain", "first.jsonl")
    ways = ("--recipe", "graddiff", "--train.gamma", "0", "--train.alpha", "5", "--train.lr", "6e-3", "--train.epochs", "40")
    said = call("request", "run", *ways, "--train.batch", "3", "--guard.retain", "None", "--guard.probe", "None")
    third = lines(copied / "requests.jsonl")[-1]
    assert (said.code, third["state"]) == (1, "open"), said.out
    assert f"known again: {name}" in third["verdict"]
    assert call("request", "verify").code == 0, "the chain's last model is the second run's"
