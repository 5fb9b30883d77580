"""The contrast in closed form against the gradients that it stands for, and the scorer that begins there."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cosine_similarity

from deleatur.data.batches import collate
from deleatur.importance import Contrast, Learned
from deleatur.importance.atwu import LearnedImportance
from deleatur.importance.scorer import fit
from deleatur.losses import GradientDifference
from deleatur.modeling.reference import head_similarity, head_states
from deleatur.modeling.start_pass import StartPass
from deleatur.modeling.token_model import TokenModel
from deleatur.protocols import TrainingContext
from deleatur.settings import Train
from deleatur.types import Reference, Start


def gradients(model: TokenModel, row) -> list[torch.Tensor]:
    """Of the NLL of each scored token by the head's matrix, from autograd."""
    weight = model.lm.get_output_embeddings().weight
    nll = model(collate([row])).nll
    return [torch.autograd.grad(one, weight, retain_graph=True)[0].flatten() for one in nll]


@pytest.mark.parametrize(("nearest", "chunk"), [(1, 512), (3, 7), (8, 64), (10_000, 16)])
def test_the_closed_form_is_the_cosine_of_the_gradients_at_the_head(nearest, chunk, make_llama, forget_rows, retain_rows):
    """An untied head, so that its gradient is the head's alone; with more asked for than there are, all are meant."""
    model = TokenModel(make_llama(tie_word_embeddings=False)).prepare()
    forget, retain = forget_rows[:3], retain_rows[:4]
    ours = head_similarity(StartPass(model, batch=2), forget, retain, nearest=nearest, chunk=chunk)
    held = [g for row in retain for g in gradients(model, row)]
    for row, found in zip(forget, ours, strict=True):
        for mine, value in zip(gradients(model, row), found, strict=True):
            every = torch.stack([cosine_similarity(mine, other, dim=0) for other in held])
            expected = every.topk(min(nearest, len(every))).values.mean()
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


def test_tokens_that_occur_in_retain_rows_too_have_no_importance(llama, forget_rows, retain_rows):
    """A forget row that is compared with itself finds its own gradients: cosine 1, importance 0."""
    model, (row, other) = TokenModel(llama).prepare(), forget_rows[:2]

    def similarity(nearest: int, most: int):
        return head_similarity(StartPass(model, batch=4), [row, other], [row, *retain_rows[:2]], nearest=nearest)

    start = Start(forget=[row, other], retain=[], likelihood=lambda rows, name: [], similarity=similarity)
    tokens = model(collate([row, other]))
    same, strange = (g for g in Contrast(nearest=1).prepare(start)(tokens).split([len(r.offsets) for r in (row, other)]))
    assert float(same.max()) < 1e-4
    assert float(strange.max()) > 0.1


def test_a_warm_scorer_gives_what_it_was_fitted_to(llama, forget_rows):
    """A target that is linear in the state: the fit finds it up to what the penalty takes."""
    model, rows = TokenModel(llama).prepare(), forget_rows[:8]
    settings = Learned(warm=True)
    context = TrainingContext(loss=GradientDifference(), reference=Reference(), train=Train(), width=32, steps=1)
    learned = LearnedImportance(settings, context)
    aim = torch.randn(32, generator=torch.Generator().manual_seed(0)) / 5
    before = {name: p.detach().clone() for name, p in llama.named_parameters()}
    states = head_states(StartPass(model, batch=3), rows)
    fit(learned, states, [(state.at @ aim).sigmoid() for state in states])
    tokens = model(collate(rows))
    g, wanted = learned(tokens), (tokens.hidden @ aim).sigmoid()
    assert float((g - 0.5).abs().max()) > 0.1
    assert float((g - wanted).abs().mean()) < 0.05
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in llama.named_parameters())
