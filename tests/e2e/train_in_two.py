"""Small trainings, the same in one process or in several: see in_two.py."""

from __future__ import annotations

from dataclasses import asdict

import torch
from accelerate import Accelerator
from transformers import LlamaConfig, LlamaForCausalLM

from deleatur.config.method import requirements_of
from deleatur.data.batches import Schedule, step_windows
from deleatur.distributed.processes import full_tensor, place_model
from deleatur.importance import Learned
from deleatur.importance.atwu import LearnedImportance
from deleatur.losses import CEU, DPO, NPO, Erase, GradientDifference
from deleatur.modeling.reference import make_reference
from deleatur.modeling.start_pass import StartPass
from deleatur.modeling.token_model import TokenModel
from deleatur.protocols import TrainingContext
from deleatur.settings import Train
from deleatur.training.loop import Method, fit
from deleatur.types import Encoded, Example

SCENARIOS = {  # forget rows, batch, accumulate, forget loss, objective, what holds retain rows
    "even": (8, 4, 1, GradientDifference(saturation=2.0), "complement", "nll"),
    "accumulated": (8, 2, 4, GradientDifference(saturation=2.0), "matched", "nll"),
    "npo": (8, 4, 2, NPO(beta=0.5), "matched", "nll"),
    "one left over": (9, 4, 1, GradientDifference(), "complement", "nll"),
    "one left over of an accumulated step": (5, 2, 2, NPO(beta=0.5), "matched", "nll"),
    "one left over that prefers": (9, 4, 1, DPO(beta=0.5), "complement", "kl"),
    "logits, one left over of an accumulated step": (5, 2, 2, CEU(), "complement", "js"),
    "erase, one left over": (9, 4, 1, Erase(level=3.0), "complement", "kl"),
}


def rows(count: int, seed: int) -> list[Encoded]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for k in range(count):
        ids = torch.randint(2, 101, (4 + 3 * (k % 4),), generator=generator).tolist()
        example = Example(id=str(k), prompt=(("user", "?"),), answer="a")
        made.append(Encoded(example=example, ids=tuple(ids), start=2, offsets=((0, 1),) * (len(ids) - 2)))
    return made


def train(name: str, accelerator: Accelerator) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """What one scenario logs, and the weights of model and scorer in the end."""
    count, batch, accumulate, loss, objective, term = SCENARIOS[name]
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    start, lm = (LlamaForCausalLM(LlamaConfig(**shape, vocab_size=101, initializer_range=0.2)) for _ in range(2))
    model, forget, retain = TokenModel(lm).prepare(), rows(count, 1), rows(11, 2)
    place_model(model)
    schedule = Schedule(epochs=3, batch=batch, accumulate=accumulate)
    steps = 3 * -(-count // (batch * accumulate))
    settings = Train(lr=1e-3, retain=term, bound=4.0, keep=0.5 if isinstance(loss, Erase) else 0.0)
    preferred = [rows(2, 10 + k) for k in range(count)] if loss.requires.preferred else []
    met = [*forget, *(row for instead in preferred for row in instead), *retain]
    # from another model: a divergence from the own start is flat there, and AdamW makes steps of rounding errors
    learned = Learned(objective=objective, every=2, lr=0.5, negatives=0.5)
    reference = make_reference(
        StartPass(TokenModel(start).prepare(), batch=4), met, requirements_of(loss, learned, settings)
    )
    how = {"train": settings, "width": 16, "steps": steps, "total": lambda x: accelerator.reduce(x, "sum")}
    importance = LearnedImportance(learned, TrainingContext(loss=loss, reference=reference, **how))
    logged = []
    fit(
        model,
        step_windows(
            forget,
            retain,
            schedule,
            preferred=preferred,
            process=accelerator.process_index,
            processes=accelerator.num_processes,
        ),
        Method(loss=loss, importance=importance, settings=settings, reference=reference),
        steps=steps,
        on_step=lambda step: logged.append(asdict(step)),
    )
    scorer = {f"scorer.{k}": v for k, v in importance.scorer.state_dict().items()}
    return logged, scorer | {k: full_tensor(v).detach().clone() for k, v in model.state_dict(keep_vars=True).items()}
