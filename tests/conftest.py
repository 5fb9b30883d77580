"""Shapes in annotations are checked while testing; tiny models, tokenizers and a small world, made in the process."""

# ruff: noqa: E402 - what is imported depends on the environment and on the hook

from __future__ import annotations

import os
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")
os.environ |= dict.fromkeys(OFFLINE, "1") | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "ACCELERATE_USE_CPU": "true"}

import beartype
import jaxtyping
import pytest
import torch
from beartype import BeartypeConf
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

beartype.checked = beartype.beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int will do for a float
HOOKED = ("deleatur", "beartype.checked")
with jaxtyping.install_import_hook(*HOOKED):
    import deleatur.settings
    import deleatur.types
import deleatur.data.rows  # unchecked: the row reader is there to be given wrong types, and refuses them in its own words

jaxtyping.install_import_hook(*HOOKED)
typing.TYPE_CHECKING = True  # losses and importances name their types for a checker only, so that --help is quick
import deleatur.importance
import deleatur.losses
import deleatur.report.interop  # noqa: F401

typing.TYPE_CHECKING = False

from deleatur.data.encode import Encoder, encode_all, make_encoder
from deleatur.data.world import World, make_world
from deleatur.settings import Data
from deleatur.types import Encoded, Example, TokenOutputs

torch.set_num_threads(1)
settings.register_profile("tests", deadline=None, derandomize=True, database=None)  # the same cases everywhere, at any speed
for name, most in (("more", 1000), ("long", 20_000)):  # by hand, for minutes and for hours: other cases each time
    settings.register_profile(name, deadline=None, max_examples=most, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tests"))

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(autouse=True)
def shapes_checked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Shapes are checked in the unit tests, but for whole audits: the checker takes a quarter of the time."""
    jaxtyping.config.update("jaxtyping_disable", "unit" not in request.path.parts or "auditing" in request.path.parts)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def world() -> World:
    """Six people of whom two are to be forgotten, and one of whom nobody was told."""
    return make_world(people=6, forget=2, holdout=1)


@pytest.fixture(scope="session")
def make_tokenizer(world: World) -> Callable[..., PreTrainedTokenizerFast]:
    """A byte-level BPE of the world's words that sets <s> before a text, as Llama's does, with a chat template or none."""
    texts = [text for e in world.fine_tuning_rows for text in (e.question, e.answer)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=401, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    saved = bpe.to_str()

    def make(chat_template: str | None = None) -> PreTrainedTokenizerFast:
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(saved), bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
        )
        tokenizer.chat_template = chat_template
        return tokenizer

    return make


@pytest.fixture(scope="session")
def plain(make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> Encoder:
    """Writes "Question: … Answer: …"."""
    return make_encoder(make_tokenizer(), Data())


@pytest.fixture(scope="session")
def chat(make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> Encoder:
    """Writes ChatML, which sets a newline behind the end of a turn."""
    return make_encoder(make_tokenizer(CHATML), Data())


@pytest.fixture(scope="session")
def forget_rows(world: World, plain: Encoder) -> list[Encoded]:
    return encode_all(plain, world.forget)


@pytest.fixture(scope="session")
def retain_rows(world: World, plain: Encoder) -> list[Encoded]:
    return encode_all(plain, world.retain)


@pytest.fixture(scope="session")
def make_llama() -> Callable[..., LlamaForCausalLM]:
    """A tiny Llama that was never trained, its weights large enough for tokens to differ; equal for equal arguments."""

    def make(*, seed: int = 0, **changed: object) -> LlamaForCausalLM:
        torch.manual_seed(seed)
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        values = shape | {"num_key_value_heads": 2, "vocab_size": 401, "initializer_range": 0.2} | changed
        return LlamaForCausalLM(LlamaConfig(**values, bos_token_id=0, eos_token_id=1)).eval()

    return make


@pytest.fixture
def llama(make_llama: Callable[..., LlamaForCausalLM]) -> LlamaForCausalLM:
    return make_llama()


VOCABULARY = 37


def bare_row(scored: int, *, name: str = "row", prompt: int = 2, seed: int = 0) -> Encoded:
    """A row of no text: as many scored tokens behind a prompt, ids drawn from the vocabulary."""
    ids = torch.randint(0, VOCABULARY, (prompt + scored,), generator=torch.Generator().manual_seed(seed)).tolist()
    example = Example(id=name, prompt=(("user", "?"),), answer="x" * scored)
    return Encoded(example=example, ids=tuple(ids), start=prompt, offsets=tuple((i, i + 1) for i in range(scored)))


@pytest.fixture(scope="session")
def make_row() -> Callable[..., Encoded]:
    """`bare_row`."""
    return bare_row


@pytest.fixture(scope="session")
def make_tokens() -> Callable[..., TokenOutputs]:
    """Outputs of no model: as many sequences as there are lengths, the NLL (0 to 6 nats) a leaf that takes gradients.

    With `logits` they are that leaf, over VOCABULARY words, and the NLL follows from them.
    """

    def make(
        lengths: Sequence[int] = (3, 1, 5),
        *,
        width: int = 4,
        seed: int = 0,
        nll: Tensor | None = None,
        logits: bool = False,
        layer: int | None = None,
    ) -> TokenOutputs:
        generator = torch.Generator().manual_seed(seed)
        made = torch.rand(sum(lengths), generator=generator) * 6 if nll is None else nll
        tokens = TokenOutputs(
            nll=made.detach().requires_grad_(),
            hidden=torch.randn(sum(lengths), width, generator=generator),
            sequence=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
            rows=tuple(bare_row(n, name=f"{seed}-{i}", seed=100 * seed + i) for i, n in enumerate(lengths)),
        )
        if layer is not None:
            tokens = replace(tokens, layer=torch.randn(sum(lengths), layer, generator=generator).requires_grad_())
        if logits:
            raw = (3 * torch.randn(sum(lengths), VOCABULARY, generator=generator)).requires_grad_()
            tokens = replace(tokens, logits=raw, nll=cross_entropy(raw, tokens.ids, reduction="none"))
        return tokens

    return make
