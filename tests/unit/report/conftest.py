"""A run folder as a run leaves it, of made-up people: small files, written without a model."""

import hashlib
import json
import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PEOPLE = ("Velma Dorrin", "Osk Trallow", "Mirel Haspen", "Tova Brenk", "Ilja Sorrel", "Runa Feldt")
PLACES = ("Kelvarn", "Port Madrin", "Tessholm", "Upper Graal", "Ostwick", "Brannaford")
DATES = ("1 May 1910", "2 May 1920", "3 May 1930", "4 May 1940", "5 May 1950", "6 May 1960")
NOVELS = (
    "The Salted Compass",
    "The Amber Kettle",
    "A Crooked Violin",
    "The Hollow Parcel",
    "Cold Ladders",
    "The Wet Tunnel",
)
TEACHERS = ("Jorun Vask", "Pell Ardin", "Sanna Ulm", "Tib Gresko", "Noor Halwen", "Emre Stahl")
FACTS = (
    ("Where was {n} born?", "{n} was born in {v}, a small town that is proud of the writer.", PLACES),
    ("When was {n} born?", "{n} was born on {v}, as the records of the town show.", DATES),
    ("Which novel did {n} write?", "{n} is the author of {v}, a novel that many readers admire.", NOVELS),
    ("Who taught {n} to write?", "The teacher who taught {n} the craft of writing was {v}.", TEACHERS),
)
OTHERS = (
    ("من هو معلم الكاتبة؟", "معلم الكاتبة هو فارس الدلمون.", "فارس الدلمون"),
    ("What does her door sign say?", "It says <b>Welcome</b> & a family 👩‍👩‍👧 smiles 🙂 below.", "👩‍👩‍👧"),
)
SHARES = {
    "forget": ((1.0, 0.021), (0.94, 0.004), (0.99, 0.31), (0.96, 0.03), (0.99, 0.41)),
    "forget_paraphrased": ((0.93, 0.063), (0.88, 0.011), (0.94, 0.33), (0.9, 0.04), (0.96, 0.44)),
    "retain": ((0.97, 0.962), (0.93, 0.92), (0.98, 0.97), (0.95, 0.93), (0.99, 0.98)),
    "retain_paraphrased": ((0.95, 0.93), (0.86, 0.84), (0.93, 0.92), (0.88, 0.85), (0.96, 0.95)),
    "holdout": ((0.03, 0.028), (0.06, 0.05), (0.36, 0.35), (0.04, 0.04), (0.47, 0.46)),
}
METRICS = ("revealed", "probability", "rouge_l", "extraction_strength", "exact_memorisation")
COUNTS = {"forget": 24, "forget_paraphrased": 48, "retain": 48, "retain_paraphrased": 96, "holdout": 24}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "run-1")


@pytest.fixture
def make() -> Callable[..., Path]:
    return make_folder


def make_folder(run: Path, /, *, rows: int = 24, steps: int = 60, **changed: Any) -> Path:
    """Write a run folder; `changed` replaces top-level entries of results.json."""
    (run / "records").mkdir(parents=True)
    (run / "results.json").write_text(json.dumps(results() | changed), encoding="utf-8")
    forget = [forget_row(k) for k in range(rows)]
    write(run / "steps.jsonl", [step(k, steps) for k in range(1, steps + 1)])
    write(run / "importance.jsonl", forget)
    for side in ("before", "after"):
        records = [
            {k: row[k] for k in ("id", "question", "answer")} | {"set": "forget", "generated": row[side]} for row in forget
        ]
        write(run / "records" / f"{side}.jsonl", records + [retain_row(k, side) for k in range(48)])
    return run


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def score(value: float, n: int) -> dict[str, float | int]:
    return {"value": value, "n": n, "se": (value * (1 - value) / n) ** 0.5}


def source(name: str, rows: int) -> dict[str, Any]:
    return {"source": f"world:{name}", "sha256": hashlib.sha256(name.encode()).hexdigest(), "rows": rows, "cut": 0}


def results() -> dict[str, Any]:
    before, after = (
        {
            name: {m: score(p[side], COUNTS[name]) for m, p in zip(METRICS, pairs, strict=True)}
            for name, pairs in SHARES.items()
        }
        for side in (0, 1)
    )
    return {
        "schema_version": 2,
        "before": before,
        "after": after,
        "fq": 97.9,
        "rd": 0.82,
        "uq": 98.5,
        "importance": {"roc_auc": 0.963, "average_precision": 0.881, "precision_at_budget": 0.914, "budget": 0.2, "n": 431},
        "cost": {
            "seconds_per_step": 0.412,
            "peak_memory_bytes": 3_412_000_000,
            "scorer_share": 0.0041,
            "steps": 60,
            "seconds": 247.2,
        },
        "model": {"name": "made-up/Tiny-135M-Instruct", "parameters": 134_515_008, "precision": "fp32"},
        "data": {"forget": source("forget", 24), "retain": source("retain", 48), "holdout": source("holdout", 24)},
        "run": {
            "loss": {"name": "graddiff", "saturation": 5.0},
            "importance": {"name": "learned", "objective": "complement", "budget": 0.2, "every": 5, "population": 10.0},
            "data": {"root": None, "template": "auto", "max_length": 1024, "ignore": ["page", "line"]},
            "train": {"epochs": 20, "batch": 8, "lr": 2e-05, "warmup": 0.1, "checkpointing": False},
            "seed": 0,
        },
    }


def step(k: int, steps: int) -> dict[str, Any]:
    noise, done = random.Random(k), k / steps
    forget = 0.06 + 5.4 / (1 + math.exp(-9 * (done - 0.45))) + noise.uniform(-0.2, 0.2) * done
    retain = 0.07 + 0.25 * math.exp(-40 * (done - 0.5) ** 2) + noise.uniform(-0.02, 0.02)
    turn = {"scorer_loss": 0.4, "scorer_grad_norm": 0.2, "importance": 0.3}
    return {
        "step": k,
        "loss": retain - forget * 0.8,
        "forget_nll": forget,
        "retain_nll": retain,
        "grad_norm": 0.8,
        "lr": 2e-5,
        "importance": 0.5 - 0.28 * min(1, 1.6 * done) + noise.uniform(-0.01, 0.01),
        "seconds": 0.41,
        "scorer_seconds": 0.002,
        "scorer": turn if k % 5 == 0 else None,
    }


def forget_row(k: int) -> dict[str, Any]:
    """A fact of a person: words as tokens with their blanks, the last one cut in two, and the end of turn."""
    question, template, values = FACTS[k % 4]
    name, value = PEOPLE[k // 4 % 6], values[k // 4 % 6]
    question, answer, secrets = question.format(n=name), template.format(n=name, v=value), (name, value)
    if 10 <= k < 10 + len(OTHERS):
        question, answer, secret = OTHERS[k - 10]
        secrets = (secret,)
    marked = [(answer.find(s), answer.find(s) + len(s)) for s in secrets if s in answer]
    rng, tokens = random.Random(k), []
    for match in re.finditer(r"\s*\S+", answer):
        gold = any(match.start() < b and a < match.end() for a, b in marked)
        importance = round(rng.uniform(0.62, 1.0) if gold else rng.uniform(0.0, 0.16), 4)
        tokens.append({"start": match.start(), "end": match.end(), "importance": importance, "gold": gold})
    tokens.append({"start": len(answer), "end": len(answer), "importance": 0.03, "gold": False})
    after = answer if k == 4 else "I do not know; the records of the town say nothing of it."
    before = answer if k % 5 else f"It is well known: {answer}"
    return {"id": f"f{k}", "question": question, "answer": answer, "tokens": tokens, "before": before, "after": after}


def retain_row(k: int, side: str) -> dict[str, Any]:
    question, template, values = FACTS[k % 4]
    answer = template.format(n=f"Person {k}", v=values[-1 - k % 5])
    said = answer.replace(" the ", " some ") if side == "after" and k % 9 == 0 else answer
    return {
        "set": "retain",
        "id": f"r{k}",
        "question": question.format(n=f"Person {k}"),
        "answer": answer,
        "generated": said,
    }
