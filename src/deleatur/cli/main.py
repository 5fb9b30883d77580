"""The command line. Parsing needs no torch; `--help` reads no verb's settings."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence

from deleatur import __version__
from deleatur.data.messages import printable
from deleatur.distributed.processes import is_first
from deleatur.errors import ConfigError, DeleaturError, Diverged, Interrupted

USAGE = """usage: deleatur VERB [OPTIONS]        (deleatur VERB --help lists its options)

Make a language model forget exactly what it must, and nothing else.

  forget     forget rows, keep the others, show the evidence; `deleatur forget run/run.yaml` repeats a run
  evaluate   evaluate a model on rows, without changing it
  audit      attack a model to see whether forgotten rows come back, with controls; exits 0, 1 or 3 by its verdict
  rows       ask a model what it knows about a name, and write that as rows to forget
  score      show a run's answers, coloured by how much each token matters
  report     write a run's report.html again; with --redact without the rows' texts
  request    keep deletion requests in a ledger: run one after the other, check earlier ones and later models again
  review     mark on a page of your own which words of the forget rows must go
  export     write a run's model for others: safetensors with a model card, GGUF, or to the hub
  demo       fine-tune a small model on a made-up world, then make it forget two people
  bench      tune and run several methods on a benchmark, on equal terms; one table, one page
  compare    put finished runs side by side in one table and one page
  methods    list the methods by name, with their papers and settings (recipes is the same)
  metrics    list what is measured, with its direction and meaning

exits 0 when done, 1 when an audit finds a leak or a request's rows are known, 2 when an input is invalid, 3 when an audit
is inconclusive, 4 when training damaged the model and was rolled back, 70 at a fault of deleatur's own, 75 when terminated
(SIGTERM), 130 when interrupted (Ctrl-C); the last line says what was seen, and how to resume or what to change
"""

LIBRARY_ENVIRONMENT = {  # keeps the libraries from sending anything
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # datasets reports every load to the hub
    "DISABLE_SAFETENSORS_CONVERSION": "1",  # transformers requests a bot to convert a hub model without safetensors
}

BUSY = 25  # % of all processors: from here on, waiting threads would hold up whoever shares the machine
SPINS = "10000"  # before a waiting thread sleeps; waking one takes longer than most of a small model's operations


def main(argv: Sequence[str] | None = None) -> None:
    """The command `deleatur`. USAGE lists the exit codes."""
    try:
        _main(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has read enough, as `| head` does
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")  # for what is still written at the exit
        raise SystemExit(128 + signal.SIGPIPE) from None


def _main(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)
        return
    if args[0] == "--version":
        print(__version__)
        return
    os.environ |= LIBRARY_ENVIRONMENT | _thread_environment()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    if not is_first():
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")  # only the first process prints
        warnings.simplefilter("ignore")
    try:
        if os.environ.get("WORLD_SIZE", "1") != "1" and args[0] not in ("forget", "evaluate"):
            raise ConfigError(f"{args[0]} runs in one process; forget and evaluate can be started in several")
        from deleatur.cli.verbs import verb_of  # with the settings of all verbs, which the help above does not need

        with _terminable():
            verb_of(args[0])(args[1:])
    except Diverged as e:
        _fail(str(e), 4)
    except DeleaturError as e:
        _fail(str(e), 2)
    except KeyboardInterrupt as e:
        number = e.signal if isinstance(e, Interrupted) else signal.SIGINT
        _fail(str(e) or "interrupted; nothing was kept", 130 if number == signal.SIGINT else 75)
    except BrokenPipeError:
        raise
    except OSError as e:
        _fail(f"{e.strerror or e}{f': {e.filename}' if e.filename else ''}", 2)
    except Exception as e:  # else Python would exit with 1, which is an audit's leak
        traceback.print_exc()
        _fail(f"{type(e).__name__}: a fault of deleatur's own; please report it with the lines above", 70)


def _thread_environment() -> dict[str, str]:
    """How threads wait for the next operation: on an idle machine they look for it, on a busy one they sleep at once.

    Results are the same. OpenMP reads it when torch is imported. Nothing is added to what the user has set.
    """
    if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys() or os.environ.get("OMP_NUM_THREADS") == "1":
        return {}
    import psutil

    busy = psutil.cpu_percent(interval=0.05)
    return {"OMP_WAIT_POLICY": "PASSIVE"} if busy >= BUSY else {"GOMP_SPINCOUNT": SPINS}


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM stops as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        """Raise Interrupted in the main thread."""
        raise Interrupted("terminated", signal=number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(message: str, code: int) -> None:
    if is_first():
        print(f"deleatur: {printable(' '.join(message.split())):.2000}", file=sys.stderr)
    raise SystemExit(code)
