"""An example becomes ids, scored tokens, and their characters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from deleatur.data.chat_template import ChatTemplate, chat_template
from deleatur.errors import DataError, ModelError
from deleatur.settings import Data
from deleatur.types import Encoded, Example

AHEAD = 32  # characters a token, more than in any language; a text of megabytes takes a tokenizer minutes


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoder:
    """Turns examples into ids with one tokenizer; made by `make_encoder`."""

    tokenizer: PreTrainedTokenizerBase
    template: ChatTemplate | None  # None writes "Question: … Answer: …"
    ending: str  # what closes an answer, scored
    settings: Data

    @property
    def reasons(self) -> bool:
        """Does the template open a block for reasoning, so that the model's own has to stand before an answer?"""
        is_own_layout = self.settings.layout == "own"
        return is_own_layout and self.template is not None and bool(self.template.closing)

    def __call__(self, example: Example) -> Encoded:
        """Ids, scored tokens and their characters. Raises DataError where no room is left for any of the answer."""
        if self.settings.layout == "open-unlearning" and example.prompt and example.prompt[0][0] != "text":
            return self._as_open_unlearning(example)
        before, answer, ending = self._parts(example)
        text, first = before + answer + ending, len(before)
        is_rendered = self.template is not None and example.prompt and example.prompt[0][0] != "text"
        ids, spans = self._tokenized(text, add_special_tokens=not is_rendered)
        lead = answer.index(example.answer) if example.answer else 0
        start = next((i for i, (_, b) in enumerate(spans) if b > first), len(ids))
        start = max(start, 1)  # the very first token has nothing to predict it
        size = len(example.answer)  # a tokenizer may close a text of its own accord; that close is not the text's
        end = next((i for i in range(len(ids), 0, -1) if spans[i - 1][1] > spans[i - 1][0]), 0)
        limit = self.longest if example.reasoning else self.settings.max_length
        ids, spans = ids[: min(end, limit)], spans[: min(end, limit)]
        self._check_room(example, start, ids)
        shifted = ((a - first - lead, b - first - lead) for a, b in spans[start:])
        offsets = tuple((min(max(a, 0), size), min(max(b, 0), size)) for a, b in shifted)
        return Encoded(example=example, ids=tuple(ids), start=start, offsets=offsets, cut=end > limit)

    def check_kept(self, example: Example) -> None:
        """Raise DataError where the chat template alters the answer, so that the model is never trained to give it so."""
        is_own_layout = self.settings.layout == "own" and example.prompt and example.prompt[0][0] != "text"
        if self.template is None or not is_own_layout:
            return
        if not self.template.keeps(example.prompt, self.template.prompt(example.prompt, example.reasoning), example.answer):
            seen = "the chat template writes the answer otherwise than the row has it, so the model never gives it so"
            needed = "write it as the template does, fix the template, or give --data.template plain"
            raise DataError(f"row {example.id}: {seen}; {needed}")

    def _as_open_unlearning(self, example: Example) -> Encoded:
        """As that tool has it: the full rendering and an eos where it does not end in one, scored from where the ids of the
        generation prompt alone end."""
        add = self.template is None
        if self.template is not None:
            prompt, rendered = self.template.conversation(example.prompt, example.answer)
        else:
            prompt = _labelled(self._with_system(example.prompt))
            rendered = prompt + example.answer
        start = len(self.tokenizer(prompt, add_special_tokens=add)["input_ids"])
        ids, spans = self._tokenized(rendered, add_special_tokens=add)
        if ids[-1] != self.tokenizer.eos_token_id:
            ids, spans = [*ids, int(str(self.tokenizer.eos_token_id))], [*spans, (len(rendered), len(rendered))]
        cut, limit, size = len(ids), self.settings.max_length, len(example.answer)
        ids, spans = ids[:limit], spans[:limit]
        self._check_room(example, start, ids)
        first = rendered.rfind(example.answer)
        if first < 0:
            raise DataError(f"row {example.id}: the chat template changes the answer; fix it, or give --data.template plain")
        offsets = tuple((min(max(a - first, 0), size), min(max(b - first, 0), size)) for a, b in spans[start:])
        return Encoded(example=example, ids=tuple(ids), start=start, offsets=offsets, cut=cut > limit)

    def _check_room(self, example: Example, start: int, ids: list[int]) -> None:
        if start >= len(ids):
            raise DataError(
                f"row {example.id}: the prompt takes {start} tokens or more and leaves none of data.max_length "
                f"({self.settings.max_length}) for the answer; raise data.max_length or shorten the row"
            )

    def _tokenized(self, text: str, *, add_special_tokens: bool) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids with their characters: of a long text those of its beginning, more of them than may stay."""
        for part in (text[: AHEAD * self.longest], text):
            out = self.tokenizer(part, add_special_tokens=add_special_tokens, return_offsets_mapping=True)
            ids, spans = out["input_ids"], out["offset_mapping"]
            if len(part) == len(text) or len(ids) > 2 * self.longest:  # where the part ends is far from where ids do
                break
        return ids, spans

    def before_reasoning(self, example: Example) -> tuple[int, ...]:
        """The ids of a prompt whose block for reasoning is open."""
        assert self.template is not None
        return self.tokens(self.template.open_prompt(example.prompt))

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return self.settings.max_length + (self.settings.reasoning_tokens if self.reasons else 0)

    def tokens(self, text: str) -> tuple[int, ...]:
        """The ids of a text alone."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @property
    def stops(self) -> frozenset[int]:
        """The tokens at which an answer that the model gives ends: the eos, and those of the template."""
        marks = () if self.template is None else self.template.stops
        found = [self.tokenizer.eos_token_id, *(token for mark in marks for token in self.tokens(mark)[-1:])]
        return frozenset(int(str(token)) for token in found)

    def answer_of(self, ids: Sequence[int]) -> tuple[str, bool]:
        """A generated answer without special tokens, and did a next turn, which is left out, begin behind it?"""
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
        header = "" if self.template is None else self.template.header
        answer, found, _ = text.partition(header) if header else (text, "", "")
        return answer.strip(), bool(found)

    def is_cut(self, encoded: Encoded) -> bool:
        """Did the row lose its end to data.max_length?"""
        return encoded.cut

    def _parts(self, example: Example) -> tuple[str, str, str]:
        match example.prompt:
            case ():
                return "", example.answer, ""
            case (("text", content),):
                return content, example.answer, ""
        if self.template is not None:
            prompt = self.template.prompt(example.prompt, example.reasoning)
            return prompt, self.template.blank + example.answer, self.ending
        return _plain(self._with_system(example.prompt)), f" {example.answer}", self.ending

    def _with_system(self, turns: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        system = self.settings.system_prompt
        return turns if system is None or turns[0][0] == "system" else (("system", system), *turns)


def make_encoder(tokenizer: PreTrainedTokenizerBase, settings: Data) -> Encoder:
    """An encoder for chat or plain text. Raises ModelError where the tokenizer cannot serve."""
    check_tokenizer(tokenizer)
    if not tokenizer.is_fast:
        raise ModelError("the tokenizer gives no character offsets; use the model's fast tokenizer")
    if not tokenizer.eos_token:
        raise ModelError("the tokenizer has no eos token, so no answer can end; set tokenizer.eos_token")
    has_template = bool(tokenizer.chat_template)
    if settings.template == "chat" and not has_template:
        raise ModelError("data.template is chat, but the tokenizer has no chat template; use plain")
    chat = has_template and settings.template != "plain"
    template = chat_template(tokenizer, settings) if chat else None
    ending = str(tokenizer.eos_token) if template is None else template.ending
    return Encoder(tokenizer=tokenizer, template=template, ending=ending, settings=settings)


def check_tokenizer(tokenizer: object) -> None:
    """Raise ModelError for another kind of object."""
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        seen = f"the tokenizer is a {type(tokenizer).__name__}"
        raise ModelError(f"{seen}; give what AutoTokenizer.from_pretrained returns, of a processor its tokenizer")


def encode_all(encoder: Encoder, examples: Iterable[Example]) -> list[Encoded]:
    """Every example encoded."""
    return [encoder(e) for e in examples]


def encode_rows(encoder: Encoder, examples: Iterable[Example]) -> list[Encoded]:
    """A user's rows encoded. Raises DataError where the chat template alters an answer; what a model says may be altered."""
    rows = list(examples)
    for example in rows:
        encoder.check_kept(example)
    return encode_all(encoder, rows)


def _plain(turns: Iterable[tuple[str, str]]) -> str:
    """Questions and answers in turn, the last one open; a system prompt stands before its question."""
    text, questions = "", []
    for role, content in turns:
        if role == "assistant":
            text, questions = text + "Question: " + "\n".join(questions) + f"\nAnswer: {content}\n\n", []
        else:
            questions.append(content)
    return text + "Question: " + "\n".join(questions) + "\nAnswer:"


def _labelled(turns: Iterable[tuple[str, str]]) -> str:
    """OpenUnlearning's layout for models without a chat template."""
    marks = {"system": "{}\n", "user": "Question: {}\n", "assistant": "Answer: {}\n\n"}
    return "".join(marks[role].format(content) for role, content in turns) + "Answer: "
