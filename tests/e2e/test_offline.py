"""With model and rows on disk nothing reaches for the network, nothing is written but where it was asked for, and what the
rows say is in the run folder alone. One process of its own does it all, and makes the same bytes as this one."""

from __future__ import annotations

import csv
import json
import os
import re
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

CANARY = "Xanquelvorbit"
WALLED = """
import json, os, sys
def listen(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.gethostbyname"):
        sys.stderr.write(f"REACHED OUT {event} {args}\\n")
        raise OSError("no network")
    if event == "open" and isinstance(args[0], str) and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR):
        written.add(os.path.abspath(args[0]))
written = set()
sys.addaudithook(listen)
from deleatur.cli.main import main
peft = []
for command in json.loads(sys.argv[1]):
    main(command)
    peft.append("peft" in sys.modules)
print(json.dumps({"written": sorted(written), "env": dict(os.environ), "peft": peft}))
"""


@dataclass(frozen=True, kw_only=True)
class Walled:
    """The folder in which the process ran, with all that it could write to, and what it said."""

    root: Path
    out: str
    err: str

    @property
    def told(self) -> dict:
        return json.loads(self.out.splitlines()[-1])

    def holding(self, text: str) -> list[str]:
        """Files under the root whose name or content has the text, in any of the encodings that one might meet."""
        forms = {text.encode(e) for e in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le")}
        files = [p for p in self.root.rglob("*") if p.is_file() and not p.is_symlink()]
        found = [p for p in files if text in p.name or any(form in p.read_bytes() for form in forms)]
        return sorted(str(p.relative_to(self.root)) for p in found)


def marked(home, name: str) -> list[dict]:
    """Rows of the world whose every text has the canary."""
    rows = [json.loads(line) for line in home.file(name).read_text(encoding="utf-8").splitlines()]
    texts = ("question", "answer", "subject")
    lists = ("paraphrases", "alternates")
    return [
        row
        | {k: f"{row[k]} {CANARY}" for k in texts}
        | {k: [f"{text} {CANARY}" for text in row[k]] for k in lists}
        | {"id": f"{name}-{CANARY}-{n}"}
        for n, row in enumerate(rows)
    ]


def write_rows(home, folder: Path) -> None:
    """The sets in three kinds of file."""
    folder.mkdir()
    (folder / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in marked(home, "forget")), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(marked(home, "retain")), folder / "retain.parquet")
    with (folder / "holdout.csv").open("w", newline="", encoding="utf-8") as f:
        rows = [{k: row[k] for k in ("id", "question", "answer")} for row in marked(home, "holdout")]
        table = csv.DictWriter(f, rows[0].keys())
        table.writeheader()
        table.writerows(rows)


@pytest.fixture(scope="module")
def walled(home, finished, tmp_path_factory) -> Walled:
    root = tmp_path_factory.mktemp("walled")
    for name in ("home", "tmp", "cache", "work"):
        (root / name).mkdir()
    rows = tmp_path_factory.mktemp("rows") / "in"
    write_rows(home, rows)
    sets = ("--forget", rows / "forget.jsonl", "--retain", rows / "retain.parquet", "--holdout", rows / "holdout.csv")
    quick = ("--train.epochs", 1, "--train.batch", 4, "--evaluation.new-tokens", 4, "--evaluation.rows", 6)
    commands = [
        ("forget", finished / "run.yaml", "--out", "again"),
        ("forget", "--model", home.model, *sets, "--out", "run", *quick, "--lora.rank", 2, "--keep.every", 1),
        ("report", "run", "--redact"),
        ("report", "run", "--form", "open-unlearning", "--redact"),
        ("evaluate", "run"),
        ("compare", "run", "--out", "compared"),
        ("export", "run", "exported", "--gguf"),
        (
            "bench",
            "--model",
            home.model,
            *sets,
            "--out",
            "bench",
            *quick,
            "--methods",
            "graddiff",
            "--trials",
            1,
            "--seeds",
            0,
        ),
        ("demo", "--model", home.model, "--out", "demo", "--people", 3, "--forgotten", 1, "--fine-tune-epochs", 1),
    ]
    free = {k: v for k, v in os.environ.items() if not k.endswith("_OFFLINE") and not k.startswith(("HF_", "XDG_"))}
    free |= {"HOME": str(root / "home"), "TMPDIR": str(root / "tmp"), "XDG_CACHE_HOME": str(root / "cache")}
    program = [sys.executable, "-c", WALLED, json.dumps([[str(a) for a in c] for c in commands])]
    done = subprocess.run(program, env=free, cwd=root / "work", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return Walled(root=root, out=done.stdout, err=done.stderr)


def test_nothing_reaches_for_the_network(walled):
    """Not even the switches that tell the hub's library to stay offline are needed."""
    assert "REACHED OUT" not in walled.err
    for name in ("forget", "demo"):
        assert (walled.root / "work" / ("run" if name == "forget" else name) / "results.json").exists()


def test_a_new_process_writes_the_same_bytes(walled, finished):
    for name in ("model/model.safetensors", "scorer.safetensors", "importance.jsonl", "records/after.jsonl"):
        assert (walled.root / "work" / "again" / name).read_bytes() == (finished / name).read_bytes(), name


def test_telemetry_of_the_libraries_is_off(walled):
    told = {name: walled.told["env"].get(name) for name in ("DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY")}
    assert told == {"DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    assert walled.told["env"]["HF_UPDATE_DOWNLOAD_COUNTS"] == "0"
    assert walled.told["env"]["DISABLE_SAFETENSORS_CONVERSION"] == "1"


def test_peft_is_imported_for_adapters_only(walled):
    """It takes seconds: the first command trains all weights, the second adapters."""
    assert walled.told["peft"][:2] == [False, True]


def test_what_the_rows_say_is_in_the_run_folder_alone(walled):
    """Home, temporary files, caches, the current folder, comparison, export, stdout and stderr; each would be a leak."""
    found = walled.holding(CANARY)
    assert {"work/run/importance.jsonl", "work/run/records/after.jsonl", "work/run/report.html"} <= set(found)
    assert [path for path in found if not path.startswith(("work/run/", "work/bench/"))] == []
    assert CANARY not in walled.out + walled.err


def test_what_is_redacted_says_nothing_of_the_rows(walled):
    found = walled.holding(CANARY)
    for name in ("report-redacted.html", "TOFU_EVAL.json", "TOFU_SUMMARY.json", "results.json", "run.yaml", "steps.jsonl"):
        assert (walled.root / "work" / "run" / name).exists()
        assert f"work/run/{name}" not in found


OF_THE_MODEL = {
    *("config.json", "generation_config.json", "model.safetensors"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"),
}


def test_no_file_is_written_but_where_it_was_asked_for(walled):
    """As Python's own record of opened files has it, those that were removed again too.

    Caches of fonts hold no text. Saving is tried with the model's settings and tokenizer, which know nothing of rows,
    and a layer of each kind. The probe of a folder for temporary files, eight letters without a prefix, four bytes.
    """
    work = walled.root / "work"
    asked = [
        work / name
        for name in ("again", "run", "compared", "exported", "exported.part", "exported.lock", "bench", "demo", "models")
    ]
    written = [Path(path) for path in walled.told["written"]]
    assert any(path.is_relative_to(work / "run") for path in written)
    others = {path for path in written if not any(path.is_relative_to(place) for place in asked)}
    others -= {p for p in others if "matplotlib" in p.parts or p.is_relative_to("/proc") or p.is_relative_to("/dev")}
    probes = {p for p in others if p.parent == walled.root / "tmp" and re.fullmatch(r"\w{8}", p.name)}
    probes |= {p for p in others if p.parent.parent == walled.root / "tmp" and p.name in OF_THE_MODEL}
    assert others - probes == set()
    assert list((walled.root / "tmp").iterdir()) == []


def test_the_run_folder_is_its_owners_alone(walled):
    for name in ("run", "again", "bench", "demo"):
        assert stat.S_IMODE((walled.root / "work" / name).stat().st_mode) == 0o700
