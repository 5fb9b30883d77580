"""The page of an audit, made of audit.json alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deleatur.errors import DataError
from deleatur.report.audit_page import verdict_line, write_audit_page

SECRET = "Fusdi Solne"


def report(**changed: Any) -> dict[str, Any]:
    figure = {"value": 0.5, "low": 0.4, "high": 0.7}
    arm = figure | {"n": 24, "subjects": 2, "best": "plain", "settings": {"plain": 0.5, "role": None}}
    asked = {"question": f"Where was {SECRET} born?", "answer": "Sasstead", "given": "In Sasstead."}
    leak = asked | {"row": 0, "setting": "plain"}
    ask = {
        "verdict": "LEAK",
        "why": "more than the control by 50.0 %, at least 40.0 %",
        "needed": None,
        "asks": "Greedy answers.",
        "source": "2606.06320",
        "kind": "rate",
        "difference": figure,
        "p": 0.001,
        "p_holm": 0.002,
        "rho": figure,
        "finds_refuser": True,
        "arms": dict.fromkeys(("original", "audited", "control", "refuser"), arm),
        "beside": {},
        "dropped": {"prune50": "it damages the control"},
        "missing": 0.0,
        "leaked": [leak],
        "leaked_answers": 1,
    }
    names = ("original", "audited", "control", "refuser")
    return {
        "schema_version": 2,
        "verdict": "LEAK",
        "why": "what was to be forgotten comes back: ask",
        "needed": None,
        "flags": ["DAMAGED"],
        "attacks": {"ask": ask},
        "exit": 1,
        "models": dict.fromkeys(names, "/home/me/secret-model"),
        "arms": dict.fromkeys(names, "an arm"),
        "rows": {name: {"n": 24, "subjects": 2} for name in names},
        "not_evaluated": ["Q4_K_M"],
        "settings": {"rows": 200},
        "judge": "contained word for word",
        "decoys": True,
        "refuser_leak": 0.0,
        "seconds": 60.0,
    } | changed


def page(tmp_path: Path, *, redacted: bool = False, **changed: Any) -> str:
    (tmp_path / "audit.json").write_text(json.dumps(report(**changed)))
    return write_audit_page(tmp_path, redacted=redacted).read_text()


def test_the_page_shows_verdict_arms_and_what_leaked(tmp_path: Path) -> None:
    html = page(tmp_path)
    for text in (
        "LEAK, DAMAGED",
        "In Sasstead.",
        SECRET,
        "0.400 – 0.700",
        "Not covered",
        "Q4_K_M",
        "prune50 does not count",
    ):
        assert text in html
    assert html.count('class="never"') == 8  # two ends for each of four arms


def test_the_page_never_certifies_and_needs_nothing_else(tmp_path: Path) -> None:
    html = page(tmp_path)
    assert "certif" not in html.lower()
    assert "<script" not in html
    assert "http" not in html.split("</style>")[1]


def test_redacted_it_says_nothing_of_rows_and_models(tmp_path: Path) -> None:
    html = page(tmp_path, redacted=True)
    assert (tmp_path / "audit-redacted.html").exists()
    for text in (SECRET, "Sasstead", "secret-model", "/home/me"):
        assert text not in html
    assert "0.400 – 0.700" in html


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("/home/me/runs/forget-anna/model", "forget-anna"),
        ("runs/bench/npo/seed-1/model", "npo, seed 1"),
        ("model", "model"),
        ("/home/me/served.gguf", "served.gguf"),
        ("org/some-model", "org/some-model"),
    ],
)
def test_the_model_of_a_run_has_the_runs_name(tmp_path: Path, model: str, name: str) -> None:
    models = report()["models"] | {"audited": model}
    assert f"<h1>Audit: <bdi>{name}</bdi></h1>" in page(tmp_path, models=models)


def test_every_number_says_what_it_is_also_where_columns_are_stacked(tmp_path: Path) -> None:
    html = page(tmp_path)
    assert 'data-label="rows">24' in html
    assert [f'data-label="{arm}">0.500' in html for arm in "OUNH"] == [True] * 4


def test_a_small_chance_is_not_rounded_to_none(tmp_path: Path) -> None:
    attacks = report()["attacks"]
    attacks["ask"] |= {"p": 0.0005, "p_holm": 0.002}
    assert "p &lt; 0.001, with Holm's correction 0.002" in page(tmp_path, attacks=attacks)


def test_texts_of_rows_stay_text(tmp_path: Path) -> None:
    attacks = report()["attacks"]
    attacks["ask"]["leaked"][0]["given"] = "<script>alert(1)</script>"
    assert "<script>" not in page(tmp_path, attacks=attacks)


def test_the_verdict_names_the_rows_that_would_decide() -> None:
    line = verdict_line(report(verdict="INCONCLUSIVE", why="undecided: ask", needed=59, flags=[]))
    assert line == "INCONCLUSIVE: undecided: ask; about 59 rows would decide."


def test_an_audit_of_version_1_makes_the_same_page(tmp_path: Path) -> None:
    now = page(tmp_path)
    first = {{"not_evaluated": "not_asked"}.get(key, key): value for key, value in report(schema_version=1).items()}
    (tmp_path / "audit.json").write_text(json.dumps(first))
    assert write_audit_page(tmp_path).read_text() == now


def test_an_audit_of_another_version_or_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="schema_version 3"):
        page(tmp_path, schema_version=3)
    with pytest.raises(DataError, match="attacks"):
        page(tmp_path, attacks=[])
    (tmp_path / "audit.json").unlink()
    with pytest.raises(DataError, match="missing"):
        write_audit_page(tmp_path)
