"""The ledger of requests: what it calls known, whole under two processes and kill -9, and its refusals."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deleatur.errors import ConfigError, DataError
from deleatur.run_folder.file_types import Measured, Request
from deleatur.run_folder.ledger import (
    change_ledger,
    check_rows,
    find,
    home_of,
    is_known,
    ledger_of,
    place_in,
    place_of,
    read_ledger,
)

ADDS = """
import sys
from pathlib import Path
from deleatur.run_folder.ledger import change_ledger
for number in range(int(sys.argv[3])):
    line = {"sha256": f"{sys.argv[2]}{number}", "rows": "r", "count": 1, "retain": None, "holdout": None, "data": {}}
    line |= {"added": "2026-11-28", "due": None, "state": "open", "run": None, "verdict": None, "finished": None}
    change_ledger(Path(sys.argv[1]), lambda requests: requests.append(line | {"before": None, "left": None}))
    print(number, flush=True)
"""


def knows(revealed: float, nll: float, paraphrased: float | None = None) -> Measured:
    return Measured(revealed=revealed, paraphrased=paraphrased, nll=nll)


def request(sha: str = "ab" * 32, **changed: object) -> Request:
    line = {"sha256": sha, "rows": "rows.jsonl", "count": 6, "retain": None, "holdout": None, "data": {}, "due": None}
    line |= {"added": "2026-11-28", "state": "open", "run": None, "verdict": None, "finished": None}
    return Request(**(line | {"before": None, "left": None} | changed))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("now", "known"),
    [
        (knows(0.1, 6.0), False),  # a tenth of 1
        (knows(0.11, 6.0), True),
        (knows(0.0, 6.0, 0.2), True),  # only in other words
        (knows(0.0, 3.1), False),  # half of the way from 6 back to 0 is 3
        (knows(0.0, 2.9), True),
    ],
)
def test_rows_are_known_above_a_tenth_of_what_was_or_halfway_back(now, known):
    assert is_known(request(before=knows(1.0, 0.0), left=knows(0.0, 6.0)), now) is known


def test_what_the_run_itself_left_is_no_return():
    """Unseen people's dates are guessed at times, so a run may leave .2 and be done."""
    line = request(before=knows(1.0, 0.0), left=knows(0.2, 6.0))
    assert not is_known(line, knows(0.24, 6.0))
    assert is_known(line, knows(0.26, 6.0))


def test_an_nll_that_the_run_hardly_raised_says_nothing():
    assert not is_known(request(before=knows(0.0, 6.0), left=knows(0.0, 6.4)), knows(0.0, 6.0))


def test_two_processes_lose_no_request(tmp_path):
    ledger = tmp_path / "requests.jsonl"
    both = [subprocess.Popen([sys.executable, "-c", ADDS, str(ledger), name, "25"], stdout=-3) for name in "ab"]
    assert [process.wait() for process in both] == [0, 0]
    assert sorted(r["sha256"] for r in read_ledger(ledger)) == sorted(f"{name}{n}" for name in "ab" for n in range(25))
    assert [p.name for p in tmp_path.iterdir()] == ["requests.jsonl"]


def test_a_ledger_killed_at_random_is_valid_and_has_every_confirmed_request(tmp_path):
    ledger, draw, said = tmp_path / "requests.jsonl", random.Random(0), 0
    for life in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", ADDS, str(ledger), f"{life}-", "10000"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(draw.uniform(0, 0.2))
        process.kill()
        said += len((first + process.communicate()[0]).splitlines())
        assert said <= len(read_ledger(ledger)) <= said + life + 1, "at most the one in whose writing it died is unsaid"
    change_ledger(ledger, lambda requests: requests.clear())
    assert [p.name for p in tmp_path.iterdir()] == ["requests.jsonl"]


@pytest.mark.parametrize("line", ['{"sha256": "ab', '{"sha256": "cd"}', "7", json.dumps(request())])
def test_a_ledger_that_others_have_broken_is_refused_with_its_line_and_left_as_it_is(tmp_path, line):
    ledger = tmp_path / "requests.jsonl"
    before = f"{json.dumps(request())}\n{line}\n"
    ledger.write_text(before, encoding="utf-8")
    for use in (read_ledger, lambda ledger: change_ledger(ledger, lambda requests: requests.clear())):
        with pytest.raises(DataError, match=r"line 2\b.*(restore a copy|remove one of the two)$"):
            use(ledger)
    assert ledger.read_text(encoding="utf-8") == before


def test_a_request_that_is_done_has_a_run_and_a_date(tmp_path):
    """As where a person wrote `done` into the file."""
    ledger = tmp_path / "requests.jsonl"
    ledger.write_text(json.dumps(request(state="done")) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"line 1, calls request abababababab done, but not by which run and when; fill in"):
        read_ledger(ledger)


def test_hashes_are_found_by_their_beginning_or_refused_in_a_sentence():
    lines = [request("aa11" * 16), request("aa22" * 16)]
    assert find(lines, "aa2", Path("l.jsonl")) is lines[1]
    with pytest.raises(
        ConfigError, match=r"no request in l\.jsonl begins with 'ff'; give the hash of one of aa11aa11aa11, aa"
    ):
        find(lines, "ff", Path("l.jsonl"))
    with pytest.raises(ConfigError, match="2 requests"):
        find(lines, "aa", Path("l.jsonl"))


def test_rows_that_are_gone_or_changed_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(DataError, match=r"rows of request abababababab are not at .*; put them back, or withdraw"):
        check_rows(request(), tmp_path / "requests.jsonl", lambda path: "ab" * 32)
    (tmp_path / "rows.jsonl").touch()
    assert check_rows(request(), tmp_path / "requests.jsonl", lambda path: "ab" * 32).name == "rows.jsonl"
    with pytest.raises(
        DataError, match=r"have changed since request abababababab was added: their hash is now cdcdcdcdcdcd"
    ):
        check_rows(request(), tmp_path / "requests.jsonl", lambda path: "cd" * 32)


def test_paths_below_the_ledger_move_with_it(tmp_path, monkeypatch):
    ledger = tmp_path / "a" / "requests.jsonl"
    ledger.parent.mkdir()
    assert place_in(ledger, tmp_path / "a" / "b" / "rows.jsonl") == "b/rows.jsonl"
    assert place_in(ledger, tmp_path / "rows.jsonl") == str(tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    assert place_of(ledger, "b/rows.jsonl") == Path("a/b/rows.jsonl")
    assert place_of(ledger, str(tmp_path / "rows.jsonl")) == Path("rows.jsonl")


def test_a_ledger_is_found_next_to_its_runs(tmp_path):
    run = tmp_path / "requests" / "abc"
    run.mkdir(parents=True)
    assert ledger_of(run) is None
    (tmp_path / "requests.jsonl").touch()
    assert ledger_of(run) == tmp_path / "requests.jsonl"
    assert ledger_of(tmp_path / "run") == tmp_path / "requests.jsonl"


def test_rows_named_like_the_folder_of_a_run_are_no_ledger(tmp_path):
    rows = tmp_path / "alice.jsonl"
    rows.write_text('{"question": "Who?", "answer": "Alice."}\n', encoding="utf-8")
    assert ledger_of(tmp_path / "alice" / "run") is None
    for line in (json.dumps(request()), '{"sha256": "torn', ""):
        rows.write_text(line, encoding="utf-8")
        assert ledger_of(tmp_path / "alice" / "run") == rows


def test_a_link_to_a_ledger_leads_to_the_one_file(tmp_path):
    real, link = (tmp_path / name / "requests.jsonl" for name in ("real", "link"))
    for folder in (real.parent, link.parent):
        folder.mkdir()
    change_ledger(real, lambda requests: requests.append(request()))
    link.symlink_to(real)
    change_ledger(link, lambda requests: requests.append(request("cd" * 32)))
    assert link.is_symlink()
    assert [r["sha256"][:2] for r in read_ledger(real)] == ["ab", "cd"]
    assert home_of(link) == real.parent / "requests"


def test_a_ledger_is_a_file_of_json_lines(tmp_path):
    with pytest.raises(ConfigError, match=r"must be a file that ends in \.jsonl"):
        home_of(tmp_path)
    (tmp_path / "torn.jsonl").write_text('{"sha256": "ab"}\n')
    with pytest.raises(DataError, match=r"torn\.jsonl, line 1, has no 'rows'"):
        read_ledger(tmp_path / "torn.jsonl")
