"""The site of docs/ is built strictly, whole, and without anything from elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SOURCE = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py")))
SOURCE = re.sub(r"\"\s*\n\s*f?\"", "", SOURCE)  # a sentence over several lines as one
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data", "embed": "src"}


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """What `make docs` does, in another folder."""
    help_text = subprocess.run(
        [sys.executable, ROOT / "docs/cli_help.py"], capture_output=True, text=True, check=True
    ).stdout
    (folder / "build").mkdir()
    (folder / "build" / "cli.md").write_text(help_text, encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def project(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "src").symlink_to(ROOT / "src")
    for name in ("mkdocs.yml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = project(tmp_path_factory.mktemp("site") / "project")
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


class Links(HTMLParser):
    """What a page loads, and what it links to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.ids: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids |= {given["id"] or ""} if "id" in given else set()
        if tag in LOADED and (url := given.get(LOADED[tag])):
            self.loaded.append(url)
        if tag == "a" and (url := given.get("href")):
            self.linked.append(url)


def pages(site: Path) -> list[Path]:
    return [page for page in sorted(site.rglob("*.html")) if page.name != "404.html"]


def test_every_page_of_the_navigation_is_built_and_listed_in_llms_txt(site):
    """Both lists name the same pages, so that a new page cannot be left out of one."""
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = re.findall(r"[\w/-]+\.md", yaml.safe_dump(settings["nav"]))
    made = {str(page.relative_to(site)) for page in pages(site)}
    assert made == {name.replace(".md", ".html") for name in named}
    assert made == set(re.findall(r"\]\(([^)]+)\)", (site / "llms.txt").read_text(encoding="utf-8")))


def test_no_page_loads_anything_from_elsewhere(site):
    for page in sorted(site.rglob("*.html")):
        assert [url for url in Links(page).loaded if re.match(r"(https?:)?//", url)] == [], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"@import|url\(['\"]?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_every_link_within_the_site_has_its_goal(site):
    """Zensical checks links between pages; files outside of docs/ it lets through."""
    found = {page: Links(page) for page in pages(site)}
    broken = []
    for page, links in found.items():
        for url in links.linked + links.loaded:
            path, _, anchor = url.partition("#")
            if re.match(r"[a-z]+:|//", url):
                continue
            goal = (page.parent / path.partition("?")[0]).resolve() if path else page
            inside = goal.is_relative_to(site) and goal.exists()
            if not inside or (anchor and goal in found and anchor not in found[goal].ids):
                broken.append((page.name, url))
    assert broken == []


def test_the_reference_is_made_of_the_docstrings(site):
    """A sentence of an option's, of a function's and of a loss's docstring."""
    command = (site / "cli.html").read_text(encoding="utf-8")
    assert "Passes over the forget rows, at least 1" in command
    reference = (site / "reference.html").read_text(encoding="utf-8")
    for words in ("Unlearn rows from a loaded model, in place", "Passes over the forget rows, at least 1", "Raises"):
        assert words in reference


def test_a_broken_link_fails_the_build(tmp_path):
    folder = project(tmp_path / "project")
    with (folder / "docs" / "index.md").open("a", encoding="utf-8") as page:
        page.write("\n[nowhere](nowhere.md)\n")
    assert build(folder).returncode != 0


def sentences() -> list[str]:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"^`(.+)`\n:  ", page, re.M)


def test_the_sentences_of_troubleshooting_are_found():
    assert len(sentences()) > 25


@pytest.mark.parametrize("sentence", sentences())
def test_every_sentence_of_troubleshooting_is_one_that_the_tool_prints(sentence):
    """Each part between two "…" of it stands in the source, where a sentence may be split over lines of text."""
    parts = [part.strip() for part in sentence.split("…") if len(part.strip()) > 2]
    assert parts
    assert [part for part in parts if part not in SOURCE] == []


def test_prose_of_the_new_pages_is_no_wider_than_a_hundred_characters():
    """Code and tables aside; older pages are wider."""
    older = {"log", "method", "methods", "metrics", "judges", "performance", "results", "scale", "adding", "glossary"}
    new = [page for page in sorted((ROOT / "docs").rglob("*.md")) if page.stem not in older]
    for page in [ROOT / "README.md", *new]:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        wide = [line for line in text.splitlines() if len(line) > 100 and not line.startswith("|")]
        assert wide == [], page
