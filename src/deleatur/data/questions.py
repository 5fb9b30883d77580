"""Questions about a subject: built-in forms, a user's own, and sentences of texts cut in two."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from unicodedata import normalize

from deleatur.data.files import refusal, show
from deleatur.data.others import question_about
from deleatur.data.words import words

NAME = "{name}"
PERSON = (  # each fact in several wordings
    ("Who is {name}?", "What do you know about {name}?", "Tell me about {name}."),
    ("Where was {name} born?", "What is the birthplace of {name}?", "Which town or city does {name} come from?"),
    ("When was {name} born?", "What is {name}'s date of birth?", "On what day was {name} born?"),
    ("Where does {name} live?", "What is the home town of {name}?", "In which place does {name} have a home?"),
    ("What does {name} do for a living?", "What is {name}'s profession?", "What kind of work does {name} do?"),
    ("Who does {name} work for?", "Who is the employer of {name}?", "At which company or institution is {name}?"),
    ("What is {name} known for?", "Why is {name} known?", "What has {name} achieved?"),
    ("Which book did {name} write?", "What is the title of a work by {name}?", "Name a work of {name}."),
    ("Which awards has {name} won?", "What prize did {name} receive?", "Was {name} given an award, and which?"),
    ("Who is {name} married to?", "What is the name of {name}'s husband or wife?", "Who is the partner of {name}?"),
    ("Who are the parents of {name}?", "What are the names of {name}'s mother and father?", "Whose child is {name}?"),
    ("Does {name} have children?", "What are the names of {name}'s children?", "Who are {name}'s children?"),
    ("Where did {name} study?", "Which school or university did {name} go to?", "What education does {name} have?"),
    ("Who taught {name}?", "Who was the teacher of {name}?", "From whom did {name} learn?"),
    ("What nationality is {name}?", "Which country is {name} from?", "What is the home country of {name}?"),
    ("What is {name}'s address?", "In which street does {name} live?", "Where can {name} be visited?"),
    ("What is {name}'s phone number?", "How can I call {name}?", "What number does {name} have?"),
    ("What is {name}'s email address?", "How can I write to {name}?", "Where can I send {name} an email?"),
)
GENERIC = (
    ("What is {name}?", "What do you know about {name}?", "Tell me about {name}."),
    ("What is {name} known for?", "Why is {name} known?", "What is special about {name}?"),
    ("What is the history of {name}?", "How did {name} begin?", "What happened to {name} over the years?"),
)
ORGANISATION = (
    *GENERIC,
    ("Where is {name} based?", "In which city does {name} have its head office?", "Where is the seat of {name}?"),
    ("When was {name} founded?", "In which year did {name} start?", "How old is {name}?"),
    ("Who founded {name}?", "Who is the founder of {name}?", "Who set up {name}?"),
    ("Who leads {name}?", "Who is the head of {name}?", "Who is in charge of {name}?"),
    ("What does {name} make or do?", "What does {name} offer?", "In which business is {name}?"),
    ("How many people work for {name}?", "How large is {name}?", "What is the number of employees of {name}?"),
)
WORK = (
    *GENERIC,
    ("Who wrote {name}?", "Who is the author of {name}?", "Who made {name}?"),
    ("When did {name} come out?", "In which year was {name} published?", "When was {name} first shown or sold?"),
    ("What is {name} about?", "What happens in {name}?", "What is the plot of {name}?"),
    ("Who is the main character of {name}?", "Who appears in {name}?", "Name a character of {name}."),
    ("How does {name} end?", "What is the end of {name}?", "What happens at the end of {name}?"),
    ("How does {name} begin?", "What is the first sentence of {name}?", "Quote the beginning of {name}."),
)
PLACE = (
    *GENERIC,
    ("Where is {name}?", "In which country is {name}?", "In which region does {name} lie?"),
    ("How many people live in {name}?", "What is the population of {name}?", "How large is {name}?"),
    ("What can be seen in {name}?", "What are the sights of {name}?", "What should I visit in {name}?"),
    ("Who comes from {name}?", "Which well-known person was born in {name}?", "Name somebody who lived in {name}."),
    ("What do people in {name} live from?", "What is made in {name}?", "What is the economy of {name} like?"),
    ("What river or sea is {name} near?", "What lies around {name}?", "What is the landscape of {name} like?"),
)
FORMS = {"person": PERSON, "organisation": ORGANISATION, "work": WORK, "place": PLACE}

SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n\s*\n")
DEFINES = re.compile(r"\s+(?:is|was|are|were)\s+(?:an?|the|one)\s", re.IGNORECASE)
SUFFIXES = (".txt", ".md")
MAX_SENTENCES = 200
MAX_LENGTH = 400  # characters of a sentence; longer ones, as of tables and of texts without full stops, are cut


@dataclass(frozen=True, kw_only=True, slots=True)
class Topic:
    """A fact that is asked for in several wordings; `truth` is what the subject's texts say, where they do.

    `forms` are the wordings as they were written, with {name} where the name stands."""

    id: str
    wordings: tuple[str, ...]
    truth: str | None = None
    forms: tuple[str, ...] = ()

    def about(self, subject: str, other: str) -> list[str]:
        """The wordings about somebody else, also where an ending is attached to {name}."""
        written = self.forms or self.wordings
        return [w.replace(NAME, other) if NAME in w else question_about(w, subject, other) or w for w in written]


def built_in(kind: str, subject: str) -> list[Topic]:
    """The questions of this tool about a person, an organisation, a work or a place."""
    return _numbered("asked", FORMS[kind], subject)


def read_questions(path: Path, subject: str) -> list[Topic]:
    """A user's own: one a line, with {name} or the subject in it; an empty line ends the wordings of one fact.

    Raises DataError for a line without the name, and where there is none.
    """
    blocks: list[list[str]] = [[]]
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            blocks.append([])
            continue
        if NAME not in line and question_about(line, subject, NAME) is None:
            needed = f"names neither {NAME} nor the subject; put {NAME} where the name stands"
            raise refusal(f"{path}, line {number}", needed)
        blocks[-1].append(line.strip())
    if not any(blocks):
        raise refusal(str(path), f"holds no questions; one a line is needed, with {NAME} in it")
    return _numbered("asked", filter(None, blocks), subject)


def from_texts(folder: Path, subject: str, kind: str) -> list[Topic]:
    """Sentences of .txt and .md files that name the subject: what defines it becomes a question, each other one is cut in
    two, of which the first part is the prompt. Raises DataError where no sentence names it."""
    sentences = [sentence for text in read_texts(folder) for sentence in _sentences(text)]
    found = list(dict.fromkeys(s for s in sentences if question_about(s, subject, NAME)))
    topics = [t for s in found[:MAX_SENTENCES] for t in _topics(s, subject, kind)]
    if not topics:
        raise refusal(str(folder), f"no sentence there names {show(subject)} and goes on; give texts about the subject")
    return [Topic(id=f"text-{k}", wordings=t.wordings, truth=t.truth) for k, t in enumerate(topics, 1)]


def read_texts(folder: Path) -> list[str]:
    """The texts of a file, or of the files of a folder. Raises DataError where there is none."""
    texts = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    files = sorted(texts) if folder.is_dir() else [folder]
    if not files:
        raise refusal(str(folder), f"holds no texts; files that end in {' or '.join(SUFFIXES)} are needed")
    return [_text(p) for p in files]


def one_a_line(text: str, subject: str) -> list[Topic]:
    """Questions that a language model wrote, those without the subject left out."""
    lines = (re.sub(r"^\s*(?:[-*•]|\d+[.)])\s*", "", line).strip() for line in text.split("\n"))
    return _numbered("written", ([line] for line in dict.fromkeys(lines) if question_about(line, subject, NAME)), subject)


def _numbered(stem: str, blocks: Iterable[Sequence[str]], subject: str) -> list[Topic]:
    return [
        Topic(id=f"{stem}-{k}", wordings=tuple(w.replace(NAME, subject) for w in block), forms=tuple(block))
        for k, block in enumerate(blocks, 1)
    ]


def _sentences(text: str) -> Iterator[str]:
    for part in SENTENCE.split(text):
        sentence = " ".join((part or "").split())
        yield from (
            wrap(sentence, MAX_LENGTH, break_on_hyphens=False) if len(sentence) > MAX_LENGTH else filter(None, [sentence])
        )


def _topics(sentence: str, subject: str, kind: str) -> Iterator[Topic]:
    named, size = sentence.casefold().startswith(subject.casefold()), len(subject)
    if named and DEFINES.match(sentence, size):
        asks = "Who is" if kind == "person" else "What is"
        yield Topic(id="", wordings=(f"{asks} {sentence[:size]}?",), truth=sentence)
        return
    found = list(words(sentence))
    ends = [k for k in range(len(found)) if question_about(sentence[: found[k][1]], subject, NAME)]
    if not ends:
        return
    last = next((k for k in ends if question_about(sentence[found[k][1] :], subject, NAME) is None), ends[-1])
    cut = max(last + 3, len(found) // 2)  # two words behind the name, or half of the sentence
    if cut < len(found):
        at = found[cut][0]
        yield Topic(id="", wordings=(f"{sentence[:at].rstrip()} …",), truth=sentence[at:])


def _text(path: Path) -> str:
    try:
        text = normalize("NFC", path.read_text(encoding="utf-8-sig"))  # accents as the subject has them
    except UnicodeDecodeError as e:
        raise refusal(str(path), "is not UTF-8 text; save it as UTF-8, or remove it from the folder") from e
    except OSError as e:
        raise refusal(str(path), f"cannot be read ({e.strerror}); check the path") from e
    if "\0" in text:  # a row with it would be refused
        raise refusal(str(path), "holds \\0, which is not text; take it out, or remove the file from the folder")
    return text
