"""Prints what the command line says of itself, as the Markdown that docs/cli.md includes."""

import contextlib
import io
import os

os.environ |= {"COLUMNS": "88", "NO_COLOR": "1"}

from deleatur.cli.main import main

VERBS = (
    "forget",
    "evaluate",
    "audit",
    "rows",
    "score",
    "report",
    "request",
    "review",
    "export",
    "demo",
    "bench",
    "compare",
    "methods",
    "metrics",
)


def said(*args: str) -> str:
    """What a command prints before it ends."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(args)
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


print(f"## deleatur\n\n```text\n{said('--help')}\n```")
ACTIONS = ("add", "list", "run", "verify", "withdraw")
for verb in VERBS:
    print(f"\n## {verb}\n\n```text\n{said(verb, '--help')}\n```")
    for action in ACTIONS if verb == "request" else ():
        print(f"\n### request {action}\n\n```text\n{said(verb, action, '--help')}\n```")
