"""An example becomes ids, scored tokens and their characters."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from deleatur.data.encode import check_tokenizer, encode_all, make_encoder
from deleatur.errors import DataError, ModelError
from deleatur.settings import Data
from deleatur.types import Example, Span

ANSWER = "Runa was born in Tessholm."
QA = Example(id="1", prompt=(("user", "Where was Runa born?"),), answer=ANSWER)
TURNS = (("system", "Be short."), ("user", "Who is Runa?"), ("assistant", "A writer."), ("user", "Born where?"))
TEXT = Example(id="t", prompt=(), answer=ANSWER)


def scored(encoder, encoded) -> str:
    return encoder.tokenizer.decode(encoded.ids[encoded.start :])


def asked(encoder, encoded) -> str:
    return encoder.tokenizer.decode(encoded.ids[: encoded.start])


def span(text: str, *, keep: bool = False, answer: str = ANSWER) -> Span:
    return Span(start=answer.index(text), end=answer.index(text) + len(text), keep=keep)


class TestPlain:
    def test_the_answer_and_the_eos_are_scored(self, plain):
        encoded = plain(QA)
        assert asked(plain, encoded) == "<s>Question: Where was Runa born?\nAnswer:"
        assert scored(plain, encoded) == f" {ANSWER}</s>"

    def test_each_turn_is_a_question_with_its_answer(self, plain):
        """The system prompt stands before the first question; the last answer is left open."""
        encoded = plain(Example(id="1", prompt=TURNS, answer=ANSWER))
        told = "<s>Question: Be short.\nWho is Runa?\nAnswer: A writer.\n\nQuestion: Born where?\nAnswer:"
        assert asked(plain, encoded) == told

    def test_a_template_is_not_used_with_the_plain_layout(self, chat):
        encoder = make_encoder(chat.tokenizer, Data(template="plain"))
        assert asked(encoder, encoder(QA)).startswith("<s>Question: ")

    def test_a_tokenizer_that_closes_texts_itself_adds_no_second_eos(self, make_tokenizer):
        """Such a tokenizer writes "<s> … </s>"; the answer has one end all the same."""
        tokenizer = make_tokenizer()
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
        encoder = make_encoder(tokenizer, Data())
        assert scored(encoder, encoder(QA)) == f" {ANSWER}</s>"
        assert scored(encoder, encoder(TEXT)) == ANSWER


class TestChat:
    def test_the_answer_and_the_end_of_turn_are_scored_without_the_newline_after_it(self, chat):
        encoded = chat(QA)
        assert asked(chat, encoded) == "<|im_start|>user\nWhere was Runa born?<|im_end|>\n<|im_start|>assistant\n"
        assert scored(chat, encoded) == f"{ANSWER}<|im_end|>"

    def test_all_turns_are_evaluated(self, chat):
        encoded = chat(Example(id="1", prompt=TURNS, answer=ANSWER))
        said = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in TURNS)
        assert asked(chat, encoded) == f"{said}<|im_start|>assistant\n"

    def test_an_end_of_turn_that_is_the_eos_is_scored_once(self, make_tokenizer):
        """Zephyr's kind: every turn ends with the eos."""
        template = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>\n{% endfor %}"
        tokenizer = make_tokenizer(template + "{% if add_generation_prompt %}assistant: {% endif %}")
        encoder = make_encoder(tokenizer, Data())
        assert scored(encoder, encoder(QA)) == f"{ANSWER}</s>"

    def test_the_blank_that_a_template_sets_before_an_answer_is_set(self, make_tokenizer):
        """Llama-2's kind: the prompt ends with [/INST] and a blank comes before the answer, in the same token as it."""
        template = (
            "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
            "{% else %} {{ m.content }} </s>{% endif %}{% endfor %}"
        )
        encoder = make_encoder(make_tokenizer(template), Data())
        encoded = encoder(QA)
        assert asked(encoder, encoded) == "[INST] Where was Runa born? [/INST]"
        assert scored(encoder, encoded) == f" {ANSWER} </s>"
        assert encoded.offsets[-1] == (len(ANSWER), len(ANSWER))

    def test_what_a_template_writes_before_an_answer_and_not_into_its_generation_prompt_is_not_scored(self, make_tokenizer):
        """Reasoning templates set an empty thought before an answer that is trained on, and not before a generated one."""
        template = (
            "{% for m in messages %}{% if m.role == 'user' %}Q {{ m.content }}{% else %}A <think></think>{{ m.content }}</s>"
            "{% endif %}{% endfor %}{% if add_generation_prompt %}A {% endif %}"
        )
        encoder = make_encoder(make_tokenizer(template), Data())
        assert asked(encoder, encoder(QA)) == "Q Where was Runa born?A <think></think>"
        assert scored(encoder, encoder(QA)) == f"{ANSWER}</s>"

    def test_a_template_that_writes_the_bos_gets_no_second_one(self, make_tokenizer):
        """Llama-3's kind writes <s> itself, and a tokenizer that adds one would make two."""
        template = "<s>{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
        encoder = make_encoder(make_tokenizer(template), Data())
        assert encoder(QA).ids.count(encoder.tokenizer.bos_token_id) == 1

    @pytest.mark.parametrize("template", ["hello", "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"])
    def test_a_template_that_leaves_the_answer_out_is_refused(self, template, make_tokenizer):
        with pytest.raises(ModelError, match="leaves the answer out, or changes it; fix it, or give"):
            make_encoder(make_tokenizer(template), Data())

    @pytest.mark.parametrize("template", ["{% for", "{{ ''.__class__.mro() }}", "{{ messages[9].content }}", "{{ 1 / 0 }}"])
    def test_a_template_that_fails_is_an_error_of_one_line(self, template, make_tokenizer):
        with pytest.raises(DataError, match=r"refuses the turns .*; fix the template, or give --data"):
            make_encoder(make_tokenizer(template), Data())

    def test_turns_that_the_template_refuses_are_a_data_error(self, make_tokenizer):
        template = (
            "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
            "{{ m.content }}<|im_end|>{% endfor %}"
        )
        encoder = make_encoder(make_tokenizer(template), Data())
        with pytest.raises(DataError, match=r"the chat template refuses the turns \['system', 'user'.*no system"):
            encoder(Example(id="1", prompt=TURNS, answer=ANSWER))


class TestText:
    """A text without a prompt is all answer: everything that something stands before is scored, and nothing ends it."""

    def test_after_a_bos_every_token_is_scored_and_no_end_is_added(self, plain):
        encoded = plain(TEXT)
        assert asked(plain, encoded) == "<s>"
        assert scored(plain, encoded) == ANSWER

    def test_without_a_bos_all_but_the_first_token_are_scored(self, make_tokenizer):
        tokenizer = make_tokenizer()
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        encoder = make_encoder(tokenizer, Data())
        encoded = encoder(TEXT)
        assert encoded.start == 1
        assert tokenizer.decode(encoded.ids) == ANSWER
        assert encoded.offsets[0][0] > 0

    def test_a_chat_model_reads_a_text_after_its_bos_too(self, plain, chat):
        """A chat template has no part in a plain text, so the tokenizer opens it as it opens any other."""
        assert chat(TEXT).ids == plain(TEXT).ids

    def test_a_text_of_one_token_without_a_bos_leaves_nothing_to_score(self, make_tokenizer):
        tokenizer = make_tokenizer()
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        with pytest.raises(DataError, match="row t: "):
            make_encoder(tokenizer, Data())(Example(id="t", prompt=(), answer="R"))


class TestContinued:
    """Behind a prompt of the single role "text" the answer goes on: no template, no ending, and only the answer scored."""

    @pytest.mark.parametrize("which", ["plain", "chat"])
    def test_the_prompt_is_unchanged_and_nothing_ends_the_answer(self, which, request):
        encoder = request.getfixturevalue(which)
        encoded = encoder(Example(id="c", prompt=(("text", "Where was Runa born? "),), answer=ANSWER))
        assert asked(encoder, encoded) + scored(encoder, encoded) == f"<s>Where was Runa born? {ANSWER}"
        assert scored(encoder, encoded).lstrip() == ANSWER, "the blank may share a token with the answer or with none"
        assert encoded.offsets[0][0] == 0 and encoded.offsets[-1][1] == len(ANSWER)
        assert all(a < b for a, b in encoded.offsets), "no token stands outside the answer, as an ending would"

    def test_it_has_the_ids_of_the_complete_text(self, plain, chat):
        whole = Example(id="t", prompt=(), answer=f"Runa. {ANSWER}")
        parted = Example(id="t", prompt=(("text", "Runa. "),), answer=ANSWER)
        assert plain(parted).ids == chat(parted).ids == plain(whole).ids
        assert plain(parted).start > plain(whole).start

    def test_a_letter_is_one_scored_token(self, plain):
        """The blank belongs to the letter's token, as a model writes it."""
        encoded = plain(Example(id="m", prompt=(("text", "A. cube\nB. ball\nAnswer: "),), answer="B"))
        assert scored(plain, encoded) == " B"
        assert asked(plain, encoded).endswith("\nAnswer:")
        assert set(encoded.offsets) <= {(0, 0), (0, 1)} and encoded.offsets[-1] == (0, 1)

    def test_the_tokens_of_a_span_are_gold(self, plain):
        example = Example(id="s", prompt=(("text", "So: "),), answer=ANSWER, spans=(span("Tessholm"),))
        encoded = plain(example)
        gone = [i for i, must_go in zip(encoded.ids[encoded.start :], encoded.gold, strict=True) if must_go]
        assert plain.tokenizer.decode(gone).strip() == "Tessholm"

    def test_a_last_token_that_is_lost_is_noticed(self, plain):
        example = Example(id="s", prompt=(("text", "So: "),), answer=ANSWER)
        short = make_encoder(plain.tokenizer, Data(max_length=len(plain(example).ids) - 1))
        assert short(example).cut and not plain(example).cut


class TestLength:
    """Rows that do not fit are cut at the answer's end, and counted; the prompt is never cut."""

    def cut(self, encoder, tokens: int, example: Example = QA):
        short = make_encoder(encoder.tokenizer, Data(max_length=tokens))
        return short, short(example)

    def test_the_answers_end_goes_first(self, plain):
        whole = plain(QA)
        short, encoded = self.cut(plain, len(whole.ids) - 4)
        assert encoded.ids == whole.ids[:-4]
        assert encoded.offsets == whole.offsets[:-4]
        assert encoded.start == whole.start
        assert short.is_cut(encoded)

    def test_a_row_that_just_fits_is_not_cut(self, plain):
        whole = plain(QA)
        short, encoded = self.cut(plain, len(whole.ids))
        assert encoded == whole
        assert not short.is_cut(encoded)
        assert not plain.is_cut(whole)

    def test_a_row_that_loses_only_the_last_bytes_of_a_character_is_cut(self, plain):
        """An unknown emoji is four tokens of one byte each; with two of them gone the answer is not whole."""
        example = Example(id="e", prompt=QA.prompt, answer="Runa 🦩")
        whole = plain(example)
        assert [o for o in whole.offsets if o == (5, 6)] == [(5, 6)] * 4, "the emoji is four tokens"
        short, encoded = self.cut(plain, len(whole.ids) - 3, example)
        assert encoded.offsets[-1] == (5, 6)
        assert short.is_cut(encoded)

    def test_a_row_that_loses_only_its_end_of_turn_is_cut(self, plain):
        short, encoded = self.cut(plain, len(plain(QA).ids) - 1)
        assert encoded.offsets[-1][1] == len(ANSWER)
        assert short.is_cut(encoded)

    def test_a_text_that_loses_its_last_character_is_cut(self, plain):
        whole = plain(TEXT)
        short, encoded = self.cut(plain, len(whole.ids) - 1, TEXT)
        assert short.is_cut(encoded)
        assert not plain.is_cut(whole)

    def test_a_prompt_that_leaves_no_room_is_refused_with_what_to_do(self, plain):
        start = plain(QA).start
        needed = (
            rf"row 1: the prompt takes {start} tokens.*max_length \({start}\).*raise data\.max_length or shorten the row"
        )
        with pytest.raises(DataError, match=needed):
            self.cut(plain, start)

    def test_one_token_of_answer_is_enough(self, plain):
        short, encoded = self.cut(plain, plain(QA).start + 1)
        assert len(encoded.offsets) == 1
        assert short.is_cut(encoded)

    @pytest.mark.parametrize("text", ["Runa was born. ", "x", "7", " ", "👩\u200d🦩", "é"])
    @pytest.mark.parametrize("prompted", [True, False])
    def test_a_long_row_is_tokenised_at_its_beginning_only_and_comes_out_the_same(self, plain, text, prompted, monkeypatch):
        """As many characters as 40 texts of the longest length; with AHEAD out of reach the whole text is tokenised."""
        encoder = make_encoder(plain.tokenizer, Data(max_length=32))
        example = Example(id="x", prompt=QA.prompt if prompted else (), answer="a" + text * (40 * 32) + "b")
        quick = encoder(example)
        monkeypatch.setattr("deleatur.data.encode.AHEAD", 10**6)
        assert quick == encoder(example)
        assert quick.cut

    def test_a_row_of_ten_megabytes_is_encoded_at_once(self, plain):
        began = time.process_time()
        encoded = plain(Example(id="x", prompt=QA.prompt, answer="x" * 10**7))
        assert encoded.cut
        assert time.process_time() - began < 2


class TestOffsets:
    @pytest.mark.parametrize("which", ["plain", "chat"])
    def test_scored_tokens_cover_every_character_of_the_answer_in_order(self, which, request):
        encoder = request.getfixturevalue(which)
        encoded = encoder(QA)
        *inside, end = encoded.offsets
        assert end == (len(ANSWER), len(ANSWER))
        assert inside[0][0] == 0
        assert all(a[1] == b[0] for a, b in pairwise(inside))
        assert inside[-1][1] == len(ANSWER)

    def test_the_blank_that_plain_sets_before_an_answer_belongs_to_no_character(self, plain):
        """The first token is " R" or the like, its characters in the answer begin at 0 all the same."""
        encoded = plain(QA)
        first = plain.tokenizer.decode(encoded.ids[encoded.start])
        assert first.startswith(" ")
        assert encoded.offsets[0] == (0, len(first) - 1)

    @given(
        answer=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
        | st.text("aé\u0301👩\u200d🦩שלוםمرحبا\u202eनि　\n\t ", min_size=1, max_size=30),
        chatting=st.booleans(),
        prompted=st.booleans(),
    )
    def test_any_text_is_encoded_and_its_offsets_stay_inside_it(self, plain, chat, answer, chatting, prompted):
        """Emoji, right to left, combining marks, controls: never an error but for a text of which nothing is scored."""
        encoder = chat if chatting else plain
        example = Example(id="x", prompt=QA.prompt if prompted else (), answer=answer)
        try:
            encoded = encoder(example)
        except DataError as e:
            assert not prompted, e
            return
        assert len(encoded.offsets) == len(encoded.ids) - encoded.start > 0
        assert all(0 <= a <= b <= len(answer) for a, b in encoded.offsets)
        covered = {i for a, b in encoded.offsets for i in range(a, b)}
        assert not prompted or covered == set(range(len(answer))), "a byte-level tokenizer loses no character"
        assert not encoder.is_cut(encoded)


class TestGold:
    """Which scored tokens touch what must be forgotten."""

    def gold(self, encoder, *spans: Span) -> str | None:
        """The gold tokens, decoded."""
        encoded = encoder(Example(id="1", prompt=QA.prompt, answer=ANSWER, spans=spans))
        if encoded.gold is None:
            return None
        assert len(encoded.gold) == len(encoded.offsets)
        tokens = zip(encoded.ids[encoded.start :], encoded.gold, strict=True)
        return encoder.tokenizer.decode([i for i, must_go in tokens if must_go]).strip()

    def test_without_spans_nothing_is_known(self, plain):
        assert self.gold(plain) is None

    def test_tokens_that_touch_a_span_must_go_and_the_end_of_turn_never(self, plain):
        assert self.gold(plain, span("Tessholm")) == "Tessholm"
        assert self.gold(plain, span("Runa"), span("Tessholm")) == "Runa Tessholm"

    def test_a_span_inside_a_token_takes_the_token(self, plain):
        whole = plain(QA)
        a, b = next((a, b) for a, b in whole.offsets if b - a > 2)
        assert self.gold(plain, Span(start=a + 1, end=a + 2)) == ANSWER[a:b].strip()

    def test_with_only_keep_spans_all_the_rest_must_go(self, plain):
        """The end of turn is no character of the answer, so it is not "the rest"."""
        assert self.gold(plain, span("Runa was born in", keep=True)) == "Tessholm."

    def test_with_both_kinds_only_what_is_marked_to_forget_must_go(self, plain):
        assert self.gold(plain, span("Tessholm"), span("Runa", keep=True)) == "Tessholm"

    @given(
        answer=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip).map(str.strip)
        | st.text("aé\u0301👩\u200d🦩שלוםمرحبا\u202eनि　b", min_size=1, max_size=20).filter(str.strip).map(str.strip),
        chatting=st.booleans(),
        keep=st.booleans(),
        data=st.data(),
    )
    def test_a_span_at_any_character_takes_the_tokens_over_it_and_no_others(self, plain, chat, answer, chatting, keep, data):
        """What is scored reads as the answer; a token is gold where one of its characters is (or, of kept ones, is not)."""
        start = data.draw(st.integers(0, len(answer) - 1))
        span = Span(start=start, end=data.draw(st.integers(start + 1, len(answer))), keep=keep)
        encoder = chat if chatting else plain
        encoded = encoder(Example(id="x", prompt=QA.prompt, answer=answer, spans=(span,)))
        assert scored(encoder, encoded).strip() == (answer + encoder.ending).strip()
        inside = [bool({*range(a, b)} & {*range(span.start, span.end)}) for a, b in encoded.offsets]
        assert encoded.gold == tuple(
            a < b and touched is not keep for (a, b), touched in zip(encoded.offsets, inside, strict=True)
        )


class TestMakeEncoder:
    def test_a_slow_tokenizer_is_refused(self, make_tokenizer):
        tokenizer = make_tokenizer()

        class Slow(type(tokenizer)):
            is_fast = False

        tokenizer.__class__ = Slow
        with pytest.raises(ModelError, match="use the model's fast tokenizer"):
            make_encoder(tokenizer, Data())

    def test_a_tokenizer_without_eos_is_refused(self, make_tokenizer):
        tokenizer = make_tokenizer()
        tokenizer.eos_token = None
        with pytest.raises(ModelError, match=r"no eos token.*set tokenizer.eos_token"):
            make_encoder(tokenizer, Data())

    def test_chat_without_a_template_is_refused(self, make_tokenizer):
        with pytest.raises(ModelError, match="no chat template; use plain"):
            make_encoder(make_tokenizer(), Data(template="chat"))

    def test_rows_keep_their_order(self, plain, world):
        assert [e.example for e in encode_all(plain, world.forget)] == list(world.forget)


@pytest.mark.parametrize("given", ["a name", None, object()])
def test_another_object_than_a_tokenizer_is_refused(given):
    with pytest.raises(ModelError, match=r"the tokenizer is a \w+; give what AutoTokenizer"):
        check_tokenizer(given)
