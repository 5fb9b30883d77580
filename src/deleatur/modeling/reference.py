"""The start model's outputs for losses and importances, from one pass before training; never a second model in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from deleatur.data.spacing import evenly_spaced
from deleatur.distributed.processes import place_model
from deleatur.errors import ModelError
from deleatur.modeling.loading import load
from deleatur.modeling.start_pass import StartPass
from deleatur.modeling.token_model import TokenModel
from deleatur.requirements import Requirements
from deleatur.settings import Precision
from deleatur.types import Encoded, HeadStates, Likelihood, Reference, Start, Teacher, TokenOutputs

IN_MEMORY = 4 * 2**30  # bytes; more goes to disk
Kept = dict[Encoded, Tensor]


def make_reference(
    start: StartPass, rows: Iterable[Encoded], requires: Requirements, *, folder: Path | None = None
) -> Reference:
    """The start model's numbers for the rows: NLL, states from which the logits follow, states of a middle layer.

    Logits are not kept but made again from the last state by a copy of the head: D numbers a token instead of V, and the
    same values. Above IN_MEMORY bytes the states lie in a file under `folder` that goes with the process.
    """
    model, unique = start.model, list(dict.fromkeys(rows))
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
    _fill(start, unique, kept, room, requires.layer if requires.start_layer else None)
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


def start_of(start: StartPass, rows: Mapping[str, list[Encoded]], *, precision: Precision) -> Start:
    """What an importance may read before training; another model that it names is loaded for that one pass."""

    def likelihood(rows: Sequence[Encoded], name: str | None) -> list[Likelihood]:
        """NLL and entropy of rows under the start model, or under the model of that name."""
        if name is None:
            return likelihoods(start, rows)
        lm, _ = load(name, precision=precision)
        other = TokenModel(lm).prepare()
        place_model(other)
        if other.vocabulary != start.model.vocabulary:
            seen = f"{name} has a vocabulary of {other.vocabulary} tokens, the run's model of {start.model.vocabulary}"
            raise ModelError(f"{seen}; give the model that it was fine-tuned from")
        return likelihoods(StartPass(other, batch=start.batch), rows)

    def similarity(nearest: int, most: int) -> list[Tensor]:
        """Gradient similarity of forget tokens to their nearest retain tokens, at the head."""
        retain = evenly_spaced(rows["retain"], most)
        return head_similarity(start, rows["forget"], retain, nearest=nearest)

    return Start(
        forget=rows["forget"],
        retain=rows["retain"],
        holdout=rows.get("holdout", ()),
        likelihood=likelihood,
        similarity=similarity,
        head_states=lambda rows: head_states(start, rows),
    )


@torch.no_grad()
def likelihoods(start: StartPass, rows: Sequence[Encoded]) -> list[Likelihood]:
    """NLL and entropy of each row's scored tokens under the model as it was read."""
    made, head, device = start.states(rows), start.model.open_head(), start.model.device
    flat = torch.cat([torch.empty(0, start.model.width), *(made[row].before for row in rows)])
    spread = _entropy(flat.to(device, start.model.dtype), head).cpu().split([len(made[row].nll) for row in rows])
    return [Likelihood(nll=made[row].nll, entropy=entropy) for row, entropy in zip(rows, spread, strict=True)]


@torch.no_grad()
def head_similarity(
    start: StartPass, forget: Sequence[Encoded], retain: Sequence[Encoded], *, nearest: int, chunk: int = 512
) -> list[Float[Tensor, " n"]]:
    """Similarity of the gradients at the head that forget a token and that retain others: for each scored token of each
    forget row the mean cosine between its gradient and those of the `nearest` most similar retain tokens, in [−1, 1].

    The gradient of a token's NLL by the head's matrix is (p − onehot)·hᵀ, h the last state before it. So the cosine of two
    is cos(h, h′) · cos(p − onehot, p′ − onehot′): two inner products, no backward pass. A capped head is taken as plain.
    """
    states, kept = (last_states(start, rows) for rows in (forget, retain))
    flat = torch.cat([h for h, _ in states]), torch.cat([ids for _, ids in states])
    held = torch.cat([h for h, _ in kept]), torch.cat([ids for _, ids in kept])
    head, best = start.model.open_head(), []
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
def head_states(start: StartPass, rows: Sequence[Encoded]) -> list[HeadStates]:
    """Of each row what its tokens' predictions are made from, and their NLL."""
    made, matrix = start.states(rows), start.model.head_matrix()
    mean, out = matrix.float().mean(0), []
    for row in rows:
        token = (matrix[torch.tensor(row.ids[row.start :], device=matrix.device)].float() - mean).cpu()
        out.append(HeadStates(made[row].before.float(), made[row].at.float(), token, made[row].nll))
    return out


def last_states(start: StartPass, rows: Sequence[Encoded]) -> list[tuple[Tensor, Tensor]]:
    """Of each row the last states before its scored tokens, and these tokens."""
    made, device = start.states(rows), start.model.device
    return [(made[row].before.to(device), torch.tensor(row.ids[row.start :], device=device)) for row in rows]


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


def _fill(
    start: StartPass, rows: Sequence[Encoded], kept: dict[str, Kept], room: dict[str, Tensor], layer: int | None
) -> None:
    made: list[Iterable[tuple[Encoded, dict[str, Tensor]]]] = []
    if {"nll", "state"} & room.keys():
        made.append((row, {"nll": one.nll.unsqueeze(-1), "state": one.before}) for row, one in start.of(rows))
    if layer is not None:
        made.append((row, {"layer": states}) for row, states in start.after_layer(rows, layer))
    ends = dict.fromkeys(room, 0)
    for row, values in (one for each in made for one in each):
        for name in values.keys() & room.keys():
            begins, ends[name] = ends[name], ends[name] + len(values[name])
            room[name][begins : ends[name]] = values[name]
            kept[name][row] = room[name][begins : ends[name]]


def _look_up(kept: Kept, rows: Sequence[Encoded], device: torch.device | None = None) -> Tensor:
    some = next(iter(kept.values()))
    return torch.cat([some[:0], *(kept[row] for row in rows)]).to(device)
