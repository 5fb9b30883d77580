"""With model and rows on disk nothing reaches for the network, and a process of its own makes the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

WALLED = """
import socket, sys
def refuse(*args, **kwargs):
    sys.stderr.write("REACHED OUT\\n")
    raise OSError("no network")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
from deleatur.cli import main
main(sys.argv[1:])
"""


def test_a_run_needs_no_network_and_repeats_another_process_to_the_byte(finished, tmp_path):
    """Not even the switches that tell the hub's library to stay offline are needed."""
    free = {k: v for k, v in os.environ.items() if not k.endswith("_OFFLINE")}
    command = [sys.executable, "-c", WALLED, "forget", str(finished / "run.yaml"), "--out", "run", "--json"]
    done = subprocess.run(command, env=free, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert "REACHED OUT" not in done.stderr
    assert json.loads(done.stdout)["schema_version"] == 1
    for name in ("model/model.safetensors", "scorer.safetensors", "importance.jsonl", "records/after.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes(), name
