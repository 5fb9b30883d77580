"""Retired words of the glossary do not come back into the source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").split("## Retired words")[1]
RETIRED = [word for line in re.findall(r"^\| ([^|]+) \|", TABLE, re.M)[1:] for word in line.strip().split(", ")]
SOURCE = {
    path.relative_to(ROOT): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "src").rglob("*"))
    if path.suffix in (".py", ".jinja")
}


def test_the_table_is_read():
    assert {"Warden", "told", "write_whole", "lessons"} <= set(RETIRED)


@pytest.mark.parametrize("word", RETIRED)
def test_a_retired_word_does_not_occur(word):
    found = [str(path) for path, text in SOURCE.items() if re.search(rf"(?<!\w){word}(?!\w)", text)]
    assert not found
