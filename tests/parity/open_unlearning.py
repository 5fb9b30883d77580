"""OpenUnlearning's layout and metrics of TOFU, restated from its published definitions for models with a chat template.

Padded batches of ids with labels of −100, shifted by one, float64 from the logits on. Nothing of deleatur is used.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rouge_score.rouge_scorer import RougeScorer
from torch import Tensor
from torch.nn.functional import cross_entropy

IGNORED = -100


@dataclass(frozen=True)
class Item:
    """A question with one of its answers: the prompt's ids, the conversation's ids, and which of these are labels."""

    prompt: list[int]
    ids: list[int]
    labels: list[int]


def item(tokenizer: Any, question: str, answer: str, *, system: str | None, date: str) -> Item:
    turns = [{"role": "system", "content": system}] if system else []
    turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    how = {"tokenize": True, "return_dict": False, "date_string": date}
    ids = list(tokenizer.apply_chat_template(turns, add_generation_prompt=False, **how))
    prompt = list(tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True, **how))
    if ids[-1] != tokenizer.eos_token_id:
        ids.append(tokenizer.eos_token_id)
    return Item(prompt=prompt, ids=ids, labels=[IGNORED] * len(prompt) + ids[len(prompt) :])


@torch.no_grad()
def logits_of(model: Any, items: Sequence[Item]) -> Tensor:
    """Of a batch padded on the right, float64."""
    length = max(len(i.ids) for i in items)
    ids, mask = (torch.zeros(len(items), length, dtype=torch.long) for _ in range(2))
    for b, one in enumerate(items):
        ids[b, : len(one.ids)] = torch.tensor(one.ids)
        mask[b, : len(one.ids)] = 1
    return model(input_ids=ids, attention_mask=mask).logits.double()


def scores(model: Any, items: Sequence[Item]) -> list[dict[str, float]]:
    """What is read off one pass: the mean loss over all labels, and what leaves the last label out."""
    found = []
    for one, logits in zip(items, logits_of(model, items), strict=True):
        labels = torch.tensor([*one.labels, *[IGNORED] * (len(logits) - len(one.labels))])
        loss = cross_entropy(logits[:-1], labels[1:], ignore_index=IGNORED, reduction="sum") / (labels != IGNORED).sum()
        places = (labels != IGNORED).nonzero().flatten()[:-1]
        logp, targets = logits.log_softmax(-1)[places - 1], labels[places]
        own = logp.gather(1, targets[:, None]).flatten()
        hits = logp.argmax(-1) == targets
        mean = (logp.exp() * logp).sum(-1)
        spread = (logp.exp() * logp.square()).sum(-1) - mean.square()
        standard = (own - mean) / spread.clamp(min=1e-6).sqrt()
        count = len(places)
        start = next((k for k in range(count) if bool(hits[k:].all())), count - 1)
        found.append(
            {
                "loss": float(loss),
                "prob": math.exp(-float(loss)),
                "exact": float(hits.double().mean()),
                "strength": 1 - start / count,
                "min_k": -_lowest(own),
                "min_k_plus": -_lowest(standard),
            }
        )
    return found


def _lowest(values: Tensor, share: float = 0.4) -> float:
    return float(values.sort().values[: max(1, int(share * len(values)))].mean())


def grad_norm(model: Any, one: Item) -> float:
    """Mean over tensors of the norms of their gradients of the mean loss without the last label."""
    places = [k for k, label in enumerate(one.labels) if label != IGNORED][:-1]
    logp = model(input_ids=torch.tensor([one.ids])).logits[0].log_softmax(-1)
    loss = -torch.stack([logp[k - 1, one.ids[k]] for k in places]).mean()
    grads = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    return float(torch.stack([g.norm() for g in grads if g is not None]).mean())


@torch.no_grad()
def generated(model: Any, tokenizer: Any, one: Item, new_tokens: int) -> str:
    said: list[int] = []
    while len(said) < new_tokens and tokenizer.eos_token_id not in said:
        said.append(int(model(input_ids=torch.tensor([[*one.prompt, *said]])).logits[0, -1].argmax()))
    return tokenizer.decode(said, skip_special_tokens=True).strip()


def rouge(answer: str, said: str) -> dict[str, float]:
    found = RougeScorer(["rouge1", "rougeL"], use_stemmer=True).score(answer, said)
    return {
        "rouge1_recall": found["rouge1"].recall,
        "rougeL_recall": found["rougeL"].recall,
        "rougeL_f1": found["rougeL"].fmeasure,
    }


def row(
    model: Any, tokenizer: Any, cells: Mapping[str, Any], *, system: str | None, date: str, new_tokens: int
) -> dict[str, float]:
    """Every number of one row with `question`, `answer`, and perhaps `restated` and `wrong`."""
    how = {"system": system, "date": date}
    answers = [cells["answer"], *([cells["restated"]] if cells.get("restated") else []), *cells.get("wrong", ())]
    items = [item(tokenizer, cells["question"], answer, **how) for answer in answers]
    own, *others = scores(model, items)
    said = generated(model, tokenizer, items[0], new_tokens)
    out = {
        "probability": own["prob"],
        "loss": own["loss"],
        "exact_memorisation": own["exact"],
        "extraction_strength": own["strength"],
        "min_k": own["min_k"],
        "min_k_plus": own["min_k_plus"],
        "rouge_1": rouge(cells["answer"], said)["rouge1_recall"],
        "rouge_l": rouge(cells["answer"], said)["rougeL_recall"],
        "rouge_l_f1": rouge(cells["answer"], said)["rougeL_f1"],
        "zlib": own["loss"] / len(zlib.compress(tokenizer.decode([k for k in items[0].labels if k != IGNORED]).encode())),
        "grad_norm": grad_norm(model, items[0]),
    }
    if cells.get("wrong"):
        restated, wrong = (others[0], others[1:]) if cells.get("restated") else (own, others)
        ratio = math.exp(-sum(w["loss"] for w in wrong) / len(wrong)) / (math.exp(-restated["loss"]) + 1e-10)
        out |= {
            "truth_ratio": min(ratio, 1 / (ratio + 1e-10)),
            "truth_ratio_kept": max(0.0, 1 - ratio),
            "normalised_probability": own["prob"] / (own["prob"] + sum(w["prob"] for w in wrong) + 1e-10),
            "PARA_Prob": restated["prob"],
            "PERT_Prob": sum(w["prob"] for w in wrong) / len(wrong),
        }
    return out
