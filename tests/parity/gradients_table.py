"""How far from fp64 are the gradients of a step? `python tests/parity/gradients_table.py`

Gradient difference over rows of TOFU's lengths, Llama of SmolLM2-135M's widths with six layers and random weights. Relative
errors over all trained weights: of a padded batch as transformers runs it, and of ours. Truth is the former in fp64 on the
same rounded weights, which differ by type.
"""

from __future__ import annotations

import copy
import random

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from deleatur.data.batches import collate
from deleatur.modeling.loading import add_adapters, checkpoint_activations
from deleatur.modeling.patches import exact_matmul
from deleatur.modeling.token_model import TokenModel
from deleatur.settings import Lora
from deleatur.types import Encoded, Example

SIZES = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
VOCABULARY, SIDES = 4096, (3, 3)  # forget and retain rows


def rows() -> list[Encoded]:
    """Forget rows, then retain rows."""
    rng, made = random.Random(0), []
    for i in range(sum(SIDES)):
        length = rng.randint(50, 104)
        ids, start = tuple(rng.randrange(VOCABULARY) for _ in range(length)), length * 2 // 5
        example = Example(id=str(i), prompt=(("user", "?"),), answer="x" * (length - start))
        made.append(Encoded(example=example, ids=ids, start=start, offsets=tuple((k, k + 1) for k in range(length - start))))
    return made


def flat(lm: PreTrainedModel, loss: torch.Tensor) -> torch.Tensor:
    """Gradients of all trained weights, in fp64."""
    trained = [p for p in lm.parameters() if p.requires_grad]
    return torch.cat([g.flatten().double() for g in torch.autograd.grad(loss, trained)])


def plain(lm: PreTrainedModel) -> torch.Tensor:
    """Of the padded batch, with a mask, through transformers' own layers."""
    some = rows()
    ids, labels, mask = (torch.full((len(some), max(len(r.ids) for r in some)), fill) for fill in (0, -100, 0))
    for b, row in enumerate(some):
        ids[b, : len(row.ids)] = torch.tensor(row.ids)
        labels[b, row.start : len(row.ids)] = ids[b, row.start : len(row.ids)]
        mask[b, : len(row.ids)] = 1
    logits = lm(input_ids=ids, attention_mask=mask, use_cache=False).logits
    logits = logits if logits.dtype == torch.float64 else logits.float()
    nll = cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none")
    counted = labels[:, 1:] != -100
    forget, retain = (nll[part].sum() / counted[part].sum() for part in (slice(SIDES[0]), slice(SIDES[0], None)))
    return flat(lm, retain - forget)


def ours(lm: PreTrainedModel) -> torch.Tensor:
    """Of rows end to end."""
    some = rows()
    tokens = TokenModel(lm).prepare()(collate(some[: SIDES[0]], some[SIDES[0] :]))
    forget = tokens.sequence < SIDES[0]
    return flat(lm, tokens.nll[~forget].mean() - tokens.nll[forget].mean())


def main() -> None:
    exact_matmul()
    print("| | padded batch | ours | ratio |\n|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        for rank, checkpointed in ((None, False), (None, True), (16, False), (16, True)):
            torch.manual_seed(0)
            lm = LlamaForCausalLM(LlamaConfig(**SIZES, num_hidden_layers=6, vocab_size=VOCABULARY, tie_word_embeddings=True))
            if rank is not None:
                add_adapters(lm, Lora(rank=rank))
                for module in lm.modules():
                    vars(module).pop("forward", None)
                for name, p in lm.named_parameters():
                    if "lora_B" in name:
                        torch.nn.init.normal_(p, std=0.02)
            lm.train().to(dtype)
            truth = plain(copy.deepcopy(lm).double())
            with_it = copy.deepcopy(lm)
            if checkpointed:
                checkpoint_activations(with_it)
            theirs, mine = (float((g - truth).norm() / truth.norm()) for g in (plain(lm), ours(with_it)))
            what = f"{str(dtype)[6:]}{', LoRA' * (rank is not None)}{', checkpointed' * checkpointed}"
            print(f"| {what} | {theirs:.2e} | {mine:.2e} | {mine / theirs:.2f} |")


if __name__ == "__main__":
    main()
