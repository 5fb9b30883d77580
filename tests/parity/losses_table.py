"""Each forget loss as its paper writes it: padded, labels of −100, shifted by one.

Run as a script, it prints as a Markdown table how far ours is from the formula in float64, and how far the formula is
from itself in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid, mse_loss, one_hot

from deleatur.losses import CEU, DPO, FORGET_LOSSES, NPO, PDU, RMU, UNDIAL, AltPO, Erase, GradientDifference, JensUn, SimNPO
from deleatur.modeling.chunked_divergence import divergence_of
from deleatur.types import Divergence, Encoded, Example, Reference, TokenOutputs

V, D = 37, 8
SHAPES = ((3, 1, 5), (1,), (7, 257))  # scored tokens of each sequence
SETTINGS: dict[str, tuple] = {
    "graddiff": (GradientDifference(), GradientDifference(saturation=0.5), GradientDifference(saturation=7.37)),
    "npo": (NPO(), NPO(beta=0.05), NPO(beta=1.3)),
    "simnpo": (SimNPO(), SimNPO(beta=2.822, delta=1.7, scale=2.0)),
    "dpo": (DPO(), DPO(beta=0.21)),
    "altpo": (AltPO(), AltPO(beta=0.03)),
    "rmu": (RMU(), RMU(coefficient=6.5, seed=3)),
    "undial": (UNDIAL(), UNDIAL(beta=0.0), UNDIAL(beta=1.5)),
    "jensun": (JensUn(ids=(4, 31)), JensUn(ids=(36, 0, 7))),
    "ceu": (CEU(), CEU(skip=1), CEU(skip=4)),
    "pdu": (PDU(),),
    "erase": (Erase(level=4.0), Erase(level=0.5), Erase(level=9.3)),
}


@dataclass
class Padded:
    """A batch as others hold it. `importance` is 0 where nothing is scored."""

    labels: Tensor  # (B, L)
    logits: Tensor  # (B, L, V), a leaf
    states: Tensor  # (B, L, D), a leaf
    importance: Tensor  # (B, L)
    start: Tensor  # (B, L, V), the start model's logits
    instead: Padded | None = None

    @property
    def leaves(self) -> list[Tensor]:
        return [self.logits, self.states, *(self.instead.leaves if self.instead else [])]


def make(lengths: Sequence[int], seed: int = 0, dtype: torch.dtype = torch.float64) -> Padded:
    """A model that half knows the labels, behind prompts of 1 to 4 tokens, and a start not far from it.

    A fifth of the importance is 0. The numbers are the same in any type.
    """
    generator = torch.Generator().manual_seed(seed)
    prompts = [1 + (seed + b) % 4 for b in range(len(lengths))]
    size = (len(lengths), max(p + n for p, n in zip(prompts, lengths, strict=True)) + 2)
    labels = torch.randint(0, V, size, generator=generator)
    importance = torch.rand(size, generator=generator).mul(1.25).sub(0.25).clamp(min=0)
    for b, (prompt, n) in enumerate(zip(prompts, lengths, strict=True)):
        importance[b, prompt] = 0.5
        importance[b, :prompt] = importance[b, prompt + n :] = 0
        labels[b, :prompt] = labels[b, prompt + n :] = -100
    logits, noise, states = (torch.randn(*size, width, generator=generator) for width in (V, V, D))
    known = one_hot(labels.roll(-1, 1).clamp(min=0), V)  # position i predicts label i + 1
    logits = 2 * logits + 4 * known
    start = logits + noise / 2
    leaves = (x.to(dtype).requires_grad_() for x in (logits, states))
    return Padded(labels, *leaves, importance.to(dtype), start.to(dtype))


def nll(logits: Tensor, labels: Tensor) -> Tensor:
    """(B, L - 1), 0 where nothing is scored."""
    return cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none")


def rescaled(x: Padded) -> Tensor:
    """Importance that sums to the number of scored tokens, sequence by sequence."""
    counts = (x.labels != -100).sum(1, keepdim=True)
    return (x.importance / x.importance.sum(1, keepdim=True) * counts)[:, 1:]


def scored(x: Padded) -> list[tuple[int, int, int, int]]:
    """(b, l, label, how many scored tokens came before it in its sequence) of each scored token."""
    found = []
    for b, row in enumerate(x.labels.tolist()):
        places = [i for i, label in enumerate(row) if label != -100]
        found += [(b, i, row[i], k) for k, i in enumerate(places)]
    return found


def graddiff(loss: GradientDifference, x: Padded) -> Tensor:
    """−Σ g·l·sg[(e^{−g·l})^β], 2203.12817 with the saturation of 2606.06320."""
    weighted = x.importance[:, 1:] * nll(x.logits, x.labels)
    return -(weighted * torch.exp(-weighted).detach() ** loss.saturation).sum()


def npo(loss: NPO, x: Padded) -> Tensor:
    """(2/β)·Σ log(1 + (π/π_ref)^β), 2404.05868 eq. 3."""
    log_ratio = (nll(x.start, x.labels) - rescaled(x) * nll(x.logits, x.labels)).sum(1)
    return 2 / loss.beta * torch.logaddexp(loss.beta * log_ratio, log_ratio.new_zeros(())).sum()


def simnpo(loss: SimNPO, x: Padded) -> Tensor:
    """−(2/β)·Σ log σ(−(β/|y|)·log π − δ), 2410.07163."""
    log_pi = -(loss.scale * x.importance[:, 1:] * nll(x.logits, x.labels)).sum(1)
    return -2 / loss.beta * logsigmoid(-loss.beta / (x.labels != -100).sum(1) * log_pi - loss.delta).sum()


def dpo(loss: DPO | AltPO, x: Padded) -> Tensor:
    """−(2/β)·Σ log σ(β·log(π_w/π_ref,w) − β·log(π_f/π_ref,f)), 2305.18290 times the 2/β of 2404.05868."""
    win = (nll(x.instead.start, x.instead.labels) - nll(x.instead.logits, x.instead.labels)).sum(1)
    lose = (nll(x.start, x.labels) - rescaled(x) * nll(x.logits, x.labels)).sum(1)
    return -2 / loss.beta * logsigmoid(loss.beta * win - loss.beta * lose).sum()


def rmu(loss: RMU, x: Padded) -> Tensor:
    """Σ ‖h − c·u‖² / D, 2403.03218, u drawn as its authors draw it."""
    vector = torch.rand(1, 1, D, generator=torch.Generator().manual_seed(loss.seed)).to(x.states)
    control = (vector / torch.norm(vector) * loss.coefficient).expand_as(x.states)
    return (mse_loss(x.states, control, reduction="none").mean(2) * x.importance).sum()


def undial(loss: UNDIAL, x: Padded) -> Tensor:
    """CE against softmax(z_ref − β·onehot), 2402.10052."""
    total = x.logits.new_zeros(())
    for b, i, label, _ in scored(x):
        teacher = (x.start[b, i - 1] - loss.beta * one_hot(torch.tensor(label), V)).softmax(0)
        total = total + x.importance[b, i] * cross_entropy(x.logits[b, i - 1], teacher)
    return total


def jensun(loss: JensUn, x: Padded) -> Tensor:
    """JS(p, onehot) = H((p + onehot)/2) − H(p)/2, as H(onehot) = 0, 2509.02820."""
    total = x.logits.new_zeros(())
    for b, i, _, place in scored(x):
        p = x.logits[b, i - 1].softmax(0)
        target = one_hot(torch.tensor(loss.ids[place % len(loss.ids)]), V)
        entropy, own = (torch.special.entr(q).sum() for q in ((p + target) / 2, p))
        total = total + x.importance[b, i] * (entropy - own / 2)
    return total


def ceu(loss: CEU, x: Padded) -> Tensor:
    """CE against the model's own softmax with the label's logit at −∞, 2503.01224."""
    total = x.logits.new_zeros(())
    for b, i, label, place in scored(x):
        if place >= loss.skip:
            without = x.logits[b, i - 1].detach().clone()
            without[label] = -torch.inf
            total = total + x.importance[b, i] * cross_entropy(x.logits[b, i - 1], without.softmax(0))
    return total


def pdu(loss: PDU, x: Padded) -> Tensor:
    """Σ (max z − mean z)², 2506.05314."""
    z = x.logits[:, :-1]
    return ((z.max(-1)[0] - z.mean(-1)) ** 2 * x.importance[:, 1:]).sum()


def erase(loss: Erase, x: Padded) -> Tensor:
    """KL from a target with the label at exp(−level) and the rest as the start; the NLL's distance from the level."""
    total = x.logits.new_zeros(())
    for b, i, label, _ in scored(x):
        without = x.start[b, i - 1].clone()
        without[label] = -torch.inf
        a = math.exp(-loss.level)
        t, nll = (1 - a) * without.softmax(0), cross_entropy(x.logits[b, i - 1], torch.tensor(label))
        t[label] = a
        kl = cross_entropy(x.logits[b, i - 1], t) - torch.special.entr(t).sum()
        total = total + x.importance[b, i] * (kl + (1 - a) * (nll - loss.level) ** 2 / loss.level)
    return total


FORMULAS: dict[str, Callable[..., Tensor]] = {
    "graddiff": graddiff,
    "npo": npo,
    "simnpo": simnpo,
    "dpo": dpo,
    "altpo": dpo,
    "rmu": rmu,
    "undial": undial,
    "jensun": jensun,
    "ceu": ceu,
    "pdu": pdu,
    "erase": erase,
}


def flat(x: Padded, name: str) -> tuple[TokenOutputs, Tensor, dict[tuple[Encoded, ...], tuple[Tensor, Tensor]]]:
    """The same batch as ours: outputs, importance, and the start model's NLL and logits by rows."""
    kept = x.labels[:, 1:] != -100
    rows = []
    for b, row in enumerate(x.labels.tolist()):
        answer = [label for label in row if label != -100]
        example = Example(id=f"{name} {b}", prompt=(("user", "?"),), answer="x" * len(answer))
        rows.append(
            Encoded(example=example, ids=(0, *answer), start=1, offsets=tuple((k, k + 1) for k in range(len(answer))))
        )
    logits, start = x.logits[:, :-1][kept], x.start[:, :-1][kept]
    states, ids = x.states[:, 1:][kept], x.labels[:, 1:][kept]
    tokens = TokenOutputs(
        nll=cross_entropy(logits, ids, reduction="none"),
        hidden=states.detach(),
        sequence=kept.nonzero()[:, 0],
        rows=tuple(rows),
        logits=logits,
        layer=states,
        divergence=Divergence(*divergence_of(logits, start, ids)[1:]),
    )
    return tokens, x.importance[:, 1:][kept], {tokens.rows: (cross_entropy(start, ids, reduction="none"), start)}


def ours(loss, x: Padded) -> Tensor:
    (tokens, importance, said), (preferred, _, more) = flat(x, "forget"), flat(x.instead, "instead")
    tokens, said = replace(tokens, preferred=preferred), said | more
    reference = Reference(nll=lambda asked: said[asked.rows][0], logits=lambda asked: said[asked.rows][1])
    return loss(tokens, importance, reference)


def evaluate(f: Callable[[Padded], Tensor], lengths: Sequence[int], seed: int, dtype: torch.dtype) -> list[Tensor]:
    """Its value, and its gradient over all padded positions."""
    x = make(lengths, seed, dtype)
    x.instead = make([1 + (3 * n) % 7 for n in lengths], seed + 1, dtype)
    value = f(x)
    held = not value.requires_grad  # no token was left
    gradients = torch.autograd.grad(value + 0 * x.logits.sum() if held else value, x.leaves, materialize_grads=True)
    return [value.detach().double(), torch.cat([g.flatten() for g in gradients]).double()]


def deviations(name: str, loss, lengths: Sequence[int], seed: int = 0) -> list[tuple[float, float]]:
    """Of value and of gradient, each relative to its largest entry: ours from the formula, the formula's in float32."""
    formula = partial(FORMULAS[name], loss)
    truth = evaluate(formula, lengths, seed, torch.float64)
    both = (evaluate(f, lengths, seed, torch.float32) for f in (partial(ours, loss), formula))
    sizes = [float(t.abs().max().clamp(min=1e-12)) for t in truth]
    far = [[float((a - t).abs().max()) / size for a, t, size in zip(x, truth, sizes, strict=True)] for x in both]
    return list(zip(*far, strict=True))


def main() -> None:
    print("| loss | value | value, formula in fp32 | gradient | gradient, formula in fp32 |\n|---|---|---|---|---|")
    for name in FORGET_LOSSES:
        found = [deviations(name, loss, lengths, seed) for loss in SETTINGS[name] for lengths in SHAPES for seed in range(5)]
        cells = [max(f[side][which] for f in found) for side in (0, 1) for which in (0, 1)]
        print(f"| {name} | " + " | ".join(f"{cell:.1e}" for cell in cells) + " |")


if __name__ == "__main__":
    main()
