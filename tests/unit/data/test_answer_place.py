"""The answer stands where the chat template's own rendering has it."""

from __future__ import annotations

import pytest

from deleatur.data.encode import _around
from deleatur.errors import ModelError

CHANNEL = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}<|final|>{% endif %}{{ m.content }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class Template:
    """A tokenizer's part that renders; a chat template in Jinja."""

    all_special_tokens = ("<|end|>",)
    eos_token = "<|end|>"

    def __init__(self, source: str) -> None:
        self.source = source

    def get_added_vocab(self) -> dict[str, int]:
        return {}

    def apply_chat_template(self, turns, *, add_generation_prompt, **_):
        from jinja2 import Template as Jinja

        return Jinja(self.source).render(messages=turns, add_generation_prompt=add_generation_prompt)


def test_a_channel_that_the_generation_prompt_lacks_is_set_before_the_answer():
    header, blank, ending = _around(Template(CHANNEL))
    assert (header, blank, ending) == ("<|final|>", "", "<|end|>")


@pytest.mark.parametrize("tag", ["think", "reasoning"])
def test_a_block_that_the_generation_prompt_leaves_open_is_refused_with_the_remedy(tag):
    source = CHANNEL.replace("<|final|>", "").replace("<|assistant|>", f"<|assistant|><{tag}>\n")
    with pytest.raises(ModelError, match=f"opens <{tag}>.*data.template plain"):
        _around(Template(source))
