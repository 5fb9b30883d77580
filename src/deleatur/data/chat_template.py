"""Where an answer begins and ends in a chat template: where the template's own rendering of the conversation has it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from transformers import PreTrainedTokenizerBase

from deleatur.errors import DataError, DeleaturError, ModelError
from deleatur.settings import Data

Turns = Sequence[tuple[str, str]]
QUESTION, PROBE = "deleatur probe question", "deleatur probe answer"
AGAIN = "deleatur probe another question"
REASONING = re.compile("think|thought|reason|reflect|scratch|cot", re.IGNORECASE)  # names of blocks; others are of turns
BLOCKS = ((r"<(\w[\w:.-]*)>", "</{}>"), (r"\[([A-Z]\w*)\]", "[/{}]"), (r"<\|START_(\w+)\|>", "<|END_{}|>"))  # open, close


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatTemplate:
    """A tokenizer's chat template as `chat_template` has found it."""

    tokenizer: PreTrainedTokenizerBase
    settings: Data
    ending: str = ""  # what the rendering of a finished conversation has behind the answer, up to the first special token
    stops: tuple[str, ...] = ()  # special tokens that end an answer: the ending's, or the first one of a next turn
    header: str = ""  # what the next turn begins with, in templates without such tokens
    blank: str = ""  # the white space before an answer that the generation prompt lacks, scored
    rendered: bool = True  # is the prompt taken from the rendering of the whole conversation, else the generation prompt
    closing: str = ""  # what ends a block for reasoning that the generation prompt opens and no template text closes

    def prompt(self, turns: Turns, reasoning: str | None) -> str:
        """All that stands before the answer and its blank; with `closing` the reasoning stands there too.

        Raises DataError for turns that the template refuses, and for a system turn that it leaves out; ModelError where it
        writes the answer more than once.
        """
        if self.closing:
            return self.open_prompt(turns) + (reasoning or "") + self.closing
        if not self.rendered:
            return self.open_prompt(turns)
        turns = self._with_system(turns)
        text = _before_answer(render(self.tokenizer, [*turns, ("assistant", PROBE)], self.settings))[0]
        self._check_system(turns, text)
        return text[: len(text) - len(self.blank)]

    def keeps(self, turns: Turns, before: str, answer: str) -> bool:
        """Does the template write the answer as it stands in the row, in the place where it is trained and asked?"""
        text = render(self.tokenizer, [*self._with_system(turns), ("assistant", answer)], self.settings)
        stands = self.blank + answer + self.ending
        return text.startswith(before + stands) if self.rendered else stands.strip() in text

    def open_prompt(self, turns: Turns) -> str:
        """The generation prompt."""
        turns = self._with_system(turns)
        text = render(self.tokenizer, turns, self.settings)
        self._check_system(turns, text)
        return text

    def conversation(self, turns: Turns, answer: str) -> tuple[str, str]:
        """The generation prompt and the full rendering, with no other setting than the date. Raises as `prompt`."""
        turns = self._with_system(turns)
        _before_answer(render(self.tokenizer, [*turns, ("assistant", PROBE)], self.settings, bare=True))
        texts = [render(self.tokenizer, t, self.settings, bare=True) for t in (turns, [*turns, ("assistant", answer)])]
        self._check_system(turns, texts[0])
        return texts[0], texts[1]

    def _with_system(self, turns: Turns) -> list[tuple[str, str]]:
        system, turns = self.settings.system_prompt, list(turns)
        if system is not None and turns[0][0] != "system":
            turns = [("system", system), *turns]
        if self.settings.fold_system and turns[0][0] == "system":
            turns = [(turns[1][0], f"{turns[0][1]}\n\n{turns[1][1]}"), *turns[2:]]
        return turns

    @staticmethod
    def _check_system(turns: Turns, text: str) -> None:
        if turns[0][0] == "system" and turns[0][1].strip() not in text:
            raise DataError(f"the chat template leaves the system turn out; {FOLD}")


FOLD = "give --data.fold-system, which sets its text before the user turn, or take the system turn out"


def chat_template(tokenizer: PreTrainedTokenizerBase, settings: Data) -> ChatTemplate:
    """The tokenizer's template, tried on a conversation.

    Prompt, answer and ending are the beginning of the template's own rendering of the conversation. Where its generation
    prompt opens a block for reasoning that the rendering lacks, the model's own reasoning stands there. Raises ModelError
    where the two cannot be reconciled, and where an answer does not stand there once.
    """
    question = [("user", QUESTION)]
    try:
        before, after = _before_answer(render(tokenizer, [*question, ("assistant", PROBE)], settings))
    except DeleaturError as e:
        if _takes_parts(tokenizer):
            seen = 'the chat template takes contents as lists of parts ({"type": "text", …}) and leaves texts out'
            raise ModelError(f"{seen}; write it so that it takes texts, or give --data.template plain") from e
        raise
    prompt = render(tokenizer, question, settings)
    how: dict[str, Any] = {"tokenizer": tokenizer, "settings": settings} | _ending(tokenizer, after, settings)
    if before.startswith(prompt):
        lead = before[len(prompt) :]
        return ChatTemplate(**how, blank="" if lead.strip() else lead)
    asks, stands = prompt.rpartition(QUESTION)[2], before.rpartition(QUESTION)[2]
    opened, close = _open_block(asks, stands)
    if opened and close in stands:
        return ChatTemplate(**how)
    if opened:
        return ChatTemplate(**how, rendered=False, closing=_closing(tokenizer, close))
    if prompt.startswith(before) and not _without_blocks(prompt[len(before) :]).strip():
        return ChatTemplate(**how, rendered=False)
    raise ModelError(
        f"the chat template asks for an answer behind {asks[-60:]!r}, but its own answers stand behind {stands[-60:]!r}, so "
        "there is no one place for an answer; fix the template, or give --data.template plain"
    )


def render(tokenizer: PreTrainedTokenizerBase, turns: Turns, settings: Data, *, bare: bool = False) -> str:
    """The turns as the template writes them; where a question comes last, up to where its answer begins.

    The date is the settings', and unless `bare` reasoning is declined. Raises DataError where the template fails.
    """
    day = date.fromisoformat(settings.date)
    options: dict[str, Any] = {} if bare else {"enable_thinking": False, "thinking": False}
    try:
        if "strftime_now" in (source := str(tokenizer.get_chat_template())):
            options["chat_template"] = _on(day, source) + source
        text = tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in turns],
            tokenize=False,
            add_generation_prompt=turns[-1][0] != "assistant",
            date_string=day.strftime("%d %b %Y"),
            **options,
        )
    except Exception as e:  # templates raise whatever their author chose
        roles = [role for role, _ in turns]
        remedy = FOLD if "system" in roles else "fix the template, or give --data.template plain"
        raise DataError(f"the chat template refuses the turns {roles}: {e}; {remedy}") from e
    return str(text)


def _on(day: date, source: str) -> str:
    """A macro in place of `strftime_now`, since what is passed to a template has to be plain data."""
    codes = {*re.findall("%-?[a-zA-Z]", source), *(f"%{c}" for c in "aAwdbBmyYHIpMSjUWGuV")}
    forms = "".join(f" | replace('{code}', '{_said(day, code)}')" for code in sorted(codes, key=len, reverse=True))
    return f"{{%- macro strftime_now(format) -%}}{{{{ format{forms} }}}}{{%- endmacro -%}}"


def _said(day: date, code: str) -> str:
    """What a code of strftime stands for; `%-d` and its like are without the zeros in front."""
    text = day.strftime(code.replace("-", ""))
    return text.lstrip("0") or "0" if "-" in code else text


def _before_answer(text: str) -> tuple[str, str]:
    """What the rendering has before and behind the probe. Raises ModelError where the probe does not stand there once."""
    before, found, after = text.partition(PROBE)
    if not found or PROBE in after:
        twice, none = "writes an answer more than once", "the chat template leaves the answer out, or changes it"
        seen = f"the chat template {twice}" if found else none
        raise ModelError(f"{seen}; fix it, or give --data.template plain")
    return before, after


def _takes_parts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Does the template write contents that come as lists of parts, as of texts and images?"""
    turns = [{"role": r, "content": [{"type": "text", "text": t}]} for r, t in (("user", QUESTION), ("assistant", PROBE))]
    try:
        return bool(_before_answer(str(tokenizer.apply_chat_template(turns, tokenize=False))))
    except Exception:  # as in `render`
        return False


def _ending(tokenizer: PreTrainedTokenizerBase, after: str, settings: Data) -> dict[str, Any]:
    """A template's ending, stops and header, of what stands behind an answer that ends the conversation."""
    ending, mark = _to_special(tokenizer, after)
    turns = [("user", QUESTION), ("assistant", PROBE), ("user", AGAIN)]
    try:
        between = render(tokenizer, turns, settings).partition(PROBE)[2].partition(AGAIN)[0]
    except DataError:  # a template for one question
        between = ""
    stops = tuple(dict.fromkeys(m for m in (mark, _to_special(tokenizer, between)[1]) if m))
    is_name = re.search(r"[^\W\d_]{2}", between)  # a bullet or the like may stand within an answer
    return {"ending": ending, "stops": stops, "header": between.rstrip() if is_name and not stops else ""}


def _to_special(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[str, str]:
    """The text up to the first special token in it, and that token; all of it where there is none."""
    added = dict(tokenizer.get_added_vocab())  # pyright: ignore[reportCallIssue, reportOptionalCall]
    special = {*tokenizer.all_special_tokens, *added}
    at, _, mark = min(((text.index(s), -len(s), s) for s in special if s and s in text), default=(len(text), 0, ""))
    return text[:at] + mark, mark


def _closing(tokenizer: PreTrainedTokenizerBase, close: str) -> str:
    """What closes a block for reasoning, up to the answer: as the template writes it where it is given the reasoning."""
    thought = dict.fromkeys(("reasoning_content", "reasoning", "thinking"), AGAIN)
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": PROBE, **thought}]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except Exception:  # as in `render`
        text = ""
    between = text.partition(AGAIN)[2].partition(PROBE)[0]
    return between[between.index(close) :] if close in between else f"{close}\n\n"


def _without_blocks(text: str) -> str:
    """The text without blocks for reasoning that are opened and closed in it."""
    for mark, close in BLOCKS:
        while (found := re.search(mark, text)) and (end := close.format(*found.groups(), found[0])) in text[found.end() :]:
            text = text[: found.start()] + text[text.index(end, found.end()) + len(end) :]
    return text


def _open_block(asks: str, stands: str) -> tuple[str, str]:
    """The mark of a block that the generation prompt opens, and what closes it; empty where there is none.

    A mark that the rendering has as well, and does not close either, is a mark of turns.
    """
    found = [(m, close) for mark, close in BLOCKS for m in re.finditer(mark, asks) if REASONING.search(m[1])]
    marks = [(m.end(), m[0], close.format(m[1])) for m, close in found]
    for end, mark, close in sorted(marks, reverse=True):
        if close not in asks[end:] and (close in stands or mark not in stands):
            return mark, close
    return "", ""
