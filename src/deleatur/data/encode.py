"""The only place that knows chat templates: an example becomes ids, scored tokens, and their characters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from os.path import commonprefix

from transformers import PreTrainedTokenizerBase

from deleatur.errors import DataError, ModelError
from deleatur.settings import Data
from deleatur.types import Encoded, Example

PROBE = "deleatur probe answer"
AHEAD = 32  # characters a token, more than in any language; a text of megabytes takes a tokenizer minutes


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoder:
    """Turns examples into ids with one tokenizer; made by `make_encoder`."""

    tokenizer: PreTrainedTokenizerBase
    chat: bool
    ending: str  # what closes an answer, scored
    max_length: int
    header: str = ""  # what the template sets before an answer and leaves out of its generation prompt, not scored
    blank: str = ""  # the white space between that and the answer, scored

    def __call__(self, example: Example) -> Encoded:
        """Ids, scored tokens and their characters. Raises DataError where no room is left for any of the answer."""
        before, answer, ending = self._parts(example)
        text, first = before + answer + ending, len(before)
        ids, spans = self._tokenized(text, add_special_tokens=not (self.chat and ending))
        lead = answer.index(example.answer) if example.answer else 0
        start = next((i for i, (_, b) in enumerate(spans) if b > first), len(ids))
        start = max(start, 1)  # the very first token has nothing to predict it
        size = len(example.answer)  # a tokenizer may close a text of its own accord; that close is not the text's
        end = next((i for i in range(len(ids), 0, -1) if spans[i - 1][1] > spans[i - 1][0]), 0)
        ids, spans = ids[: min(end, self.max_length)], spans[: min(end, self.max_length)]
        if start >= len(ids):
            raise DataError(
                f"row {example.id}: the prompt takes {start} tokens or more and leaves none of data.max_length "
                f"({self.max_length}) for the answer; raise data.max_length or shorten the row"
            )
        shifted = ((a - first - lead, b - first - lead) for a, b in spans[start:])
        offsets = tuple((min(max(a, 0), size), min(max(b, 0), size)) for a, b in shifted)
        return Encoded(example=example, ids=tuple(ids), start=start, offsets=offsets, cut=end > self.max_length)

    def _tokenized(self, text: str, *, add_special_tokens: bool) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids with their characters: of a long text those of its beginning, more of them than may stay."""
        for part in (text[: AHEAD * self.max_length], text):
            out = self.tokenizer(part, add_special_tokens=add_special_tokens, return_offsets_mapping=True)
            ids, spans = out["input_ids"], out["offset_mapping"]
            if len(part) == len(text) or len(ids) > 2 * self.max_length:  # where the part ends is far from where ids do
                break
        return ids, spans

    def tokens(self, text: str) -> tuple[int, ...]:
        """The ids of a text alone."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def is_cut(self, encoded: Encoded) -> bool:
        """Did the row lose its end to data.max_length?"""
        return encoded.cut

    def _parts(self, example: Example) -> tuple[str, str, str]:
        match example.prompt:
            case ():
                return "", example.answer, ""
            case (("text", content),):
                return content, example.answer, ""
        if self.chat:
            turns = [{"role": role, "content": content} for role, content in example.prompt]
            return _render(self.tokenizer, turns) + self.header, self.blank + example.answer, self.ending
        return _plain(example.prompt), f" {example.answer}", self.ending


def make_encoder(tokenizer: PreTrainedTokenizerBase, settings: Data) -> Encoder:
    """An encoder for chat or plain text. Raises ModelError where the tokenizer cannot serve."""
    if not tokenizer.is_fast:
        raise ModelError("the tokenizer gives no character offsets; use the model's fast tokenizer")
    if not tokenizer.eos_token:
        raise ModelError("the tokenizer has no eos token, so no answer can end; set tokenizer.eos_token")
    has_template = bool(tokenizer.chat_template)
    if settings.template == "chat" and not has_template:
        raise ModelError("data.template is chat, but the tokenizer has no chat template; use plain")
    chat = has_template and settings.template != "plain"
    header, blank, ending = _around(tokenizer) if chat else ("", "", str(tokenizer.eos_token))
    return Encoder(tokenizer=tokenizer, chat=chat, ending=ending, max_length=settings.max_length, header=header, blank=blank)


def encode_all(encoder: Encoder, examples: Iterable[Example]) -> list[Encoded]:
    """Every example encoded."""
    return [encoder(e) for e in examples]


def _plain(turns: Iterable[tuple[str, str]]) -> str:
    """Questions and answers in turn, the last one open; a system prompt stands before its question."""
    text, questions = "", []
    for role, content in turns:
        if role == "assistant":
            text, questions = text + "Question: " + "\n".join(questions) + f"\nAnswer: {content}\n\n", []
        else:
            questions.append(content)
    return text + "Question: " + "\n".join(questions) + "\nAnswer:"


def _render(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> str:
    """The turns as the template writes them; where a question comes last, up to where its answer begins."""
    needs_answer = turns[-1]["role"] != "assistant"
    try:
        text = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=needs_answer, enable_thinking=False
        )
    except Exception as e:  # templates raise whatever their author chose
        raise DataError(f"the chat template refuses the turns {[t['role'] for t in turns]}: {e}") from e
    return str(text)


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str, str]:
    """What the template sets before an answer (header, white space), and the token behind it without ChatML's newline."""
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": PROBE}]
    before, found, after = _render(tokenizer, turns).rpartition(PROBE)
    if not found:
        raise ModelError("the chat template leaves the answer out; mend it, or give --data.template plain")
    questions = _render(tokenizer, turns[:1])
    _refuse_open_block(questions, before)
    lead = before[len(questions) :] if before.startswith(questions) else ""
    header = lead.rstrip()
    added = dict(tokenizer.get_added_vocab())  # pyright: ignore[reportCallIssue, reportOptionalCall]
    special = {*tokenizer.all_special_tokens, *added}
    found = [(after.index(s), -len(s), s) for s in special if s and s in after]
    return header, lead[len(header) :], min(found)[2] if found else str(tokenizer.eos_token)


def _refuse_open_block(questions: str, before: str) -> None:
    """Raise ModelError where the generation prompt opens a block, such as <think>, that no answer stands in."""
    if before.startswith(questions):
        return
    extra = questions[len(commonprefix([questions, before])) :]
    start = len(questions) - len(extra)
    extra = questions[questions.rfind("<", 0, start) if "<" in questions[:start] else start :]
    opened = next((t for t in re.findall(r"<(\w+)>", extra) if f"</{t}>" not in extra), None)
    if opened:
        raise ModelError(
            f"the chat template's generation prompt opens <{opened}> and its own answers stand outside of it, so no answer "
            f"can begin there; close the block in the template's generation prompt, or give --data.template plain"
        )
