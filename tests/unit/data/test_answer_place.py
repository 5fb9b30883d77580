"""An answer stands where the chat template's own rendering has it, in the manner of every family of templates."""

from __future__ import annotations

import pytest

from deleatur.data.encode import encode_all, encode_rows, make_encoder
from deleatur.errors import DataError, ModelError
from deleatur.settings import Data
from deleatur.types import Example

ANSWER = "Runa was born in Tessholm."
TURNS = (("user", "Who is Runa?"), ("assistant", "A writer."), ("user", "Where was she born?"))
SYSTEM = (("system", "Be short."), *TURNS)
TURN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n"
    "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} </s>{% endif %}{% endfor %}"
)
HEADER = "<|im_start|>{{ m.role }}<|im_end|>\n\n{{ m.content | trim }}</s>"
LLAMA_3 = (
    "<s>{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    f"Today: {{{{ date_string }}}}</s>{{% for m in messages %}}{HEADER}{{% endfor %}}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_end|>\n\n{% endif %}"
)
CHANNEL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}{% if m.role == 'assistant' %}<channel>final{% endif %}<message>"
    "{{ m.content }}{% if m.role == 'assistant' and loop.last %}</s>{% else %}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
FAMILIES = {  # each as its family writes turns, with this tokenizer's marks
    "ChatML": TURN + ASK,
    "ChatML with a system turn of its own": "{% if messages[0].role != 'system' %}<|im_start|>system\nHelp.<|im_end|>\n"
    "{% endif %}" + TURN + ASK,
    "Llama 2": LLAMA_2,
    "Llama 3": LLAMA_3,
    "Mistral": LLAMA_2.replace(" {{ m.content }} </s>", "{{ m.content }}</s>"),
    "Gemma": "{% for m in messages %}<start_of_turn>{{ m.role | replace('assistant', 'model') }}\n{{ m.content }}</s>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    "Qwen 3": THINKING
    + ASK.replace("assistant\n", "assistant\n{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"),
    "a thought that only the rendering closes": THINKING + ASK,
    "a block that the generation prompt opens and the rendering closes": THINKING
    + ASK.replace("assistant\n", "assistant\n<think>\n"),
    "the same, closed otherwise": THINKING.replace("\n\n</think>\n\n", "</think>")
    + ASK.replace("assistant\n", "assistant\n<think>\n"),
    "GLM": TURN.replace("\n{{ m", "\n{% if m.role == 'assistant' %}<think></think>\n{% endif %}{{ m")
    + ASK.replace("assistant\n", "assistant\n<think></think>"),
    "channels": CHANNEL,
    "no mark before an answer": "{% for m in messages %}{{ m.content }}</s>{% endfor %}",
}
OPEN = TURN + ASK.replace("assistant\n", "assistant\n<think>\n")


def whole(tokenizer, turns) -> str:
    messages = [{"role": role, "content": content} for role, content in (*turns, ("assistant", ANSWER))]
    return tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False, date_string="10 Apr 2025")


def texts(encoder, turns=TURNS, **more) -> tuple[str, str]:
    encoded = encoder(Example(id="1", prompt=turns, answer=ANSWER, **more))
    return encoder.tokenizer.decode(encoded.ids[: encoded.start]), encoder.tokenizer.decode(encoded.ids[encoded.start :])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("turns", [TURNS[:1], TURNS], ids=["one question", "several turns"])
def test_prompt_answer_and_ending_begin_the_templates_own_rendering(family, turns, make_tokenizer):
    tokenizer = make_tokenizer(FAMILIES[family])
    before, scored = texts(make_encoder(tokenizer, Data()), turns)
    assert whole(tokenizer, turns).startswith(before + scored)
    assert scored.lstrip().startswith(ANSWER) and scored.endswith(("</s>", "<|im_end|>"))


def test_a_block_that_nothing_closes_holds_the_models_own_reasoning(make_tokenizer):
    """Reasoning stands in the prompt and is not scored; without it, as in rows that are shown, the block is empty."""
    encoder = make_encoder(make_tokenizer(OPEN), Data())
    assert encoder.reasons
    before, scored = texts(encoder, reasoning="So.\n")
    assert before.endswith("<|im_start|>assistant\n<think>\nSo.\n</think>\n\n")
    assert scored == f"{ANSWER}<|im_end|>"
    assert texts(encoder)[0].endswith("<|im_start|>assistant\n<think>\n</think>\n\n")


@pytest.mark.parametrize(
    "mark", [("[THINK]", "[/THINK]"), ("<|START_THINKING|>", "<|END_THINKING|>"), ("<seed:think>", "</seed:think>")]
)
def test_other_marks_of_such_blocks_are_known(mark, make_tokenizer):
    encoder = make_encoder(make_tokenizer(OPEN.replace("<think>", mark[0])), Data())
    assert texts(encoder, reasoning="So.")[0].endswith(f"{mark[0]}\nSo.{mark[1]}\n\n")


def test_a_generation_prompt_that_closes_what_it_opens_is_taken_as_it_is(make_tokenizer):
    """The rendering of the past leaves the empty thought out, and the model is asked behind it all the same."""
    encoder = make_encoder(make_tokenizer(TURN + ASK.replace("assistant\n", "assistant\n<think>\n\n</think>\n\n")), Data())
    assert not encoder.reasons and texts(encoder)[0].endswith("<think>\n\n</think>\n\n")


def test_two_places_that_cannot_be_reconciled_are_refused_with_the_remedy(make_tokenizer):
    template = TURN + ASK.replace("<|im_start|>assistant", "reply now:")
    with pytest.raises(ModelError, match=r"asks for an answer behind .*reply now.*give --data.template plain"):
        make_encoder(make_tokenizer(template), Data())


@pytest.mark.parametrize("more", ["<|begin_of_thought|>\n\n", "Let me think step by step.\n"])
def test_what_the_generation_prompt_alone_has_is_no_place_for_an_answer(more, make_tokenizer):
    with pytest.raises(ModelError, match=r"asks for an answer behind .*give --data.template plain"):
        make_encoder(make_tokenizer(TURN + ASK.replace("assistant\n", f"assistant\n{more}")), Data())


@pytest.mark.parametrize(
    ("form", "printed"), [("%-d %B", "5 April"), ("%F", "2025-04-05"), ("%-m/%-d/%Y", "4/5/2025"), ("%e %b", " 5 Apr")]
)
@pytest.mark.parametrize("name", ["", "format="])
def test_every_form_of_a_date_is_the_runs(form, printed, name, make_tokenizer):
    template = f"{{{{ strftime_now({name}'{form}') }}}}|" + FAMILIES["Llama 3"]
    encoder = make_encoder(make_tokenizer(template), Data(date="2025-04-05"))
    assert texts(encoder)[0].startswith(f"{printed}|")


@pytest.mark.parametrize("family", ["Llama 3", "channels"])
def test_a_template_that_prints_todays_date_gets_the_runs(family, make_tokenizer):
    template = "{{ strftime_now('%Y-%m-%d') }}" + FAMILIES[family]
    encoder = make_encoder(make_tokenizer(template), Data(date="2020-02-29"))
    assert texts(encoder)[0].startswith("2020-02-29")
    if family == "Llama 3":
        assert "Today: 29 Feb 2020</s>" in texts(encoder)[0]


@pytest.mark.parametrize(
    "change", ["lower", "upper", "title", "replace('.', '')", "replace('was', 'is')", "escape", "e", "tojson", "truncate(8)"]
)
@pytest.mark.parametrize("of", ["assistant", "all"])
def test_a_template_that_writes_another_answer_is_refused_with_the_remedy(change, of, make_tokenizer):
    """Found at the row, since the probe may stay as it is; a row that the template leaves as it is goes."""
    written = f"(m.content | {change})"
    written = f"({written} if m.role == 'assistant' else m.content)" if of == "assistant" else written
    tokenizer = make_tokenizer((TURN + ASK).replace("m.content", written))
    with pytest.raises((DataError, ModelError), match=r"give --data.template plain"):
        encode_rows(make_encoder(tokenizer, Data()), [Example(id="r", prompt=TURNS[:1], answer='Runa <b> "was" Born.')])


def test_a_template_that_alters_some_answers_alone_takes_the_others(make_tokenizer):
    encoder = make_encoder(make_tokenizer((TURN + ASK).replace("m.content", "m.content | lower")), Data())
    with pytest.raises(DataError, match=r"row r: the chat template writes the answer otherwise than the row has it"):
        encode_rows(encoder, [Example(id="r", prompt=(("user", "where?"),), answer="Tessholm.")])
    assert encode_rows(encoder, [Example(id="r", prompt=(("user", "Where?"),), answer="in tessholm.")])[0].ids
    assert encoder(Example(id="r", prompt=(("user", "Where?"),), answer="Tessholm.")).ids  # as a model may say it


BARE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@pytest.mark.parametrize(
    ("family", "ending", "stops", "header"),
    [
        ("GLM 4", "", "<|im_start|>", ""),
        ("GLM 4 with an eos", "</s>", "</s>", ""),
        ("a line each", "\n", "", "\nuser:"),
        ("bullets", "\n", "", ""),
    ],
)
def test_an_answer_ends_as_in_a_finished_conversation(family, ending, stops, header, make_tokenizer):
    """With nothing of a next turn, where a generated answer stops all the same: at its first special token, or its words."""
    glm = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% endfor %}" + ASK
    eos = "{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}"
    templates = {"GLM 4": glm, "GLM 4 with an eos": glm.replace("{% endfor %}", eos)}
    templates["bullets"] = BARE.replace("{{ m.role }}:", "-") + "{% if add_generation_prompt %}- {% endif %}"
    bare = BARE + "{% if add_generation_prompt %}assistant: {% endif %}"
    tokenizer = make_tokenizer(templates.get(family, bare))
    encoder = make_encoder(tokenizer, Data())
    before, scored = texts(encoder)
    assert whole(tokenizer, TURNS) == before + scored and scored == ANSWER + ending
    assert set(tokenizer.convert_ids_to_tokens(sorted(encoder.stops))) == {"</s>", stops or "</s>"}
    said = encoder.tokens(f" Tessholm. {header} where?")
    assert encoder.answer_of(said) == (("Tessholm.", True) if header else ("Tessholm.  where?", False))


def test_a_template_that_takes_contents_in_parts_alone_is_refused_in_these_words(make_tokenizer):
    parts = "{% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
    with pytest.raises(
        ModelError, match=r"takes contents as lists of parts .* and leaves texts out; .*--data.template plain"
    ):
        make_encoder(make_tokenizer((TURN + ASK).replace("{{ m.content }}", parts)), Data())


@pytest.mark.parametrize("layout", ["own", "open-unlearning"])
@pytest.mark.parametrize("when", ["true", "messages[0].role == 'system'"])
def test_a_template_that_writes_the_answer_twice_is_refused_with_the_remedy(when, layout, make_tokenizer):
    """Once and for all, or at the row where it comes about; whoever encodes it."""
    twice = f"{{{{ m.content }}}}{{% if {when} and m.role == 'assistant' %}} ({{{{ m.content }}}}){{% endif %}}"
    tokenizer = make_tokenizer((TURN + ASK).replace("{{ m.content }}", twice))
    with pytest.raises(ModelError, match=r"writes an answer more than once; .*give --data.template plain"):
        encode_all(make_encoder(tokenizer, Data(layout=layout)), [Example(id="r", prompt=SYSTEM[:2], answer=ANSWER)])


@pytest.mark.parametrize("mark", ["<a>", "<assistant>", "[BOT]", "<|START_RESPONSE|>"])
def test_the_mark_of_a_role_is_no_block_for_reasoning(mark, make_tokenizer):
    with pytest.raises(ModelError, match=r"asks for an answer behind .*give --data.template plain"):
        make_encoder(make_tokenizer(TURN + ASK.replace("assistant\n", f"assistant\n{mark}\n")), Data())
    same = TURN.replace("<|im_start|>{{ m.role }}\n", f"{{% if m.role == 'user' %}}<q>{{% else %}}{mark}{{% endif %}}\n")
    encoder = make_encoder(make_tokenizer(same + ASK.replace("<|im_start|>assistant", mark)), Data())
    assert not encoder.reasons and texts(encoder)[0].endswith(f"{mark}\n")


class TestSystemTurns:
    GEMMA = FAMILIES["Gemma"].replace(
        "<start_of_turn>{{",
        "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}<start_of_turn>{{",
    )

    def test_a_template_that_refuses_one_names_the_remedy_which_works(self, make_tokenizer):
        tokenizer = make_tokenizer(self.GEMMA)
        with pytest.raises(DataError, match=r"System role not supported; give --data.fold-system"):
            make_encoder(tokenizer, Data())(Example(id="1", prompt=SYSTEM, answer=ANSWER))
        before, _ = texts(make_encoder(tokenizer, Data(fold_system=True)), SYSTEM)
        assert before.startswith("<start_of_turn>user\nBe short.\n\nWho is Runa?</s>")

    def test_a_template_that_drops_the_system_turn_silently_is_refused(self, make_tokenizer):
        encoder = make_encoder(
            make_tokenizer(FAMILIES["Mistral"].replace("{% else %}", "{% elif m.role == 'assistant' %}")), Data()
        )
        with pytest.raises(DataError, match=r"leaves the system turn out; give --data.fold-system"):
            encoder(Example(id="1", prompt=SYSTEM, answer=ANSWER))

    @pytest.mark.parametrize("template", [FAMILIES["ChatML"], None], ids=["chat", "plain"])
    def test_the_settings_one_is_for_rows_that_have_none(self, template, make_tokenizer):
        encoder = make_encoder(make_tokenizer(template), Data(system_prompt="Be long."))
        assert texts(encoder)[0].count("Be long.") == 1 and texts(encoder)[0].index("Be long.") < texts(encoder)[0].index(
            "Who"
        )
        assert "Be long." not in texts(encoder, SYSTEM)[0]


def test_a_block_is_closed_as_the_template_closes_it(make_tokenizer):
    """Where the template writes the reasoning that it is given; else with an empty line."""
    own = "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    encoder = make_encoder(make_tokenizer(OPEN.replace("{{ m.content }}", own)), Data())
    assert encoder.template.closing == "</think>"
    assert make_encoder(make_tokenizer(OPEN), Data()).template.closing == "</think>\n\n"
