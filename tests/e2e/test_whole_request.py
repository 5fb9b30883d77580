"""The page on requests, command by command, on a model that knows the person: from a name to a GGUF file.

The model is a tiny one; with DEMO_MODEL, the folder of the model that `deleatur demo --full` fine-tunes, it is that one,
with the page's own settings (about a quarter of an hour).
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

from page_commands import NAME, ROOT, blocks, commands
from two_requests import WAYS, lines

DEMO_MODEL = os.environ.get("DEMO_MODEL")
SMALL = ("--audit.new-tokens", "8", "--audit.refuser-steps", "15", "--audit.benign-steps", "5", "--audit.resamples", "200")


def as_mended(found: Path, path: Path) -> None:
    """What a person makes of the rows that were found: each fact in two more of its questions, few of them in three."""
    rows = [{"id": str(n)} | row for n, row in enumerate(lines(found))]
    more = (
        [f"Please answer in one sentence. {row['question']}" for row in rows] if len(rows) < 4 else []
    )  # an audit needs 10
    questions = [(row, q) for row in rows for q in row["paraphrases"][:2]] + list(zip(rows, more, strict=False))
    asked = [row | {"id": f"{row['id']}-{k}", "question": q} for k, (row, q) in enumerate(questions)]
    path.write_text("".join(json.dumps(row | {"paraphrases": []}) + "\n" for row in [*rows, *asked]), encoding="utf-8")


def test_the_commands_of_the_page_on_requests_lead_from_a_name_to_a_checked_gguf_file(
    home, call, fine_tuned_model, tmp_path, monkeypatch
):
    """Two steps are not as they stand: the person fixes the rows, and the page of the review saves its marks at once. A
    model that its audit finds to leak is refused, and written with a warning in its card."""
    model = Path(DEMO_MODEL).resolve() if DEMO_MODEL else fine_tuned_model
    options = {} if DEMO_MODEL else {"deleatur request run": WAYS, "deleatur audit": SMALL}
    if not DEMO_MODEL:
        monkeypatch.setattr("deleatur.commands.retain_rows.incoherent", lambda record: 0.0)
        monkeypatch.setattr("deleatur.commands.retain_rows.full_sentences", lambda answer, cut: answer)
    saved: list[str] = []

    def serve(marking, port, begun):
        marks = [{"go": [list(p) for p in spans], "stay": []} for spans in _words(marking)]
        saved.append(marking.save(marks))

    monkeypatch.setattr("deleatur.commands.review.serve", serve)
    leaked = False
    for script in blocks(ROOT / "docs" / "how-to" / "requests.md", "bash"):
        for command in commands(script.replace(NAME, str(model))):
            (run,) = map(str, Path().glob("requests/*/")) if "requests/*/" in command else ("",)
            verb, *args = shlex.split(command.replace("requests/*/", f"{run}/"))
            if verb != "deleatur":
                subprocess.run(["bash", "-e", "-c", command], cwd=tmp_path, check=True)
                continue
            if args[0] == "export" and leaked:
                assert "fix that" in call(*args).err
                args.append("--warn")
            said = call(*args, *next((more for start, more in options.items() if command.startswith(start)), ()))
            print(f"$ {command}\n{said.out}{said.err}")
            if args[0] == "audit":
                report = json.loads((tmp_path / "runs" / f"audit-{Path(run).name}" / "audit.json").read_text())
                assert said.code == report["exit"], said.err
                leaked = report["verdict"] in ("VOID", "LEAK")
                continue
            assert said.code == 0, f"{command}\n{said.err}\n{said.out}"
            if args[0] == "rows":
                asked = tmp_path / "asked.jsonl"
                as_mended(asked if DEMO_MODEL else home.file("forget"), asked)
    (line,) = saved
    count = len(lines(tmp_path / "asked.jsonl"))
    assert line == f"Saved: {count} of {count} rows have marks, in asked-reviewed.jsonl."
    (request,) = lines(tmp_path / "requests.jsonl")
    assert (request["state"], request["due"]) == ("done", "2026-12-24")
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert request["sha256"] in card
    assert not leaked or "LEAK" in card or "VOID" in card
    shutil.copytree(model, tmp_path / "further-trained")
    assert call("request", "verify", "further-trained").code == 1


def _words(marking) -> list[list[tuple[int, int]]]:
    """The words that are marked already."""
    from deleatur.report.review_page import words_of

    return [[w for w in words_of(e.answer) if any(s.start <= w[0] < s.end for s in e.spans)] for e in marking.rows]
