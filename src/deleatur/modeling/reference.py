"""The start model's outputs, made in one pass before training; never a second model in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from deleatur.data.batches import collate, in_batches
from deleatur.data.spacing import evenly_spaced
from deleatur.distributed.processes import gather, place_model
from deleatur.errors import ModelError
from deleatur.modeling.loading import load
from deleatur.modeling.token_model import TokenModel
from deleatur.requirements import Requirements
from deleatur.settings import Precision
from deleatur.types import Encoded, HeadStates, Likelihood, Reference, Start, Teacher, TokenOutputs

IN_MEMORY = 4 * 2**30  # bytes; more goes to disk
Kept = dict[Encoded, Tensor]


def make_reference(
    model: TokenModel,
    rows: Iterable[Encoded],
    requires: Requirements,
    *,
    batch: int,
    folder: Path | None = None,
) -> Reference:
    """The start model's numbers for the rows: NLL, states from which the logits follow, states of a middle layer.

    Logits are not kept but made again from the last state by a copy of the head: D numbers a token instead of V, and the
    same values. Above IN_MEMORY bytes the states lie in a file under `folder` that goes with the process.
    """
    unique = list(dict.fromkeys(rows))
    widths = {
        "nll": 1 if requires.start_nll else 0,
        "state": model.width if requires.start_logits or requires.divergence else 0,
        "layer": model.width if requires.start_layer else 0,
    }
    if not any(widths.values()):
        return Reference()
    kept: dict[str, Kept] = {name: {} for name, width in widths.items() if width}
    count = sum(len(row.ids) - row.start for row in unique)
    types = {"nll": torch.float32, "state": model.dtype, "layer": model.dtype}
    room = {name: _room(count, widths[name], types[name], folder) for name in kept}
    _fill(model, unique, kept, room, layer=requires.layer if requires.start_layer else None, batch=batch)
    head = model.frozen_head() if "state" in kept else None

    def nll(tokens: TokenOutputs) -> Float[Tensor, " N"]:
        """The start model's NLL of the tokens."""
        return _look_up(kept["nll"], tokens.rows, tokens.nll.device).squeeze(-1)

    def layer(tokens: TokenOutputs) -> Float[Tensor, "N D"]:
        """The start model's states of the tokens after the layer."""
        return _look_up(kept["layer"], tokens.rows, tokens.nll.device)

    made = {"nll": nll} if "nll" in kept else {}
    made |= {"layer": layer} if "layer" in kept else {}
    teacher = None
    if head is not None:

        def logits(tokens: TokenOutputs) -> Float[Tensor, "N V"]:
            """The start model's logits of the tokens, from its kept last states."""
            with torch.no_grad():
                return head(_look_up(kept["state"], tokens.rows, tokens.nll.device).to(model.dtype))

        made["logits"] = logits
    if head is not None and requires.divergence:
        teacher = Teacher(states=lambda rows: _look_up(kept["state"], rows), head=head)
    return Reference(**made, teacher=teacher)


def start_of(model: TokenModel, rows: Mapping[str, list[Encoded]], *, batch: int, precision: Precision) -> Start:
    """What an importance may read before training; another model that it names is loaded for that one pass."""

    def likelihood(rows: Sequence[Encoded], name: str | None) -> list[Likelihood]:
        """NLL and entropy of rows under the start model, or under the model of that name."""
        if name is None:
            return likelihoods(model, rows, batch)
        lm, _ = load(name, precision=precision)
        other = TokenModel(lm).prepare()
        place_model(other)
        if other.vocabulary != model.vocabulary:
            seen = f"{name} has a vocabulary of {other.vocabulary} tokens, the run's model of {model.vocabulary}"
            raise ModelError(f"{seen}; give the model that it was fine-tuned from")
        return likelihoods(other, rows, batch)

    def similarity(nearest: int, most: int) -> list[Tensor]:
        """Gradient similarity of forget tokens to their nearest retain tokens, at the head."""
        retain = evenly_spaced(rows["retain"], most)
        return head_similarity(model, rows["forget"], retain, nearest=nearest, batch=batch)

    return Start(
        forget=rows["forget"],
        retain=rows["retain"],
        holdout=rows.get("holdout", ()),
        likelihood=likelihood,
        similarity=similarity,
        head_states=lambda rows: head_states(model, rows, batch),
    )


@torch.no_grad()
def likelihoods(model: TokenModel, rows: Sequence[Encoded], batch: int) -> list[Likelihood]:
    """NLL and entropy of each row's scored tokens under the model as it is now."""
    out: list[Likelihood | None] = [None] * len(rows)
    head = model.open_head()
    model.eval()
    for places, part in in_batches(rows, batch):
        tokens = model(part.to(model.device), state="predicting")
        spread = _entropy(tokens.hidden, head)
        for b, place in enumerate(places):
            of_row = tokens.sequence == b
            out[place] = Likelihood(nll=tokens.nll[of_row].cpu(), entropy=spread[of_row].cpu())
    return [one for one in out if one is not None]


@torch.no_grad()
def head_similarity(
    model: TokenModel, forget: Sequence[Encoded], retain: Sequence[Encoded], *, nearest: int, batch: int, chunk: int = 512
) -> list[Float[Tensor, " n"]]:
    """Similarity of the gradients at the head that forget a token and that retain others: for each scored token of each
    forget row the mean cosine between its gradient and those of the `nearest` most similar retain tokens, in [−1, 1].

    The gradient of a token's NLL by the head's matrix is (p − onehot)·hᵀ, h the last state before it. So the cosine of two
    is cos(h, h′) · cos(p − onehot, p′ − onehot′): two inner products, no backward pass. A capped head is taken as plain.
    """
    model.eval()
    states, kept = (last_states(model, rows, batch) for rows in (forget, retain))
    flat = torch.cat([h for h, _ in states]), torch.cat([ids for _, ids in states])
    held = torch.cat([h for h, _ in kept]), torch.cat([ids for _, ids in kept])
    head, best = model.open_head(), []
    for h, ids in zip(flat[0].split(chunk), flat[1].split(chunk), strict=True):
        forget_factors = _gradient_factors(head, h, ids)
        top = h.new_full((len(h), 0), 0.0, dtype=torch.float32)
        for other, others in zip(held[0].split(chunk), held[1].split(chunk), strict=True):
            retain_factors = _gradient_factors(head, other, others)
            cosine = (forget_factors[0] @ retain_factors[0].T) * (forget_factors[1] @ retain_factors[1].T)
            top = torch.cat([top, cosine], 1)
            top = top.topk(min(nearest, top.shape[1]), 1).values
        best.append(top.mean(1))
    return list(torch.cat(best).cpu().split([len(ids) for _, ids in states]))


@torch.no_grad()
def head_states(model: TokenModel, rows: Sequence[Encoded], batch: int) -> list[HeadStates]:
    """Of each row what its tokens' predictions are made from, and their NLL."""
    model.eval()
    out: list[HeadStates | None] = [None] * len(rows)
    matrix = model.head_matrix()
    mean = matrix.float().mean(0)
    for places, part in in_batches(rows, batch):
        tokens = model(part.to(model.device), state="both")
        before, at_token = tokens.hidden.chunk(2, dim=1)
        for b, place in enumerate(places):
            of_row = tokens.sequence == b
            parts = before[of_row], at_token[of_row], matrix[tokens.ids[of_row]].float() - mean, tokens.nll[of_row]
            out[place] = HeadStates(*(x.float().cpu() for x in parts))
    return [one for one in out if one is not None]


def last_states(model: TokenModel, rows: Sequence[Encoded], batch: int) -> list[tuple[Tensor, Tensor]]:
    """Of each row the last states before its scored tokens, and these tokens."""
    out: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(rows)
    for places, part in in_batches(rows, batch):
        tokens = model(part.to(model.device), state="predicting")
        for b, place in enumerate(places):
            of_row = tokens.sequence == b
            out[place] = tokens.hidden[of_row], tokens.ids[of_row]
    return out


def _gradient_factors(head: Callable[[Tensor], Tensor], hidden: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """h and p − onehot, each of length 1."""
    away = head(hidden).float().softmax(-1)
    away[torch.arange(len(ids)), ids] -= 1
    return torch.nn.functional.normalize(hidden.float(), dim=-1), torch.nn.functional.normalize(away, dim=-1)


def _entropy(hidden: Float[Tensor, "N D"], head: Callable[[Tensor], Tensor], chunk: int = 1024) -> Float[Tensor, " N"]:
    """Entropy in nats of each position's distribution, chunk by chunk. Equals

    p = head(hidden).float().softmax(-1)
    -(p * p.log()).sum(-1)
    """
    sums = (torch.special.entr(head(h).float().softmax(-1)).sum(-1) for h in hidden.split(chunk))
    return torch.cat([hidden.new_empty(0, dtype=torch.float32), *sums])


def _room(count: int, width: int, dtype: torch.dtype, folder: Path | None) -> Tensor:
    size = count * width
    if folder is None or size * dtype.itemsize <= IN_MEMORY:
        return torch.empty(count, width, dtype=dtype)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".reference-") as file:  # unlinked at once, mapped until the end
        file.truncate(size * dtype.itemsize)
        return torch.from_file(file.name, shared=True, size=size, dtype=dtype).view(count, width)


@torch.no_grad()
def _fill(
    model: TokenModel,
    rows: Sequence[Encoded],
    kept: dict[str, Kept],
    room: dict[str, Tensor],
    *,
    layer: int | None,
    batch: int,
) -> None:
    model.eval()
    ends = 0
    parts = list(in_batches(rows, batch))
    parts += [([], collate([]))] * (max(gather(len(parts))) - len(parts))  # the others may have more, and all run together
    for places, part in parts:
        tokens = model(part.to(model.device), state="predicting", layer=layer)
        made = {"nll": tokens.nll.unsqueeze(-1), "state": tokens.hidden, "layer": tokens.layer}
        for b, place in enumerate(places):
            of_row = tokens.sequence == b
            begins, ends = ends, ends + int(of_row.sum())
            for name, slots in room.items():
                slots[begins:ends] = made[name][of_row]
                kept[name][rows[place]] = slots[begins:ends]


def _look_up(kept: Kept, rows: Sequence[Encoded], device: torch.device | None = None) -> Tensor:
    some = next(iter(kept.values()))
    return torch.cat([some[:0], *(kept[row] for row in rows)]).to(device)
