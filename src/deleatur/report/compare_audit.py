"""What audits said of the models of compared runs (`deleatur bench --audit`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from deleatur.report.compare import ComparedMethod
from deleatur.run_folder.file_types import AttackSummary, RunResults

ARMS = ("original", "control", "refuser")
ATTACKED = "what the attack got out of the model, under its best setting (docs/audit.md)"


def attacks_of(runs: Sequence[ComparedMethod]) -> dict[str, Callable[[RunResults], float | str]]:
    """A column for each attack on any of the runs' models: its name, and what reads it."""
    found = (r["audit"] for run in runs for r in run.results if "audit" in r)
    names = dict.fromkeys(name for audit in found for name in audit["attacks"])
    return {f"audit: {name}, %": partial(_came_back, attack=name) for name in names}


def _came_back(results: RunResults, attack: str) -> float | str:
    """In percent of the facts, or of the attack's scale; or why there is no number."""
    found = results["audit"]["attacks"].get(attack) if "audit" in results else None
    if found is None:
        return "not audited"
    value = found["arms"].get("audited", {}).get("value")
    return f"void, {found['why']}" if found["verdict"] == "VOID" or value is None else 100 * value


def audit_notes(runs: Sequence[ComparedMethod]) -> Iterator[str]:
    """Each audit's verdict in a sentence, and once what the attacks found on the arms that are the same for all."""
    each = ((run, seed, r) for run in runs for seed, r in zip(run.seeds, run.results, strict=True))
    audited = [(run, seed, r["audit"]) for run, seed, r in each if "audit" in r]
    if audited:
        levels = [f"{name} {_levels(attack)}" for name, attack in audited[0][2]["attacks"].items()]
        yield f"Audit, on {', '.join(ARMS)}: {'; '.join(levels)}."
    for run, seed, audit in audited:
        flags = "".join(f", {flag}" for flag in audit["flags"])
        yield f"Audit of {run.label}, seed {seed}: {audit['verdict']}{flags}: {audit['why']}."


def leaking(runs: Sequence[ComparedMethod]) -> list[str]:
    """The methods of which an audit is LEAK with some seed."""
    return [run.label for run in runs if any("audit" in r and r["audit"]["verdict"] == "LEAK" for r in run.results)]


def _levels(attack: AttackSummary) -> str:
    values = [attack["arms"].get(arm, {}).get("value") for arm in ARMS]
    return ", ".join("–" if v is None else f"{100 * v:.1f}" for v in values)
