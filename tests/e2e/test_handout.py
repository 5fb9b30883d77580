"""`deleatur export` where deletion requests are kept: what it refuses, what it asks of each file, what the card says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from two_requests import WAYS, lines

from deleatur.auditing.controls import digest_of
from deleatur.data.rows import read_rows
from deleatur.settings import Data


def write_audit(folder: Path, request: dict, verdict: str, rows: str) -> None:
    """An audit of a request's run as `deleatur audit` leaves it, as far as an export reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    sha = digest_of(read_rows(rows, settings=Data()))
    (folder / "inputs.json").write_text(json.dumps({"audited": f"{request['run']}/model", "forget": sha}))
    (folder / "audit.json").write_text(json.dumps({"schema_version": 2, "verdict": verdict}))


@pytest.fixture
def audited(copied) -> Path:
    """Both requests are audited, one in its run's folder, one where an audit lies by default."""
    first, second = lines(copied / "requests.jsonl")
    write_audit(copied / first["run"] / "audit", first, "CLEAR", "./first.jsonl")
    write_audit(copied / "runs" / f"audit-{second['sha256'][:12]}", second, "INCONCLUSIVE", "./second.jsonl")
    return copied


def test_each_request_is_in_the_card_by_hash_with_verdict_date_audit_and_what_each_file_says(audited, call):
    first, second = lines(audited / "requests.jsonl")
    said = call("export", second["run"], "model", "--gguf")
    assert said.code == 0, said.err
    card = (audited / "model" / "README.md").read_text(encoding="utf-8")
    section = card.partition("## Deletion requests")[2].partition("\n## ")[0].strip().splitlines()
    assert [line[:69] for line in section] == [f"- `{r['sha256']}` " for r in (first, second)]
    assert f"(6 rows), {first['finished'][:10]}: {first['verdict']}. Audit: CLEAR." in section[0]
    assert "revealed 100 % before, and reveal 0 % in model.safetensors, 0 % in model.gguf." in section[0]
    assert "Audit: INCONCLUSIVE." in section[1]
    rows = [row for name in ("first", "second") for row in lines(audited / f"{name}.jsonl")]
    assert not [row for row in rows if row["answer"] in card or row["subject"] in card]


def test_an_audit_that_is_missing_void_or_leaking_is_refused(audited, refused):
    first, second = lines(audited / "requests.jsonl")
    for verdict in ("VOID", "LEAK"):
        write_audit(audited / first["run"] / "audit", first, verdict, "./first.jsonl")
        said = refused("export", second["run"], "model")
        assert f"the audit of request {first['sha256'][:12]} is {verdict}; fix that, or give --warn" in said
    write_audit(audited / first["run"] / "audit", second, "CLEAR", "./second.jsonl")
    said = refused("export", second["run"], "model")
    assert f"request {first['sha256'][:12]} has no audit (deleatur audit {first['run']}" in said, "it is of other rows"


def test_an_audit_of_weights_that_were_replaced_is_none(audited, refused):
    first, second = lines(audited / "requests.jsonl")
    place = audited / first["run"] / "audit" / "inputs.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"audited_weights": "of a run since deleted"}))
    assert f"request {first['sha256'][:12]} has no audit" in refused("export", second["run"], "model")


def test_an_open_request_is_refused_or_warned_of_and_named_in_the_card(audited, call, refused):
    _, second = lines(audited / "requests.jsonl")
    call("request", "add", "--forget", "keep.jsonl", "--retain", "first.jsonl")
    name = lines(audited / "requests.jsonl")[-1]["sha256"][:12]
    assert f"request {name} is open" in refused("export", second["run"], "model")
    said = call("export", second["run"], "model", "--warn")
    assert said.code == 0
    assert f"Warning: request {name} is open" in said.err
    assert f"Exported although request {name} is open." in (audited / "model" / "README.md").read_text(encoding="utf-8")
    call("request", "withdraw", name)
    assert call("export", second["run"], "again").code == 0


def test_a_model_that_knows_a_later_requests_rows_is_not_written(audited, call):
    """The first run's model was never asked to forget the second person."""
    first, second = lines(audited / "requests.jsonl")
    said = call("export", first["run"], "model", "--gguf")
    assert said.code == 2
    assert f"model.safetensors knows the rows of request {second['sha256'][:12]} (and 1 more)" in said.err.splitlines()[-1]
    assert not [path for path in audited.iterdir() if path.name.startswith("model")]


def test_a_gguf_file_is_loaded_back_and_evaluated(audited, call, monkeypatch, fine_tuned_model):
    """A file that holds other weights than those that were checked."""
    import deleatur.commands.export as export
    from deleatur.modeling.loading import load

    _, second = lines(audited / "requests.jsonl")
    told, _ = load(str(fine_tuned_model))
    whole = export.write_gguf
    monkeypatch.setattr(export, "write_gguf", lambda plan, model, *rest, **more: whole(plan, told, *rest, **more))
    said = call("export", second["run"], "model", "--gguf")
    assert (said.code, "deleatur: model.gguf knows the rows of request" in said.err.splitlines()[-1]) == (2, True)
    assert not [path for path in audited.iterdir() if path.name.startswith("model")]


def test_a_ledger_that_is_not_there_is_refused(audited, refused):
    _, second = lines(audited / "requests.jsonl")
    assert "there is no ledger at none.jsonl" in refused("export", second["run"], "model", "--ledger", "none.jsonl")


def test_a_later_request_is_checked_in_every_exported_file_too(audited, call, fine_tuned_model):
    """The second person asks after the first one's model was handed out, which knows the second still."""
    first, second = lines(audited / "requests.jsonl")
    waiting = second | {"state": "open", "run": None, "verdict": None, "finished": None, "before": None, "left": None}
    (audited / "requests.jsonl").write_text(json.dumps(first) + "\n", encoding="utf-8")
    assert call("export", first["run"], "model", "--gguf").code == 0
    entered, *_ = lines(audited / "requests.jsonl")
    assert entered["exported"] == ["model"]
    (audited / "requests.jsonl").write_text(f"{json.dumps(entered)}\n{json.dumps(waiting)}\n", encoding="utf-8")
    said = call("request", "run", *WAYS)
    assert said.code == 0, said.err
    name = second["sha256"][:12]
    told = f"knows the rows of 1 of 2 requests: {name}; export the newest run, and replace this file wherever it is used."
    assert said.out.splitlines()[-2:] == [f"Exported: model/{form} {told}" for form in ("model.safetensors", "model.gguf")]
    (audited / "model" / "model.gguf").write_bytes(b"GGUF")
    said = call("request", "verify")
    assert (said.code, "does not know the rows of any of the 2 requests that are done" in said.out) == (1, True)
    assert f"Exported: model/model.safetensors {told}" in said.out
    assert "Exported: model/model.gguf was not checked: " in said.out
    shutil.rmtree(audited / "model")
    said = call("request", "verify")
    assert said.code == 0
    assert said.out.splitlines()[-1] == "Exported: model was not checked: it is not there any more."


def test_what_was_done_is_told_and_checked_where_the_next_request_cannot_be_begun(audited, call):
    first, second = lines(audited / "requests.jsonl")
    waiting = second | {"state": "open", "run": None, "verdict": None, "finished": None, "before": None, "left": None}
    (audited / "requests.jsonl").write_text(json.dumps(first) + "\n", encoding="utf-8")
    assert call("export", first["run"], "model").code == 0
    entered, *_ = lines(audited / "requests.jsonl")
    missing = waiting | {"sha256": "f" * 64, "rows": "gone.jsonl"}
    text = "".join(f"{json.dumps(line)}\n" for line in (entered, waiting, missing))
    (audited / "requests.jsonl").write_text(text, encoding="utf-8")
    said = call("request", "run", "--all", *WAYS)
    assert (said.code, "the rows of request ffffffffffff are not at gone.jsonl" in said.err) == (2, True)
    assert f"Request {second['sha256'][:12]}: Forgotten" in said.out
    assert f"Exported: model/model.safetensors knows the rows of 1 of 2 requests: {second['sha256'][:12]}" in said.out


def test_no_model_is_written_that_the_ledger_cannot_remember(audited, call, monkeypatch):
    """Another process holds the ledger, or it became read-only: a later request would not be checked in the model."""
    import deleatur.commands.standing as standing

    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "requests.jsonl")

    monkeypatch.setattr(standing, "enter_export", fail)
    said = call("export", lines(audited / "requests.jsonl")[1]["run"], "model")
    assert (said.code, "Permission denied" in said.err) == (2, True)
    assert not [path for path in audited.iterdir() if path.name.startswith("model")]


def test_a_requests_run_without_its_ledger_is_refused_or_warned_of(audited, call, refused):
    _, second = lines(audited / "requests.jsonl")
    shutil.copytree(audited / second["run"], audited / "elsewhere" / "run")
    said = refused("export", "elsewhere/run", "model")
    assert "elsewhere/run is the run of a request, but no ledger is beside it (--ledger names one); fix that" in said
    assert (
        call("export", "elsewhere/run", "model", "--ledger", "requests.jsonl", "--audits", "runs/none", "--warn").code == 0
    )
    assert call("export", "elsewhere/run", "again", "--warn").code == 0
    assert "Exported although elsewhere/run is the run of a request" in (audited / "again" / "README.md").read_text()


def test_the_ledger_of_others_does_not_stand_in_for_the_runs_own(audited, call, refused):
    _, second = lines(audited / "requests.jsonl")
    (audited / "other").mkdir()
    call("request", "add", "--forget", "keep.jsonl", "--ledger", "other/requests.jsonl")
    call("request", "withdraw", lines(audited / "other" / "requests.jsonl")[0]["sha256"], "--ledger", "other/requests.jsonl")
    said = refused("export", second["run"], "model", "--ledger", "other/requests.jsonl")
    assert f"{second['run']} is the run of a request in another ledger; fix that" in said


def test_the_card_has_no_path_of_this_machine(audited, call):
    first, second = lines(audited / "requests.jsonl")
    (audited / first["run"] / "audit" / "inputs.json").unlink()
    assert call("export", audited / second["run"], "model", "--warn").code == 0
    card = (audited / "model" / "README.md").read_text(encoding="utf-8")
    assert f"Exported although request {first['sha256'][:12]} has no audit." in card
    assert str(audited) not in card


def test_a_model_exported_while_all_requests_are_withdrawn_is_remembered(audited, call):
    """One may be taken up again, or a new one come."""
    _, second = lines(audited / "requests.jsonl")
    for request in lines(audited / "requests.jsonl"):
        call("request", "withdraw", request["sha256"])
    assert call("export", second["run"], "model", "--gguf").code == 0
    call("request", "add", "--forget", "first.jsonl", "--retain", "keep.jsonl")
    (audited / "model" / "model.safetensors").unlink()  # only the other form was kept
    said = call("request", "verify")
    assert said.code == 0
    assert [line for line in said.out.splitlines() if line.startswith("Exported")] == [
        "Exported: model/model.gguf does not know the rows of the request that is done."
    ]


def test_a_request_that_changes_nothing_checks_no_exported_file(audited, call):
    _, second = lines(audited / "requests.jsonl")
    assert call("export", second["run"], "model").code == 0
    call("request", "add", "--forget", "keep.jsonl", "--retain", "first.jsonl")
    said = call("request", "run", *WAYS, "--train.epochs", "1", "--train.lr", "1e-9")
    assert said.code == 1, said.err
    assert "Exported" not in said.out
