"""A user's rows become examples, or are refused with file, row and reason."""

from __future__ import annotations

import difflib
import json
import os
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import isnan

from deleatur.data.columns import hint, renamed, text_path
from deleatur.data.content import joined
from deleatur.data.files import Row, check_are_rows, collect, counted, read, read_either
from deleatur.data.messages import redact_value, refusal, show, show_all, show_columns
from deleatur.data.spans import spans_of
from deleatur.settings import Data
from deleatur.types import Example

Form = tuple[str, ...]
MARKED = ("id", "subject", "spans")
CONVERSATIONS = (("messages",), ("conversations",))
QUESTION_COLUMNS = (*MARKED, "paraphrases", "alternates", "restated", "wrong", "system")
FORMS: dict[Form, tuple[str, ...]] = {  # the columns that make a row, the answer last → the columns it may have as well
    ("question", "answer"): QUESTION_COLUMNS,
    ("query", "answer"): QUESTION_COLUMNS,
    ("prompt", "completion"): QUESTION_COLUMNS,
    ("prompt", "gt"): QUESTION_COLUMNS,
    ("instruction", "output"): ("input", *QUESTION_COLUMNS),
    ("messages",): QUESTION_COLUMNS,
    ("conversations",): QUESTION_COLUMNS,
    ("text",): MARKED,
}
KNOWN = frozenset(column for form, more in FORMS.items() for column in (*form, *more))
ROLES = {  # by the names that data sets give them, in any case
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot"), "assistant"),
}
TOOLS = ("tool", "tool_call", "tool_calls", "tool_response", "tool_result", "function", "function_call", "function_response")
TOOLS += ("observation", "ipython", "environment")
ACCEPTED = (
    f"{', '.join('/'.join(form) for form in FORMS)}; beside them {', '.join(QUESTION_COLUMNS)}, input beside instruction"
)


def read_rows(source: str, *, settings: Data) -> tuple[Example, ...]:
    """The examples of a file, of all files in a folder, or of a data set under `settings.root` or on the hub.

    A path that exists comes first, then the root (else $DELEATUR_DATA), then the hub as `owner/name`,
    `owner/name:split` or `owner/name/config:split`. Raises DataError for whatever is not as it has to be.
    """
    return _examples(read(source, root_of(settings)), settings)


def read_as(
    local: str, hub: str, settings: Data, to_rows: Callable[[Row], Iterable[Mapping[str, object]]]
) -> tuple[Example, ...]:
    """The examples of a benchmark's set, which stands under the root as `local`, else on the hub.

    `to_rows` makes of each row none, one or several in a form of FORMS. Raises DataError as `read_rows`, and where no
    row is left.
    """
    found = read_either(local, hub, root_of(settings))
    made = ((row, list(to_rows(row))) for row in found)
    rows = [
        replace(row, cells=cells, name=row.name if len(parts) == 1 else f"{row.name}.{k}")
        for row, parts in made
        for k, cells in enumerate(parts, 1)
    ]
    if not rows:
        raise refusal(local, f"none of its {len(found)} rows belongs to what is asked for; check the suite's name")
    return _examples(rows, Data())


def root_of(settings: Data) -> str | None:
    """The folder in which names are looked up, if any."""
    return settings.root or os.environ.get("DELEATUR_DATA")


def continued(example: Example) -> Example:
    """The example with its question as a text that the answer goes on after a blank, instead of a chat turn."""
    return replace(example, prompt=(("text", f"{example.question} "),))


def known_part(suite: str, part: str | None, parts: Collection[str]) -> str:
    """The part itself. Raises DataError for one that the suite does not have."""
    if part is None or part not in parts:
        seen = f"has no part {show(part)}" if part else "has several parts, of which one is needed"
        there = ", ".join(f"{suite}/{known}" for known in parts)
        raise refusal(suite, f"{seen}; {f'there are {there}' if parts else 'it has none'}")
    return part


def rows_from(
    rows: Iterable[Mapping[str, object]],
    *,
    name: str = "rows",
    ignore: Iterable[str] = (),
    settings: Data | None = None,
) -> tuple[Example, ...]:
    """The examples of rows in memory or of a `datasets.Dataset`; `name` stands for a file's in ids and messages.

    `ignore` names columns to drop, beside those of `settings`. Raises DataError for a row that is not as it has to be,
    and where there is none.
    """
    settings = settings or Data()
    check_are_rows(name, rows)
    return _examples(collect(name, name, counted(rows)), replace(settings, ignore=(*settings.ignore, *ignore)))


def refuse_overlap(rows: Sequence[Example], others: Sequence[Example], name: str = "retain", *, own: str = "forget") -> None:
    """Raise DataError where one of the rows is one of the others too: the same turns and answer but for case and whitespace.

    `name` is that of the set of the others, `own` that of the rows.
    """
    kept = {_folded(example) for example in others}
    both = [example for example in rows if _folded(example) in kept]
    if both:
        first = ", ".join(show(e.id) for e in both[:3])
        seen = f"{len(both)} of {len(rows)} {own} rows are {name} rows too: {first}{', …' if len(both) > 3 else ''}"
        raise refusal(f"{own} and {name}", f"{seen}; a row can be on one side only, so take it out of the other")


def _folded(example: Example) -> tuple[tuple[str, str], ...]:
    turns = (*example.prompt, ("assistant", example.answer))
    return tuple((role, " ".join(content.casefold().split())) for role, content in turns)


def _examples(rows: list[Row], settings: Data) -> tuple[Example, ...]:
    ignored = frozenset(settings.ignore)
    rows = renamed(rows, settings.columns, KNOWN, FORMS)
    rows = [replace(row, cells={k: v for k, v in row.cells.items() if k not in ignored}) for row in rows]
    first = _form(rows[0])
    examples: dict[str, Example] = {}
    places: dict[str, str] = {}
    for row in rows:
        form = _form(row)
        if form != first:
            seen = f"the columns are {'/'.join(form)}, but {'/'.join(first)} in {rows[0].place}"
            raise refusal(row.place, f"{seen}; one source has rows of one form, so split it")
        last = _example(row, form, ignored)
        for example in (*_earlier(last), last) if settings.turns == "each" else (last,):
            if example.id in examples:
                seen = f"the id {show(example.id)} is taken by {places[example.id]}"
                raise refusal(row.place, f"{seen}; give each row an id of its own, or none")
            examples[example.id], places[example.id] = example, row.place
    return tuple(examples.values())


def _earlier(example: Example) -> Iterable[Example]:
    """The answers that stand in a conversation before the last one, each with the turns before it."""
    for k, (role, content) in enumerate(example.prompt):
        if role == "assistant" and k and example.prompt[k - 1][0] == "user":
            yield Example(id=f"{example.id}/{k}", prompt=example.prompt[:k], answer=content, subject=example.subject)


def _form(row: Row) -> Form:
    """The columns that make the row. Raises DataError where none do, more than one set does, or some are unknown."""
    columns = row.cells.keys()
    fits = [form for form in FORMS if columns >= {*form}]
    if len(fits) > 1:
        both = " and ".join("/".join(form) for form in fits)
        either = ", or ".join(map(_takes, fits))
        raise refusal(row.place, f"the columns {show_columns(columns)} fit both {both}; one form is needed: {either}")
    known = {*fits[0], *FORMS[fits[0]]} if fits else {*KNOWN}
    unknown = sorted(columns - known)
    if fits and not unknown:
        return fits[0]
    absent = sorted(known - columns) if fits else sorted({c for form in FORMS for c in form} - columns)
    near = {column: difflib.get_close_matches(column[:40], absent, 1, 0.8) for column in unknown[:8]}
    meant = "".join(f", is {show_columns([column])} meant as {match[0]}?" for column, match in near.items() if match)
    if not fits:
        seen = f"the columns {show_columns(columns) or '(none)'} fit no form"
        raise refusal(row.place, f"{seen}{meant}; {hint(row.cells, row.place)}; accepted without that are {ACCEPTED}")
    seen = f"unknown column beside {'/'.join(fits[0])}: {show_columns(unknown)}"
    needed = f"accepted beside them are {', '.join(FORMS[fits[0]])}"
    named = all(re.fullmatch(r"[^\s'\"]+", column) for column in unknown[:8])  # others cannot be typed as they are shown
    drop = f"--data.ignore {show_columns(unknown, ' ')} drops what is not needed" if named else _takes(fits[0])
    raise refusal(row.place, f"{seen}{meant}; {needed}; {drop}")


def _takes(form: Form) -> str:
    return f"--data.columns {' '.join(f'{column}={column}' for column in form)} takes no others"


def _example(row: Row, form: Form, ignored: Collection[str]) -> Example:
    *prompt, (_, reply) = _turns(row, form, ignored)
    answer = reply.strip() if prompt else reply  # a plain text is meant as it stands
    wrong = tuple(_text(row, "a wrong answer", value).strip() for value in _list(row, "wrong"))
    if answer in wrong:
        raise refusal(row.place, f"the wrong answer {redact_value(answer)} is the answer itself; take it out of wrong")
    name, subject, restated = (row.cells.get(column) for column in ("id", "subject", "restated"))
    name = row.name if _blank(name) else name
    more = f"\n\n{str(row.cells['input']).strip()}" if not _blank(row.cells.get("input")) else ""
    return Example(
        id=str(name) if type(name) is int and name.bit_length() < 64 else _text(row, "id", name),
        prompt=tuple((role, content.strip()) for role, content in prompt),
        answer=answer,
        subject=None if _blank(subject) else _text(row, "subject", subject),
        paraphrases=tuple(_text(row, "a paraphrase", value).strip() + more for value in _list(row, "paraphrases")),
        alternates=tuple(_text(row, "an alternate", value).strip() for value in _list(row, "alternates")),
        restated=None if _blank(restated) else _text(row, "restated", restated).strip(),
        wrong=wrong,
        spans=spans_of(row.place, _list(row, "spans"), reply.index(answer), len(answer)),
    )


def _turns(row: Row, form: Form, ignored: Collection[str]) -> list[tuple[str, str]]:
    """The turns of a row, the answer last: a chat, one question and its answer, or a plain text alone."""
    system = row.cells.get("system")
    first = [] if _blank(system) else [("system", _text(row, "system", system))]
    if form in CONVERSATIONS or (form == ("prompt", "completion") and isinstance(row.cells["prompt"], list | tuple)):
        turns = _chat(row, form, ignored)
        if first and turns[0][0] == "system":
            raise refusal(row.place, "there is a system column and a system turn; one is needed, so leave the other out")
        return first + turns
    texts = [_text(row, column, row.cells[column]) for column in form]
    if not _blank(more := row.cells.get("input")):
        texts[0] += "\n\n" + _text(row, "input", more)
    return first + list(zip(("user", "assistant")[-len(texts) :], texts, strict=True))


def _chat(row: Row, form: Form, ignored: Collection[str]) -> list[tuple[str, str]]:
    """The turns, each of a role and a content, or as ShareGPT has them of a `from` and a `value`; the rest is `ignored`."""
    turns: list[tuple[str, str]] = []
    for turn in (turn for column in form for turn in _list(row, column)):
        fields = {k: v for k, v in turn.items() if v is not None and k not in ignored} if isinstance(turn, Mapping) else {}
        name, text = ("from", "value") if "from" in fields else ("role", "content")
        role = ROLES.get(str(fields.get(name)).casefold())
        place = f"turn {len(turns) + 1}"
        if fields.keys() - {text} != {name} or role is None:
            if (said := str(fields.get(name)).casefold()) in TOOLS:
                seen = f"{place} is of the role {said}; only system, user or assistant are accepted"
                raise refusal(row.place, f"{seen}, so take the turns of tools out of the row, or drop the row")
            needed = "only a role, which is system, user or assistant, and a content are accepted, or a from and a value"
            if role and (more := show_columns(map(str, fields.keys() - {name, text}), " ")):
                raise refusal(row.place, f"{place} holds {more} as well; {needed}, so --data.ignore {more} drops that")
            remedy = "take turns of others out of the row, or fix it"
            raise refusal(row.place, f"{place} is {redact_value(turn)}; {needed}, so {remedy}")
        turns.append((role, _text(row, f"the {text} of {place}", joined(f"{row.place}, {place}", fields.get(text)))))
    roles = [role for role, _ in turns]
    if roles[-2:] != ["user", "assistant"] or (len(form) > 1 and len(_list(row, form[-1])) > 1):
        needed = "a user turn and then the assistant's answer, alone in its completion, have to come last"
        behind = "take the turns behind the last answer out" if "assistant" in roles[:-1] else "add the answer"
        behind = "make one answer of those that follow each other" if roles[-2:] == ["assistant"] * 2 else behind
        raise refusal(row.place, f"the roles are {show_all(roles) or '(none)'}; {needed}, so {behind}, or drop the row")
    return turns


def _list(row: Row, column: str) -> Sequence[object]:
    value = row.cells.get(column)
    if isinstance(value, str):  # a CSV cell
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    if not isinstance(value, list | tuple | None):
        raise refusal(row.place, f"{column} is {redact_value(value)}, but must be a list (in CSV, a JSON list)")
    return value or ()


def _text(row: Row, column: str, value: object) -> str:
    if _blank(value):
        raise refusal(row.place, f"{column} is empty; text is needed, so fill it in or drop the row")
    if not isinstance(value, str):
        path = text_path(column, value) if column in row.cells else None
        taken = shlex.quote(f"{column}={row.paths.get(column, column)}{path[len(column) :]}") if path else ""
        remedy = f"--data.columns {taken} takes the first text in it" if path else "write it in quotes"
        raise refusal(row.place, f"{column} is {redact_value(value)}, but must be text; {remedy}")
    if bad := re.search("[\0\ud800-\udfff]", value):
        seen = f"{column} holds {bad[0]!a} at character {bad.start()}, which is not text"
        raise refusal(row.place, f"{seen}; fix or drop the row")
    return value


def _blank(value: object) -> bool:
    """Is there nothing? Pandas writes NaN for that."""
    return value is None or (isnan(value) if isinstance(value, float) else isinstance(value, str) and not value.strip())
