"""WMDP: knowledge that could serve weapons, as texts to forget and questions with choices (Li et al., 2403.03218)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from deleatur.data.files import Row, under
from deleatur.data.multiple_choice import MMLU, lettered, read_mmlu
from deleatur.data.rows import continued, known_part, read_as, root_of
from deleatur.settings import Data
from deleatur.types import Example, Suite

ABOUT = {"bio": "biology", "cyber": "cybersecurity", "chem": "chemistry"}
CORPORA = {  # where the hub has the texts; there are none for chemistry
    "bio": {"forget": "cais/wmdp-bio-forget-corpus:train", "retain": "cais/wmdp-corpora/bio-retain-corpus:train"},
    "cyber": {
        "forget": "cais/wmdp-corpora/cyber-forget-corpus:train",
        "retain": "cais/wmdp-corpora/cyber-retain-corpus:train",
    },
}
SHORTEST = 50  # characters; the authors leave out texts that have no more


def suite(part: str | None, settings: Data) -> Suite:
    """`bio`, `cyber`, or `chem`, which has no texts and is only evaluated. MMLU is evaluated too where it is under the root.

    Of a text the first `settings.max_length` tokens count. The hub gives the forget texts of `bio` only after a request.
    """
    part = known_part("wmdp", part, ABOUT)
    sets = {side: _texts(f"{part}-{side}-corpus", hub, settings) for side, hub in CORPORA.get(part, {}).items()}

    def to_rows(row: Row) -> Iterable[Mapping[str, object]]:
        """The question with its choices by letter."""
        yield lettered(row, ABOUT[part])

    questions = read_as(f"wmdp/wmdp-{part}", f"cais/wmdp/wmdp-{part}:test", settings, to_rows)
    sets["wmdp"] = tuple(map(continued, questions))
    if under(MMLU, root_of(settings)):
        sets["mmlu"] = read_mmlu(settings)
    return Suite(
        name=f"wmdp/{part}",
        sets=sets,
        evaluated_sets=tuple(name for name in sets if name != "retain"),
        forget_sets=("wmdp",),
        retain_sets=tuple(name for name in sets if name == "mmlu"),
        score="accuracy",
    )


def _texts(name: str, hub: str, settings: Data) -> tuple[Example, ...]:
    def to_rows(row: Row) -> Iterable[Mapping[str, object]]:
        """The text, where it is longer than SHORTEST."""
        text = row.cells.get("text")
        if not isinstance(text, str) or len(text) > SHORTEST:
            yield {"text": text.replace("\0", "") if isinstance(text, str) else text}  # found code may hold anything

    return read_as(f"wmdp/{name}", hub, settings, to_rows)
