"""What the start model said is what it said, however long the model is trained afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deleatur.data.batches import collate
from deleatur.modeling import reference as module
from deleatur.modeling.loading import add_adapters
from deleatur.modeling.reference import likelihoods, make_reference
from deleatur.modeling.start_pass import StartPass
from deleatur.modeling.token_model import TokenModel
from deleatur.requirements import Requirements
from deleatur.settings import Lora
from deleatur.types import Encoded, Example, Reference, TokenOutputs

NEEDS = Requirements(start_nll=True, start_logits=True, start_layer=True, layer=0)
KINDS = ("nll", "logits", "layer")


@pytest.fixture(scope="module")
def some(forget_rows, retain_rows) -> list[Encoded]:
    """Rows of different lengths, among them one of a single scored token behind a single other."""
    short = Encoded(example=Example(id="s", prompt=(), answer="a"), ids=(5, 9), start=1, offsets=((0, 1),))
    return [*forget_rows[:5], short, *retain_rows[:4]]


@torch.no_grad()
def by_hand(lm, row: Encoded, layer: int = 0) -> dict[str, torch.Tensor]:
    """NLL, logits and layer's states of one row by the model's own forward, shifted by one here."""
    states = []
    hook = lm.model.layers[layer].register_forward_hook(lambda module, args, out: states.append(out))
    logits = lm(input_ids=torch.tensor([row.ids])).logits[0, row.start - 1 : -1]
    hook.remove()
    nll = -logits.log_softmax(-1)[range(len(logits)), list(row.ids[row.start :])]
    return {"nll": nll, "logits": logits, "layer": states[0][0, row.start :]}


def said(reference: Reference, tokens: TokenOutputs) -> dict[str, torch.Tensor]:
    return {kind: getattr(reference, kind)(tokens) for kind in KINDS}


@torch.no_grad()
def asked(model: TokenModel, rows: list[Encoded]) -> TokenOutputs:
    return model(collate(rows))


@torch.no_grad()
def spoil(lm) -> None:
    """As hard as any training could."""
    for p in lm.parameters():
        p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)).to(p.dtype))


class TestNumbers:
    @pytest.mark.parametrize("batch", [1, 4, 100])
    def test_they_are_those_of_the_models_own_forward_in_whatever_order_rows_are_looked_up(self, batch, llama, some):
        model = TokenModel(llama).prepare()
        reference = make_reference(StartPass(model, batch=batch), some, NEEDS)
        order = [7, 0, 5, 9, 5]  # a row may be met twice in a batch
        seen = said(reference, asked(model, [some[k] for k in order]))
        truth = [by_hand(llama, some[k]) for k in order]
        for kind in KINDS:
            expected = torch.cat([one[kind] for one in truth])
            torch.testing.assert_close(seen[kind], expected, rtol=1e-4, atol=1e-4, msg=lambda m, kind=kind: f"{kind}: {m}")
            assert not seen[kind].requires_grad
        assert all(p.grad is None for p in llama.parameters())

    def test_they_do_not_change_while_the_model_and_its_head_change(self, llama, some):
        model = TokenModel(llama).prepare()
        tokens = asked(model, some)
        reference = make_reference(StartPass(model, batch=4), some, NEEDS)
        before = said(reference, tokens)
        spoil(llama)
        moved = asked(model, some)
        assert not torch.allclose(moved.nll, tokens.nll, atol=0.1)
        after = said(reference, moved)
        assert all(torch.equal(after[kind], before[kind]) for kind in KINDS)

    def test_a_tied_head_is_copied_too(self, make_llama, some):
        """Its matrix is the embedding, which is trained."""
        model = TokenModel(make_llama(tie_word_embeddings=True)).prepare()
        reference = make_reference(StartPass(model, batch=4), some, Requirements(start_logits=True))
        tokens = asked(model, some)
        before = reference.logits(tokens)
        spoil(model.lm)
        assert torch.equal(reference.logits(tokens), before)

    def test_with_adapters_the_head_is_not_copied_and_numbers_do_not_change(self, llama, some, monkeypatch):
        """The head is not trained, so it will be as it is; what the adapters do is behind the states that are kept."""
        model = TokenModel(add_adapters(llama, Lora(rank=4))).prepare()
        monkeypatch.setattr("deleatur.modeling.token_model.deepcopy", lambda matrix: pytest.fail("the head is copied"))
        reference = make_reference(StartPass(model, batch=4), some, NEEDS)
        tokens = asked(model, some)
        before = said(reference, tokens)
        torch.testing.assert_close(before["nll"], tokens.nll, rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            for p in (p for p in llama.parameters() if p.requires_grad):
                p.fill_(0.3)
        moved = asked(model, some)
        assert not torch.allclose(moved.nll, tokens.nll, atol=0.1)
        assert all(torch.equal(said(reference, moved)[kind], before[kind]) for kind in KINDS)

    def test_in_bf16_they_are_the_bf16_models(self, make_llama, some):
        """One batch of the same rows, so that not a bit may differ: states are kept in the model's type, NLL in fp32."""
        model = TokenModel(make_llama().bfloat16()).prepare()
        rows = sorted(some, key=lambda row: len(row.ids))
        with torch.no_grad():
            tokens = model(collate(rows), logits=True, layer=0)
            nll = model(collate(rows)).nll
        seen = said(make_reference(StartPass(model, batch=100), some, NEEDS), tokens)
        assert torch.equal(seen["logits"], tokens.logits)
        assert torch.equal(seen["layer"], tokens.layer)
        assert torch.equal(seen["nll"], nll)
        assert [seen[kind].dtype for kind in KINDS] == [torch.float32, torch.bfloat16, torch.bfloat16]

    def test_rows_that_are_given_twice_are_evaluated_once(self, llama, some):
        model, forward, met = TokenModel(llama).prepare(), TokenModel.forward, []
        model.forward = lambda batch, **more: met.extend(batch.rows) or forward(model, batch, **more)
        make_reference(StartPass(model, batch=3), [*some, *some[::-1]], Requirements(start_nll=True))
        assert len(met) == len(some)
        assert set(met) == set(some)

    def test_of_no_rows_they_are_nothing(self, llama, some):
        """A process without a row in a step asks all the same."""
        model = TokenModel(llama).prepare()
        reference = make_reference(StartPass(model, batch=4), some, NEEDS)
        nothing, _ = asked(model, some[:1]).split(0)
        assert [tuple(x.shape) for x in said(reference, nothing).values()] == [(0,), (0, 401), (0, 32)]


class TestAsking:
    @pytest.mark.parametrize("need", ["nll", "logits", "layer"])
    def test_numbers_that_were_not_requested_are_absent(self, need, llama, some):
        model = TokenModel(llama).prepare()
        wanted = Requirements(**{f"start_{need}": True, "logits": True, "layer": 0})
        reference, tokens = make_reference(StartPass(model, batch=4), some, wanted), asked(model, some)
        assert len(getattr(reference, need)(tokens)) == len(tokens.nll)
        for kind in set(KINDS) - {need}:
            with pytest.raises(LookupError, match="was not computed before training"):
                getattr(reference, kind)(tokens)

    def test_a_row_that_was_not_given_is_not_there(self, llama, some):
        model = TokenModel(llama).prepare()
        reference = make_reference(StartPass(model, batch=4), some[:3], NEEDS)
        for kind in KINDS:
            with pytest.raises(LookupError):
                getattr(reference, kind)(asked(model, some[3:4]))

    def test_the_model_is_not_run_where_nothing_needs_it(self, llama, some):
        model = TokenModel(llama).prepare()
        tokens = asked(model, some)
        model.forward = lambda *args, **kwargs: pytest.fail("nothing asks for a reference")
        reference = make_reference(StartPass(model, batch=4), some, Requirements(logits=True, layer=0, preferred=True))
        with pytest.raises(LookupError):
            reference.nll(tokens)


class TestOnDisk:
    def test_above_the_limit_numbers_are_kept_in_an_unlinked_file_and_are_the_same(
        self, llama, some, tmp_path: Path, monkeypatch
    ):
        model, mapped, from_file = TokenModel(llama).prepare(), [], torch.from_file
        tokens = asked(model, some)
        kept = said(make_reference(StartPass(model, batch=4), some, NEEDS, folder=tmp_path), tokens)

        def seen(name: str, **more) -> torch.Tensor:
            assert Path(name).parent == tmp_path
            mapped.append(more["size"])
            return from_file(name, **more)

        monkeypatch.setattr(torch, "from_file", seen)
        monkeypatch.setattr(module, "IN_MEMORY", 16)
        reference = make_reference(StartPass(model, batch=4), some, NEEDS, folder=tmp_path)
        count = len(tokens.nll)
        assert sorted(mapped) == [count, 32 * count, 32 * count]
        assert list(tmp_path.iterdir()) == []
        spoil(llama)
        assert all(torch.equal(value, kept[kind]) for kind, value in said(reference, tokens).items())

    def test_without_a_folder_it_stays_in_memory(self, llama, some, monkeypatch):
        monkeypatch.setattr(module, "IN_MEMORY", 16)
        monkeypatch.setattr(torch, "from_file", lambda *args, **kwargs: pytest.fail("there is no folder"))
        model = TokenModel(llama).prepare()
        reference, tokens = make_reference(StartPass(model, batch=4), some, NEEDS), asked(model, some)
        torch.testing.assert_close(reference.nll(tokens), tokens.nll, rtol=1e-5, atol=1e-5)


class TestLikelihoods:
    @pytest.mark.parametrize("batch", [1, 4, 100])
    def test_nll_and_entropy_are_those_of_a_plain_softmax_row_by_row(self, batch, llama, some):
        """−log p of the token, and −Σ p·log p over all words, with p the softmax of the model's own logits."""
        for one, row in zip(likelihoods(StartPass(TokenModel(llama).prepare(), batch=batch), some), some, strict=True):
            truth = by_hand(llama, row)
            p = truth["logits"].softmax(-1)
            torch.testing.assert_close(one.nll, truth["nll"], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(one.entropy, -(p * p.log()).sum(-1), rtol=1e-4, atol=1e-4)
            assert not one.nll.requires_grad
            assert not one.entropy.requires_grad

    @pytest.mark.parametrize("chunk", [1, 3, 7, 1024])
    def test_entropy_in_chunks_is_the_two_lines_of_its_docstring(self, chunk):
        """Seven positions over 37 words; equal logits give log 37, a certain word 0."""
        generator = torch.Generator().manual_seed(0)
        hidden, matrix = torch.randn(7, 5, generator=generator), torch.randn(37, 5, generator=generator)
        matrix[0] += 60 * hidden[6] / hidden[6].norm()
        hidden[0], hidden[6] = 0, 100 * hidden[6]
        logp = (hidden @ matrix.T).log_softmax(-1)
        expected = -(logp.exp() * logp).sum(-1)
        seen = module._entropy(hidden, lambda h: h @ matrix.T, chunk)
        torch.testing.assert_close(seen, expected)
        assert seen[0].item() == pytest.approx(torch.tensor(37.0).log().item())
        assert seen[6].item() == pytest.approx(0, abs=1e-6)
        assert 0.1 < seen[1:6].min() < seen[1:6].max() < 3.6

    def test_no_positions_have_no_entropy(self):
        assert module._entropy(torch.zeros(0, 5), lambda h: h @ torch.zeros(5, 37)).shape == (0,)

    def test_no_rows_have_no_likelihood(self, llama):
        assert likelihoods(StartPass(TokenModel(llama).prepare(), batch=4), []) == []


@pytest.mark.parametrize("layer", [0, 1])
def test_the_state_of_a_layer_is_what_that_decoder_layer_hands_on(layer, make_llama, some):
    """Of three layers the first two, at each scored token's own position."""
    lm = make_llama(num_hidden_layers=3)
    with torch.no_grad():
        seen = TokenModel(lm).prepare()(collate(some), layer=layer).layer
    expected = torch.cat([by_hand(lm, row, layer)["layer"] for row in some])
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4)


def test_the_state_of_the_last_layer_is_the_final_one_after_the_last_norm(make_llama, some):
    with torch.no_grad():
        seen = TokenModel(make_llama(num_hidden_layers=3)).prepare()(collate(some), layer=2)
    assert torch.equal(seen.layer, seen.hidden)
