"""What a model did with examples: the numbers of one row at a time, whatever is batched."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from deleatur.data.batches import collate
from deleatur.data.encode import encode_all
from deleatur.evaluation import predictions as records_module
from deleatur.evaluation.predictions import Predictor, ends
from deleatur.evaluation.variants import variants
from deleatur.importance import ETW, WGA
from deleatur.modeling.token_model import TokenModel
from deleatur.plain_parts import as_callable
from deleatur.requirements import HiddenState, Requirements
from deleatur.settings import Evaluation
from deleatur.types import Example, Span

TEXT = Example(id="t", prompt=(), answer="The writer was born in a small town.")


def ask(lm, encoder, sets, *, batch: int = 32, new_tokens: int = 8, **more):
    settings = Evaluation(batch=batch, new_tokens=new_tokens)
    watch = {"progress": more.pop("progress")} if "progress" in more else {}
    return Predictor(model=TokenModel(lm).prepare(), encoder=encoder, settings=settings, **watch).records(sets, **more)


class Reads:
    """An importance that is the first number of the hidden state that it asks for."""

    def __init__(self, state: HiddenState) -> None:
        self.requires = Requirements(hidden_state=state)

    def __call__(self, tokens):
        return tokens.hidden[:, 0]


@torch.no_grad()
def parrot(make_llama, said: list[int]):
    """A model that says each of these tokens after the one before it, and token 0 after the last.

    Its blocks add nothing, so the state is the last token's own embedding, and the head's row of the next token is that."""
    lm = make_llama()
    for layer in lm.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    embedding, head = lm.model.embed_tokens.weight, lm.lm_head.weight
    head.zero_()
    for token, following in pairwise(said):
        head[following] += embedding[token] / embedding[token].norm()
        head[-1] += embedding[token] / embedding[token].norm() / 2  # what would be said next best
    return lm


@torch.no_grad()
def by_hand(lm, encoder, row, new_tokens: int) -> str:
    """Greedy decoding without cache, padding or settings: append the arg max until an end."""
    ends = {encoder.tokenizer.eos_token_id, encoder.tokenizer.convert_tokens_to_ids(encoder.ending)}
    ids, said = list(row.ids[: row.start]), []
    while len(said) < new_tokens and not ends & set(said):
        said.append(int(lm(input_ids=torch.tensor([[*ids, *said]])).logits[0, -1].argmax()))
    return encoder.tokenizer.decode(said, skip_special_tokens=True).strip()


class TestLikelihood:
    @pytest.mark.parametrize("batch", [1, 3, 64])
    def test_one_pass_over_all_sets_equals_one_row_at_a_time(self, batch, llama, plain, forget_rows, retain_rows):
        """Rows are sorted and padded inside; outside they keep their sets and their order."""
        sets = {"forget": forget_rows[:9], "retain": [*encode_all(plain, [TEXT]), *retain_rows[:7]]}
        records = ask(llama, plain, sets, batch=batch, new_tokens=1)
        assert {name: [r.id for r in rows] for name, rows in records.items()} == {
            name: [e.example.id for e in rows] for name, rows in sets.items()
        }
        for name, rows in sets.items():
            for seen, row in zip(records[name], rows, strict=True):
                with torch.no_grad():
                    alone = TokenModel(llama).prepare()(collate([row]), statistics=True)
                assert seen.logp == pytest.approx((-alone.nll).tolist(), rel=1e-5, abs=1e-5)
                assert seen.hit == tuple(alone.statistics.hit.tolist())
                assert seen.offsets == row.offsets

    def test_of_other_answers_the_likelihood_alone_is_made(self, llama, plain, forget_rows):
        """To rounding, that of an answer of which everything is made; a text that a row has too keeps its statistics."""
        predictor = Predictor(model=TokenModel(llama).prepare(), encoder=plain, settings=Evaluation())
        every = predictor.likelihood(forget_rows[:4])
        some = predictor.likelihood(forget_rows[:4], detailed={(row.ids, row.start) for row in forget_rows[:2]})
        for one, other in zip(every, some, strict=True):
            assert other.logp == pytest.approx(one.logp, abs=1e-5)
        assert [len(p.hit) for p in some] == [len(every[0].hit), len(every[1].hit), 0, 0]
        assert (some[0].hit, some[0].mean) == (every[0].hit, pytest.approx(every[0].mean, abs=1e-5))

    def test_a_record_carries_what_metrics_look_at(self, llama, plain):
        spans = (Span(start=0, end=4), Span(start=5, end=8, keep=True))
        example = Example(
            id="1", prompt=(("user", "Who?"), ("assistant", "Ada."), ("user", "Why?")), answer="Runa was.", spans=spans
        )
        (row,) = encode_all(plain, [example])
        seen = ask(llama, plain, {"x": [row]}, importance=WGA(beta=1.0))["x"][0]
        assert (seen.id, seen.question, seen.answer, seen.spans, seen.gold) == ("1", "Why?", "Runa was.", spans, row.gold)
        assert seen.importance == pytest.approx(torch.tensor(seen.logp).exp().tolist(), rel=1e-5)
        assert seen.ends

    def test_without_an_importance_there_is_none(self, llama, plain, forget_rows):
        assert ask(llama, plain, {"x": forget_rows[:2]}, new_tokens=1)["x"][0].importance is None

    def test_a_row_of_which_the_importance_knows_nothing_has_none(self, llama, plain, forget_rows):
        """Made before training for some rows, it gives NaN for another, which must not become a number in the record."""
        known, unknown = forget_rows[:2]

        def importance(tokens):
            size = [len(row.ids) - row.start for row in tokens.rows]
            return torch.cat(
                [torch.full((n,), 0.25 if r == known else torch.nan) for n, r in zip(size, tokens.rows, strict=True)]
            )

        seen = ask(llama, plain, {"x": [unknown, known]}, new_tokens=1, importance=as_callable(importance))["x"]
        assert seen[0].importance is None
        assert seen[1].importance == (0.25,) * len(seen[1].logp)

    def test_an_importance_that_reads_logits_gets_them(self, llama, plain, forget_rows):
        """ETW: n·H/ΣH, with the entropy of a plain softmax."""
        with torch.no_grad():
            p = TokenModel(llama).prepare()(collate(forget_rows[:1]), logits=True).logits.softmax(-1)
        entropy = -(p * p.log()).sum(-1)
        (seen,) = ask(llama, plain, {"x": forget_rows[:1]}, new_tokens=1, importance=ETW())["x"]
        assert seen.importance == pytest.approx((len(entropy) * entropy / entropy.sum()).tolist(), rel=1e-4)

    @pytest.mark.parametrize("state", ["own", "predicting"])
    def test_the_importance_reads_the_state_that_was_asked_for(self, state, llama, plain, forget_rows):
        with torch.no_grad():
            expected = TokenModel(llama).prepare()(collate([forget_rows[0]]), state=state).hidden[:, 0]
        seen = ask(llama, plain, {"x": forget_rows[:1]}, new_tokens=1, importance=Reads(state))
        assert seen["x"][0].importance == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-5)

    def test_a_row_ends_where_its_end_of_turn_is_scored(self, llama, plain, forget_rows):
        """A text has no end of turn, a cut row lost it."""
        row = forget_rows[0]
        cut = replace(row, ids=row.ids[:-3], offsets=row.offsets[:-3])
        records = ask(llama, plain, {"x": [row, cut, *encode_all(plain, [TEXT])]}, new_tokens=1)["x"]
        assert [r.ends for r in records] == [True, False, False]

    def test_no_gradient_remains_in_the_model(self, make_llama, plain, forget_rows):
        lm = make_llama().train()
        ask(lm, plain, {"x": forget_rows[:2]}, new_tokens=1)
        assert all(p.grad is None for p in lm.parameters())


class TestGeneration:
    @pytest.mark.parametrize("which", ["plain", "chat"])
    @pytest.mark.parametrize("batch", [1, 4, 64])
    def test_answers_are_greedy_and_the_same_in_any_batch(self, which, batch, request, llama, world):
        encoder = request.getfixturevalue(which)
        rows = encode_all(encoder, world.forget[:10])
        assert len({row.start for row in rows}) > 3, "prompts of different lengths"
        seen = [r.generated for r in ask(llama, encoder, {"x": rows}, batch=batch)["x"]]
        assert seen == [by_hand(llama, encoder, row, 8) for row in rows]
        assert len(set(seen)) > 3

    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            ("repetition_penalty", 5.0),
            ("no_repeat_ngram_size", 1),
            ("do_sample", True),
            ("min_new_tokens", 6),
            ("suppress_tokens", list(range(4, 390))),
            ("forced_eos_token_id", 9),
        ],
    )
    def test_the_models_own_generation_settings_do_not_change_the_answer(self, setting, value, make_llama, plain):
        """Hub models come with sampling, penalties and beams of their own. Greedy is the arg max and nothing else: here
        "QZQZQZ" from one model and "QY" and the end from another, which a penalty or a least length would bend."""
        rows = encode_all(plain, [Example(id=q, prompt=(("user", f"Who{q}"),), answer="Runa") for q in ("?", "!")])
        ids = plain.tokenizer.convert_tokens_to_ids
        lm = parrot(make_llama, [rows[0].ids[rows[0].start - 1], *ids(["Q", "Z", "Q"])])
        own = lm.generation_config = type(lm.generation_config)(**{"bos_token_id": 0, "eos_token_id": 1, setting: value})
        assert [r.generated for r in ask(lm, plain, {"x": rows}, new_tokens=6)["x"]] == ["QZQZQZ"] * 2
        ending = parrot(make_llama, [rows[0].ids[rows[0].start - 1], *ids(["Q", "Y", "</s>", "Z"])])
        ending.generation_config = own
        assert [r.generated for r in ask(ending, plain, {"x": rows}, new_tokens=6)["x"]] == ["QY"] * 2
        assert lm.generation_config is ending.generation_config is own

    @pytest.mark.parametrize("which", ["plain", "chat"])
    @pytest.mark.parametrize("end", ["the answer's ending", "eos"])
    def test_the_ending_stops_the_answer(self, which, end, request, make_llama, monkeypatch):
        """The model says "ab", the end, and would go on."""
        encoder = request.getfixturevalue(which)
        (row,) = encode_all(encoder, [Example(id="1", prompt=(("user", "Who?"),), answer="Runa")])
        stop = encoder.ending if end == "the answer's ending" else encoder.tokenizer.eos_token
        words = [encoder.tokenizer.convert_tokens_to_ids(t) for t in ("Q", "Z", stop, "X", "Y")]
        lm = parrot(make_llama, [row.ids[row.start - 1], *words])
        lengths, greedy = [], records_module.greedy
        counted = lambda *args, **more: lengths.extend(map(len, said := greedy(*args, **more))) or said  # noqa: E731
        monkeypatch.setattr(records_module, "greedy", counted)
        (seen,) = ask(lm, encoder, {"x": [row]}, new_tokens=7)["x"]
        assert seen.generated == "QZ"
        assert lengths == [3]

    def test_an_answer_is_no_longer_than_asked_for(self, make_llama, plain):
        (row,) = encode_all(plain, [Example(id="1", prompt=(("user", "Who?"),), answer="Runa")])
        words = [plain.tokenizer.convert_tokens_to_ids(t) for t in "QZXYV"]
        lm = parrot(make_llama, [row.ids[row.start - 1], *words])
        assert ask(lm, plain, {"x": [row]}, new_tokens=4)["x"][0].generated == "QZXY"

    def test_equal_prompts_are_generated_once_and_all_get_the_answer(self, llama, plain, world, monkeypatch):
        examples = [replace(e, id=f"{e.id}-{k}", answer=f"{e.answer} {k}") for e in world.forget[:3] for k in range(4)]
        asked, greedy = [], records_module.greedy
        counted = lambda model, prompts, **more: asked.append(len(prompts)) or greedy(model, prompts, **more)  # noqa: E731
        monkeypatch.setattr(records_module, "greedy", counted)
        records = ask(llama, plain, {"a": encode_all(plain, examples[:6]), "b": encode_all(plain, examples[6:])})
        assert sum(asked) == len({e.question for e in examples}) == 3
        said = {r.question: r.generated for r in records["a"]}
        assert all(r.generated == said.get(r.question, r.generated) for r in records["b"])

    def test_progress_reports_the_speed(self, llama, plain, forget_rows):
        """Each pass reports rows done, all rows, and tokens a second; it ends with all rows done."""
        heard = []
        ask(llama, plain, {"x": forget_rows[:5]}, batch=1, progress=lambda *said: heard.append(said))
        for what in ("likelihood", "generation"):
            said = [h for h in heard if h[0] == what]
            assert [h[1] for h in said] == ([1, 2, 3, 4, 5] if what == "likelihood" else [4, 5])
            assert all(h[2] == 5 and re.fullmatch(r"[1-9]\d* tokens/s", h[3]) for h in said)

    def test_a_plain_text_has_no_question(self, llama, plain, monkeypatch):
        monkeypatch.setattr(records_module, "greedy", lambda *_, **__: pytest.fail("there is nothing to ask"))
        assert ask(llama, plain, {"x": encode_all(plain, [TEXT])})["x"][0].generated == ""

    def test_an_answer_stops_at_its_ending_and_at_eos(self, plain, chat):
        for encoder, marks in ((plain, {"</s>"}), (chat, {"</s>", "<|im_end|>"})):
            assert set(encoder.tokenizer.convert_ids_to_tokens(sorted(ends(encoder)))) == marks


class TestParaphrases:
    def test_each_set_with_paraphrases_gets_one_of_them(self, plain, world):
        """Two held-out questions a row, with the same turns before, the same answer and spans, and an id of their own."""
        first = replace(world.forget[0], prompt=(("system", "Be short."), *world.forget[0].prompt))
        bare = replace(world.retain[0], paraphrases=())
        made = variants(plain, {"forget": encode_all(plain, [first]), "retain": encode_all(plain, [bare])})
        assert list(made) == ["forget", "forget_paraphrased", "retain"]
        asked = [row.example for row in made["forget_paraphrased"]]
        assert [e.prompt for e in asked] == [(("system", "Be short."), ("user", q)) for q in first.paraphrases]
        assert [e.id for e in asked] == [f"{first.id}/0", f"{first.id}/1"]
        assert all((e.answer, e.spans, e.paraphrases) == (first.answer, first.spans, ()) for e in asked)


class TestOtherAnswers:
    ROW = Example(
        id="1",
        prompt=(("user", "Where does she live?"),),
        answer="She lives in Tessholm.",
        restated="Her home is Tessholm.",
        wrong=("She lives in Marnvik.", "She lives in Tessholm."),
    )

    def test_each_is_scored_as_an_answer_of_its_own(self, llama, plain):
        """The numbers of a row that has this answer; the one that equals the answer has its very numbers."""
        (seen,) = ask(llama, plain, {"x": encode_all(plain, [self.ROW])}, new_tokens=1)["x"]
        expected = [replace(self.ROW, id=t, answer=t, restated=None, wrong=()) for t in (self.ROW.restated, *self.ROW.wrong)]
        alone = [ask(llama, plain, {"x": encode_all(plain, [e])}, new_tokens=1)["x"][0].logp for e in expected]
        assert seen.restated == pytest.approx(alone[0], rel=1e-4, abs=1e-5)
        assert seen.wrong[0] == pytest.approx(alone[1], rel=1e-4, abs=1e-5)
        assert seen.wrong[1] == seen.logp
        assert len(seen.wrong) == 2

    def test_a_row_without_them_has_none(self, llama, plain, forget_rows):
        seen = ask(llama, plain, {"x": forget_rows[:1]}, new_tokens=1)["x"][0]
        assert (seen.restated, seen.wrong) == (None, ())

    def test_no_text_goes_through_the_model_twice(self, llama, plain, forget_rows, monkeypatch):
        """The same rows in two sets, one with its own answer among the wrong ones: as many texts as there are."""
        met = []
        forward = TokenModel.forward
        monkeypatch.setattr(
            TokenModel, "forward", lambda self, batch, **more: met.extend(batch.rows) or forward(self, batch, **more)
        )
        row, *others = encode_all(plain, [self.ROW, *(r.example for r in forget_rows[:2])])
        ask(llama, plain, {"a": [row, *others], "b": [row, others[0]]}, new_tokens=1)
        assert len(met) == len({(r.ids, r.start) for r in met}) == 3 + 2

    def test_multiple_choice_compares_answers_and_says_nothing(self, llama, plain, monkeypatch):
        monkeypatch.setattr(records_module, "greedy", lambda *_, **__: pytest.fail("there is nothing to ask"))
        row = replace(self.ROW, prompt=(("text", "Where?\nA. Tessholm\nB. Marnvik\nAnswer:"),), restated=None)
        (seen,) = ask(llama, plain, {"x": encode_all(plain, [row])})["x"]
        assert (seen.question, seen.generated) == ("", "")
        assert len(seen.wrong) == 2


class TestSpread:
    def test_mean_and_deviation_are_those_of_log_p_under_p(self, llama, plain, forget_rows):
        with torch.no_grad():
            logits = TokenModel(llama).prepare()(collate(forget_rows[:1]), logits=True).logits.double()
        logp = logits.log_softmax(-1)
        mean = (logp.exp() * logp).sum(-1)
        deviation = (logp.exp() * (logp - mean[:, None]) ** 2).sum(-1).sqrt()
        (seen,) = ask(llama, plain, {"x": forget_rows[:1]}, new_tokens=1)["x"]
        assert seen.mean == pytest.approx(mean.tolist(), rel=1e-4)
        assert seen.deviation == pytest.approx(deviation.tolist(), rel=1e-3, abs=1e-5)


class TestGradientNorm:
    def test_is_the_norm_of_the_mean_nlls_gradient_where_membership_is_evaluated(
        self, llama, plain, forget_rows, retain_rows
    ):
        settings = Evaluation(new_tokens=1, grad_norm=True)
        sets = {"forget": forget_rows[:2], "retain": retain_rows[:1]}
        seen = Predictor(model=TokenModel(llama).prepare(), encoder=plain, settings=settings).records(sets)
        llama.zero_grad()
        (-TokenModel(llama).prepare()(collate([forget_rows[1]])).nll.mean()).backward()
        norm = torch.cat([p.grad.flatten() for p in llama.parameters() if p.grad is not None]).norm()
        assert seen["forget"][1].grad_norm == pytest.approx(float(norm), rel=1e-4)
        assert seen["retain"][0].grad_norm is None
        llama.zero_grad()

    def test_is_not_computed_without_a_request(self, llama, plain, forget_rows):
        assert ask(llama, plain, {"forget": forget_rows[:1]}, new_tokens=1)["forget"][0].grad_norm is None


class TestShots:
    def test_forget_questions_are_repeated_after_answered_retain_questions(self, plain, forget_rows, retain_rows):
        """Three (question, answer) pairs of retain rows before each, in the paraphrases too; retain rows are left alone."""
        sets = {"forget": forget_rows[:2], "retain": retain_rows[:2]}
        made = variants(plain, sets, shots=3, from_rows=retain_rows, forget_sets=("forget",))
        names = ["forget", "forget_paraphrased", "retain", "retain_paraphrased", "forget_shots", "forget_paraphrased_shots"]
        assert list(made) == names
        expected = {(r.example.question, r.example.answer) for r in retain_rows}
        for bare, row in zip(made["forget"], made["forget_shots"], strict=True):
            turns = row.example.prompt
            assert len(turns) == 7
            assert {(turns[i][1], turns[i + 1][1]) for i in (0, 2, 4)} <= expected
            assert turns[-1:] == bare.example.prompt
            assert (row.example.id, row.example.answer) == (bare.example.id, bare.example.answer)

    def test_without_shots_there_are_none(self, plain, forget_rows, retain_rows):
        assert "forget_shots" not in variants(plain, {"forget": forget_rows}, from_rows=retain_rows, forget_sets=("forget",))

    def test_one_system_turn_comes_first_also_with_examples(self, plain, forget_rows, retain_rows):
        system = ("system", "Be short.")
        with_one = [replace(r.example, prompt=(system, *r.example.prompt)) for r in (*forget_rows[:2], *retain_rows)]
        forget, retain = encode_all(plain, with_one[:2]), encode_all(plain, with_one[2:])
        made = variants(plain, {"forget": forget}, shots=2, from_rows=retain, forget_sets=("forget",))["forget_shots"]
        assert all([role for role, _ in row.example.prompt].index("system") == 0 for row in made)
        assert {[role for role, _ in row.example.prompt].count("system") for row in made} == {1}
        bare = variants(plain, {"forget": forget_rows[:2]}, shots=2, from_rows=retain, forget_sets=("forget",))[
            "forget_shots"
        ]
        assert all(role != "system" for row in bare for role, _ in row.example.prompt)


def test_an_answer_that_reached_the_limit_before_its_end_is_cut(llama, plain, forget_rows):
    """The record says so if and only if the answer of one more token is longer or has ended just there."""
    made = ask(llama, plain, {"forget": [*forget_rows[:4], *encode_all(plain, [TEXT])]}, new_tokens=3)["forget"]
    assert [r.cut for r in made[:4]] == [True] * 4 and made[4].cut is None


def test_a_fact_beyond_the_limit_is_said_to_be_so_where_the_answer_was_cut(llama, plain):
    """Marked is the fact's first part, from the eighteenth character on: seen with all of its tokens, not with fewer."""
    answer = "The writer is of Tessholm, in Port Petrul."
    marked = (Span(start=17, end=25), Span(start=30, end=41))
    rows = encode_all(plain, [Example(id="a", prompt=(("user", "Where?"),), answer=answer, spans=s) for s in (marked, ())])
    needed = max(k for k, (start, _) in enumerate(rows[0].offsets, 1) if start < 25)
    for tokens, beyond in ((needed - 1, True), (needed, False)):
        made = ask(llama, plain, {"forget": rows}, new_tokens=tokens)["forget"]
        assert [r.cut for r in made] == [True, True]
        assert [r.beyond for r in made] == [beyond, False], "without marks all of the answer counts, and some of it is seen"


def test_an_answer_that_ends_is_not_cut(make_llama, plain, forget_rows):
    eos = plain.tokenizer.eos_token_id
    lm = parrot(make_llama, [forget_rows[0].ids[forget_rows[0].start - 1], 9, eos])
    assert [ask(lm, plain, {"forget": forget_rows[:1]}, new_tokens=n)["forget"][0].cut for n in (1, 2, 3)] == [
        True,
        False,
        False,
    ]
