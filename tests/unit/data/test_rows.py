"""The row reader: what is a row, what is not, and that every refusal is one DataError of one line."""

from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deleatur.data.rows import FORMS, read_rows, refuse_overlap, rows_from
from deleatur.errors import DataError
from deleatur.settings import Data
from deleatur.types import Example, Span

MANY = settings.default.max_examples
QA = {"question": "Who?", "answer": "Ada."}
CHAT = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}]


@pytest.fixture(autouse=True)
def no_root(monkeypatch):
    monkeypatch.delenv("DELEATUR_DATA", raising=False)


def write(path: Path, *rows: object) -> str:
    """A JSONL file of rows; strings go in as they stand."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def read(source: object, **kept) -> tuple[Example, ...]:
    return read_rows(str(source), settings=Data(**kept))


def refused(call, *words: str) -> str:
    """The message of the DataError that `call` has to raise: one line that holds all words."""
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and message.isprintable()
    assert not [word for word in words if word not in message], message
    return message


def refused_row(row: object, *words: str) -> str:
    return refused(lambda: rows_from([row]), "rows, row 1: ", *words)  # type: ignore[list-item]


class TestForms:
    @pytest.mark.parametrize("form", [form for form in FORMS if len(form) == 2], ids="/".join)
    def test_a_pair_of_columns_is_a_question_and_an_answer(self, form):
        (example,) = rows_from([{form[0]: "Who?", form[1]: "Ada."}])
        assert example == Example(id="rows-1", prompt=(("user", "Who?"),), answer="Ada.")

    @pytest.mark.parametrize("given", ["the text", " the text\n"])
    def test_an_input_follows_its_instruction_after_a_blank_line(self, given):
        (example,) = rows_from([{"instruction": "Sum up.", "input": given, "output": "Short."}])
        assert example.question == "Sum up.\n\n" + given.rstrip()

    @pytest.mark.parametrize("nothing", ["", None, " \n"])
    def test_an_empty_input_adds_nothing(self, nothing):
        assert rows_from([{"instruction": "Go.", "input": nothing, "output": "Gone."}])[0].question == "Go."

    def test_input_may_be_in_some_rows_only(self):
        rows = [{"instruction": "Go.", "output": "Gone."}, {"instruction": "Go.", "input": "x", "output": "Gone."}]
        assert [example.question for example in rows_from(rows)] == ["Go.", "Go.\n\nx"]

    def test_of_messages_the_last_is_the_answer_and_the_others_the_prompt(self):
        earlier = [{"role": "system", "content": "Be brief."}, *CHAT]
        (example,) = rows_from([{"messages": [*earlier, {"role": "user", "content": "Sure?"}, CHAT[-1]]}])
        asked = (("system", "Be brief."), ("user", "Who?"), ("assistant", "Ada."), ("user", "Sure?"))
        assert (example.prompt, example.answer) == (asked, "Ada.")

    def test_a_prompt_and_a_completion_may_be_lists_of_messages(self):
        assert rows_from([{"prompt": CHAT[:1], "completion": CHAT[1:]}]) == rows_from([{"messages": CHAT}])

    def test_a_text_has_no_prompt_and_is_unchanged(self):
        assert rows_from([{"text": " A tale.\n"}]) == (Example(id="rows-1", prompt=(), answer=" A tale.\n"),)

    def test_outer_whitespace_of_prompt_and_answer_goes_and_inner_stays(self):
        (example,) = rows_from([{"question": "\tWho \n was?\n", "answer": " Ada\n\nL. "}])
        assert (example.question, example.answer) == ("Who \n was?", "Ada\n\nL.")

    def test_optional_columns_are_kept(self):
        more = {"id": "a", "subject": "Ada", "paraphrases": ["Which one? "], "spans": [[0, 3]]}
        (example,) = rows_from([QA | more])
        assert example == Example(
            id="a",
            prompt=(("user", "Who?"),),
            answer="Ada.",
            subject="Ada",
            paraphrases=("Which one?",),
            spans=(Span(start=0, end=3),),
        )

    def test_an_answer_in_other_words_and_wrong_answers_are_kept(self):
        (example,) = rows_from([QA | {"restated": "It is Ada.\n", "wrong": ["Bob.", " Cy. "]}])
        assert (example.restated, example.wrong) == ("It is Ada.", ("Bob.", "Cy."))

    def test_wrong_answers_may_be_a_json_list_in_a_csv_cell(self):
        assert rows_from([QA | {"wrong": '["Bob."]'}])[0].wrong == ("Bob.",)

    def test_null_optional_columns_are_as_good_as_none(self):
        nothing = {"id": None, "subject": None, "paraphrases": None, "spans": None, "restated": " ", "wrong": None}
        assert rows_from([QA | nothing]) == rows_from([QA])

    def test_ignored_columns_are_gone_even_known_ones(self):
        assert rows_from([QA | {"level": 2, "subject": 7}], ignore=["level", "subject", "never seen"]) == rows_from([QA])

    def test_an_ignored_column_settles_a_doubt(self):
        assert rows_from([QA | {"text": "x"}], ignore=["text"]) == rows_from([QA])

    def test_a_hugging_face_data_set_is_read_like_a_list(self):
        from datasets import Dataset

        rows = [QA | {"spans": [{"start": 0, "end": 3, "keep": None}]}, QA | {"spans": None}]
        assert rows_from(Dataset.from_list(rows)) == rows_from(rows)  # type: ignore[arg-type]


class TestRefusedForms:
    def test_two_forms_in_one_row_are_a_doubt(self):
        refused_row(QA | {"text": "x"}, "question/answer and text", "--data.columns text=text takes no others")
        refused_row({"prompt": "p", "completion": "c", "gt": "g"}, "prompt/completion and prompt/gt")

    def test_columns_that_make_no_row_are_named_with_what_is_accepted(self):
        refused_row({"question": "Who?"}, "'question' fit no form", "question/answer", "messages", "paraphrases")
        refused_row({}, "(none) fit no form")

    def test_a_misspelt_column_is_refused_with_the_nearest_name(self):
        refused_row({"question": "Who?", "anwser": "Ada."}, "is 'anwser' meant as answer?")
        refused_row(QA | {"paraphrase": []}, "unknown column", "is 'paraphrase' meant as paraphrases?")

    def test_unknown_columns_are_all_named_and_how_to_drop_them(self):
        message = refused_row(QA | {"zz": 1, "level": 2}, "beside question/answer: 'level', 'zz'")
        assert "--data.ignore 'level' 'zz'" in message and "meant" not in message

    def test_a_name_that_is_there_is_not_offered_for_another(self):
        assert "meant" not in refused_row(QA | {"answers": "Ada."}, "unknown column", "'answers'")

    def test_input_belongs_to_an_instruction_and_paraphrases_to_a_question(self):
        refused_row(QA | {"input": "x"}, "unknown column beside question/answer: 'input'")
        refused_row({"text": "x", "paraphrases": ["y"]}, "unknown column beside text: 'paraphrases'")

    def test_rows_of_one_source_share_a_form(self, tmp_path):
        source = write(tmp_path / "mixed.jsonl", QA, "", {"text": "x"})
        refused(lambda: read(source), "mixed.jsonl, line 3", "text", "question/answer in ", "mixed.jsonl, line 1", "split")

    @pytest.mark.parametrize("row", ["a line", None, 5, ["a"], {5: "x"}, b"\x00"])
    def test_a_row_that_is_no_object_of_named_columns_is_refused(self, row):
        refused_row(row, "is not a row", "an object of named columns is needed")

    @pytest.mark.parametrize("value", [5, 1.5, True, ["Ada."], {"a": 1}, b"Ada."])
    def test_an_answer_that_is_no_text_is_refused(self, value):
        refused_row(QA | {"answer": value}, "answer is ", "must be text")

    @pytest.mark.parametrize("column", ["question", "answer"])
    @pytest.mark.parametrize("value", ["", " \n", None])
    def test_an_empty_question_or_answer_is_refused(self, column, value):
        refused_row(QA | {column: value}, f"{column} is empty", "drop the row")

    def test_an_empty_text_and_an_empty_paraphrase_are_refused(self):
        refused_row({"text": " \n"}, "text is empty")
        refused_row(QA | {"paraphrases": ["Who is it?", ""]}, "a paraphrase is empty")

    @pytest.mark.parametrize("column", ["question", "answer", "id", "subject"])
    @pytest.mark.parametrize(("letter", "shown"), [("\0", r"'\x00'"), ("\ud800", r"'\ud800'"), ("\udfff", r"'\udfff'")])
    def test_characters_that_are_no_text_are_refused(self, column, letter, shown):
        refused_row(QA | {column: f"Ada{letter}"}, f"{column} holds {shown} at character 3", "not text")

    @pytest.mark.parametrize("column", ["restated", "wrong"])
    def test_a_plain_text_has_no_other_answers(self, column):
        refused_row({"text": "x", column: ["y"]}, f"unknown column beside text: '{column}'")

    def test_other_answers_that_are_no_texts_are_refused(self):
        refused_row(QA | {"restated": 5}, "restated is 5, but must be text")
        refused_row(QA | {"wrong": "Bob."}, "wrong is ‹4 characters›, but must be a list")
        refused_row(QA | {"wrong": ["Bob.", ""]}, "a wrong answer is empty")
        refused_row(QA | {"wrong": ["Bob.", 5]}, "a wrong answer is 5, but must be text")

    def test_the_answer_itself_is_no_wrong_answer(self):
        refused_row(QA | {"wrong": ["Bob.", " Ada."]}, "the wrong answer ‹4 characters› is the answer itself")

    def test_long_values_are_shortened(self):
        assert len(refused_row(QA | {"spans": [["x" * 10**6, 5]]}, "the span [‹1000000 characters›, 5]")) < 400
        assert len(refused_row({"x" * 10**6: 1}, "fit no form")) < 800

    def test_numbers_too_long_to_print_are_refused_like_others(self):
        refused_row(QA | {"id": 10**5000}, "id is a huge int")
        refused_row(QA | {"spans": [[0, 10**5000]]}, "not in the answer of 4 characters")


class TestRefusedChats:
    @pytest.mark.parametrize(
        ("roles", "word"),
        [
            (["user"], "'user'"),
            (["assistant"], "'assistant'"),
            (["system", "assistant"], "'system', 'assistant'"),
            (["user", "assistant", "user"], "'user', 'assistant', 'user'"),
            ([], "(none)"),
        ],
    )
    def test_a_chat_has_to_end_in_a_question_and_an_answer(self, roles, word):
        turns = [{"role": role, "content": "x"} for role in roles]
        refused_row({"messages": turns}, f"the roles are {word}; a user turn")

    @pytest.mark.parametrize(
        "turn",
        [
            *("Who?", None, {}, {"content": "x"}, {"role": "tool", "content": "x"}, {"role": ["user"], "content": "x"}),
            {"role": "text", "content": "x"},
        ],
    )
    def test_a_turn_is_a_role_and_a_content(self, turn):
        refused_row({"messages": [turn, *CHAT]}, "turn 1 is ", "system, user or assistant")

    def test_what_else_a_turn_holds_is_named(self):
        refused_row({"messages": [{"role": "user", "content": "x", "name": "Bo"}, *CHAT]}, "turn 1 holds 'name' as well")

    def test_the_role_of_texts_that_go_on_is_for_benchmarks_alone(self):
        text = [{"role": "text", "content": "x"}]
        refused_row({"messages": [*text, CHAT[-1]]}, "turn 1 is ", "system, user or assistant")
        refused_row({"prompt": text, "completion": CHAT[1:]}, "turn 1 is ", "system, user or assistant")

    def test_null_keys_of_a_turn_are_as_good_as_none(self):
        assert rows_from([{"messages": [turn | {"name": None} for turn in CHAT]}]) == rows_from([{"messages": CHAT}])

    @pytest.mark.parametrize(("content", "word"), [(None, "empty"), (" ", "empty"), (5, "5"), ([{"text": "x"}], "text")])
    def test_the_content_of_a_turn_is_text(self, content, word):
        refused_row({"messages": [{"role": "user", "content": content}, CHAT[-1]]}, "the content of turn 1 is", word)

    @pytest.mark.parametrize("messages", ["Who?", 5, {"role": "user"}])
    def test_messages_that_are_no_list_are_refused(self, messages):
        refused_row({"messages": messages}, "messages is ", "must be a list")

    def test_a_completion_is_one_message(self):
        refused_row({"prompt": CHAT[:1], "completion": [*CHAT[1:], *CHAT]}, "alone in its completion")
        refused_row({"prompt": CHAT[:1], "completion": "Ada."}, "completion is ‹4 characters›", "list")
        refused_row({"prompt": "Who?", "completion": CHAT[1:]}, "completion is [", "must be text")


class TestIds:
    def test_ids_count_rows_from_one_after_the_file(self, tmp_path):
        assert [e.id for e in read(write(tmp_path / "gone.jsonl", QA, "", QA))] == ["gone-1", "gone-2"]

    def test_a_number_becomes_text(self):
        assert rows_from([QA | {"id": 7}])[0].id == "7"

    @pytest.mark.parametrize("value", [True, 1.5, ["a"]])
    def test_other_ids_are_refused(self, value):
        refused_row(QA | {"id": value}, "id is ", "must be text")

    def test_an_id_given_twice_is_refused_with_both_places(self, tmp_path):
        source = write(tmp_path / "a.jsonl", QA | {"id": 7}, QA, QA | {"id": "7"})
        refused(lambda: read(source), "a.jsonl, line 3: the id '7' is taken by ", "a.jsonl, line 1")

    def test_a_subject_is_text_and_paraphrases_are_a_list_of_text(self):
        refused_row(QA | {"subject": 7}, "subject is 7")
        refused_row(QA | {"paraphrases": "Which one?"}, "paraphrases is ‹10 characters›", "a JSON list")
        refused_row(QA | {"paraphrases": ["Which one?", 7]}, "a paraphrase is 7")


class TestSpans:
    @pytest.mark.parametrize(
        ("given", "span"),
        [
            ([0, 4], Span(start=0, end=4)),
            ((1, 2), Span(start=1, end=2)),
            ({"start": 0, "end": 1}, Span(start=0, end=1)),
            ({"start": 0, "end": 1, "keep": True}, Span(start=0, end=1, keep=True)),
            ({"start": 0, "end": 1, "keep": None}, Span(start=0, end=1)),
        ],
    )
    def test_a_span_is_a_pair_or_an_object(self, given, span):
        assert rows_from([QA | {"spans": [given]}])[0].spans == (span,)

    @pytest.mark.parametrize("given", [[-1, 2], [2, 2], [3, 1], [0, 5], {"start": 4, "end": 5}])
    def test_a_span_outside_the_answer_is_refused_with_its_length(self, given):
        refused_row(QA | {"spans": [given]}, "the span ", "the answer of 4 characters", "0 <= start < end <= 4")

    @pytest.mark.parametrize(
        "given",
        [
            *([0], [0, 1, 2], ["0", "1"], [0.0, 1.0], [False, True], "01", 5, None, {"start": 0}),
            *({"start": 0, "end": 1, "keep": 1}, {"start": 0, "end": 1, "kept": True}),
        ],
    )
    def test_a_span_of_another_shape_is_refused(self, given):
        refused_row(QA | {"spans": [given]}, "the span ", "cannot be used", "[start, end]")

    @pytest.mark.parametrize("given", [5, "0-3", {"start": 0, "end": 1}])
    def test_spans_that_are_no_list_are_refused(self, given):
        refused_row(QA | {"spans": given}, "spans is ", "must be a list")

    def test_spans_move_with_the_whitespace_that_goes(self):
        (example,) = rows_from([QA | {"answer": "\n  It is Ada. ", "spans": [[9, 12]]}])
        assert [example.answer[s.start : s.end] for s in example.spans] == ["Ada"]

    @pytest.mark.parametrize("given", [[0, 6], [6, 8]])
    def test_a_span_on_whitespace_that_goes_is_refused(self, given):
        refused_row(QA | {"answer": "   Ada.  ", "spans": [given]}, "of 4 characters", "3 <= start < end <= 7")

    def test_spans_in_a_text_count_its_whitespace(self):
        (example,) = rows_from([{"text": " Ada ", "spans": [[0, 5]]}])
        assert example.spans == (Span(start=0, end=5),)

    def test_forgetting_and_keeping_one_character_is_refused(self):
        wide, narrow = {"start": 0, "end": 4}, {"start": 1, "end": 2}
        for spans in ([wide, narrow | {"keep": True}], [wide | {"keep": True}, narrow], [narrow, wide | {"keep": True}]):
            refused_row(QA | {"spans": spans}, "to forget and to keep overlap at character")

    def test_spans_of_one_kind_may_overlap_and_others_may_touch(self):
        spans = [[0, 2], [1, 3], {"start": 3, "end": 4, "keep": True}]
        assert len(rows_from([QA | {"spans": spans}])[0].spans) == 3


class TestFiles:
    def test_all_kinds_of_files_give_the_same_rows(self, tmp_path):
        from datasets import Dataset

        rows = [QA | {"id": str(n), "paraphrases": ["Which one?"], "spans": [[0, 3]]} for n in range(3)]
        write(tmp_path / "a.jsonl", *rows)
        write(tmp_path / "a.ndjson", *rows)
        write(tmp_path / "a.json", rows)
        write(tmp_path / "b.json", {"version": 1, "tags": ["x"], "data": rows})
        Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
        with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(rows[0])
            writer.writerows([v if isinstance(v, str) else json.dumps(v) for v in row.values()] for row in rows)
        read_in = {path.name: read(path) for path in tmp_path.iterdir()}
        assert len(read_in) == 6
        assert set(read_in.values()) == {rows_from(rows)}

    def test_a_folder_is_all_its_files_by_name(self, tmp_path):
        write(tmp_path / "b.jsonl", QA)
        write(tmp_path / "a.json", [QA, QA])
        write(tmp_path / ".hidden.jsonl", "no JSON")
        (tmp_path / "notes.txt").write_text("no rows")
        assert [e.id for e in read(tmp_path)] == ["a-1", "a-2", "b-1"]

    def test_a_folder_without_rows_is_refused(self, tmp_path):
        (tmp_path / "notes.txt").write_text("no rows")
        refused(lambda: read(tmp_path), str(tmp_path), "folder holds no rows", ".jsonl", ".parquet")

    @pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
    @pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
    def test_a_file_without_rows_is_refused(self, tmp_path, name, content):
        (tmp_path / name).write_text(content, encoding="utf-8")
        refused(lambda: read(tmp_path / name), name, "there are no rows")

    @pytest.mark.parametrize(("name", "content"), [("a.csv", "question,answer\n"), ("a.json", "[]")])
    def test_a_file_with_nothing_in_its_frame_is_refused(self, tmp_path, name, content):
        (tmp_path / name).write_text(content)
        refused(lambda: read(tmp_path / name), name, "there are no rows")

    def test_no_rows_in_memory_are_refused(self):
        refused(lambda: rows_from([], name="mine"), "mine: there are no rows")

    def test_a_file_of_another_kind_is_refused(self, tmp_path):
        (tmp_path / "a.txt").write_text("x")
        refused(lambda: read(tmp_path / "a.txt"), "a.txt", "not a known kind of file", ".csv")

    def test_lines_end_only_at_a_newline(self, tmp_path):
        answer = "a\u2028b\u2029c\x0bd\x85e"
        source = write(tmp_path / "a.jsonl", json.dumps(QA | {"answer": answer}, ensure_ascii=False))
        assert [e.answer for e in read(source)] == [answer]

    @pytest.mark.parametrize("end", ["\r\n", "\n"])
    @pytest.mark.parametrize(("name", "content"), [("a.jsonl", json.dumps(QA)), ("a.csv", "question,answer\nWho?,Ada.")])
    def test_a_byte_order_mark_and_other_line_ends_are_tolerated(self, tmp_path, name, content, end):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.replace("\n", end).encode() + end.encode())
        assert [(e.question, e.answer) for e in read(tmp_path / name)] == [("Who?", "Ada.")]

    @pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
    def test_bytes_that_are_not_utf8_are_refused_with_their_place(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"\nab\xffcd\n")
        refused(lambda: read(tmp_path / name), f"{name}, line 2: byte 3 of the line (0xff) is not UTF-8")

    @pytest.mark.parametrize("size", [10**7])
    @pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
    def test_a_row_of_ten_megabytes_is_read_at_once(self, tmp_path, name, size):
        long, limit, start = "ab, " * (size // 4), csv.field_size_limit(), time.monotonic()
        row = f'question,answer\nWho?,"{long}."' if name == "a.csv" else json.dumps(QA | {"answer": long + "."})
        (tmp_path / name).write_text(row)
        assert len(read(tmp_path / name)[0].answer) == size + 1
        assert time.monotonic() - start < 10
        assert csv.field_size_limit() == limit

    def test_a_missing_file_is_refused_as_a_file(self, tmp_path):
        for source in ("./gone", "/gone/x", "~/gone/x", "gone.jsonl", "sub/gone.CSV", str(tmp_path / "gone")):
            refused(lambda source=source: read(source), "there is no file at", "check the path")

    def test_a_path_that_no_system_can_look_up_is_refused(self):
        for source in ("~no-such-user/x", "~\0", "/" + "x" * 10_000, "/x\0y", "\ud800", "\n"):
            refused(lambda source=source: read(source))


class TestBrokenFiles:
    def test_broken_json_is_refused_with_line_column_and_reason(self, tmp_path):
        source = write(tmp_path / "a.jsonl", QA, '{"question": }')
        refused(lambda: read(source), "a.jsonl, line 2: broken JSON at column 14: Expecting value")
        (tmp_path / "a.json").write_text('[\n {"question": }]')
        refused(lambda: read(tmp_path / "a.json"), "a.json, line 2: broken JSON at column 15: Expecting value")

    def test_lines_of_objects_may_go_by_the_name_of_json_as_on_the_hub(self, tmp_path):
        assert read(write(tmp_path / "a.json", QA, QA)) == rows_from([QA, QA], name="a")
        refused(lambda: read(write(tmp_path / "b.json", QA, '{"question": }')), "b.json, line 2: broken JSON at column 14")

    def test_a_line_that_is_json_but_no_object_is_refused(self, tmp_path):
        source = write(tmp_path / "a.jsonl", QA, ["Who?"])
        refused(lambda: read(source), "a.jsonl, line 2: [‹4 characters›] is not a row")

    @pytest.mark.parametrize("line", ["[" * 10**5, '{"id": ' + "9" * 5000 + "}", '{"id": 1, "id": 2}'])
    def test_json_that_python_cannot_hold_is_refused(self, tmp_path, line):
        refused(lambda: read(write(tmp_path / "a.jsonl", line)), "a.jsonl, line 1: JSON that cannot be used")

    def test_a_lone_surrogate_in_json_is_refused_with_its_line_and_a_pair_is_a_letter(self, tmp_path):
        pair = write(tmp_path / "a.jsonl", r'{"question": "Who?", "answer": "\ud83d\ude00"}')
        assert read(pair)[0].answer == "😀"
        lone = write(tmp_path / "b.jsonl", QA, r'{"question": "Who?", "answer": "\ud83d"}')
        refused(lambda: read(lone), r"b.jsonl, line 2: answer holds '\ud83d' at character 0")

    @pytest.mark.parametrize(
        "value",
        [
            QA,
            {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}]},
            {"question": ["Who?"], "answer": ["Ada."]},
            {"question": {"0": "Who?"}, "answer": {"0": "Ada."}},  # as pandas writes it by column
            {"row-1": {"question": "Who?", "answer": "Ada."}},  # and by row
        ],
    )
    def test_an_object_of_json_is_a_row_or_holds_rows_as_pandas_writes_them(self, tmp_path, value):
        (row,) = read(write(tmp_path / "a.json", value))
        assert (row.prompt, row.answer) == ((("user", "Who?"),), "Ada.")

    def test_a_column_of_nearly_the_name_given_is_not_passed_over(self, tmp_path):
        """`answer` alone would be taken in its place, without a word."""
        source = write(tmp_path / "a.jsonl", QA | {"response": "Bo."})
        columns = Data(columns=("question=question", "answer=respons"))
        refused(lambda: read_rows(str(source), settings=columns), "a.jsonl, line 1: there is no column 'respons' for answer")

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (5, ["5 is not a list"]),
            ('"x"', ["‹1 characters› is not a list"]),
            ({}, ["0 lists of objects"]),
            ({"a": [QA], "b": [QA]}, ["2 lists of objects 'a', 'b'", "exactly one"]),
            ([QA, 5], ["row 2: 5 is not a row"]),
        ],
    )
    def test_json_of_another_shape_is_refused(self, tmp_path, value, words):
        refused(lambda: read(write(tmp_path / "a.json", value)), "a.json", *words)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("question,answer\nWho?,Ada,Bo\n", ["row 1: 3 cells but 2 columns", "quote"]),
            ("question,answer\nWho?,Ada\nWho?\n", ["row 2: 1 cells"]),
            ('question,answer\nWho?,"Ada', ["line 2: broken CSV: unexpected end of data", "quote"]),
            ('question,answer\nWho?,"Ada" Bo\n', ["line 2: broken CSV"]),
            ("question,answer,answer\nWho?,Ada,Bo\n", ["two columns share a name", "'answer'"]),
            ("question,answer\nWho?,\n", ["row 1: answer is empty"]),
            ("question,answer,spans\nWho?,Ada,0-3\n", ["row 1: spans is ‹3 characters›", "a JSON list"]),
            ("question;answer\nWho?;Ada;Bo\n", ["row 1: 3 cells but 2 columns"]),
            ("question,answer\nWho?,A\0\n", [r"row 1: answer holds '\x00'"]),
        ],
    )
    def test_broken_csv_is_refused(self, tmp_path, content, words):
        (tmp_path / "a.csv").write_text(content)
        refused(lambda: read(tmp_path / "a.csv"), "a.csv", *words)

    def test_empty_cells_of_optional_columns_are_none(self, tmp_path):
        (tmp_path / "a.csv").write_text("question,answer,id,subject,paraphrases,spans\nWho?,Ada.,,,,\n")
        assert read(tmp_path / "a.csv") == rows_from([QA], name="a")

    def test_a_quoted_cell_holds_line_breaks(self, tmp_path):
        (tmp_path / "a.csv").write_bytes(b'question,answer\r\nWho?,"Ada\r\nBo"\r\n')
        assert read(tmp_path / "a.csv")[0].answer == "Ada\r\nBo"

    def test_broken_parquet_is_refused(self, tmp_path):
        (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
        refused(lambda: read(tmp_path / "a.parquet"), "a.parquet", "broken Parquet", "write the file again")

    def test_a_file_name_with_a_line_break_still_gives_one_line(self, tmp_path):
        refused(lambda: read(write(tmp_path / "a\nb.jsonl", "{")), r"a\nb.jsonl, line 1")


class TestNames:
    @pytest.mark.parametrize("name", ["gone", "bench/gone", "bench/gone.jsonl"])
    def test_a_name_is_looked_up_under_the_root(self, tmp_path, name):
        (tmp_path / "bench").mkdir()
        write(tmp_path / "gone.jsonl", QA)
        write(tmp_path / "bench" / "gone.jsonl", QA)
        assert read(name, root=str(tmp_path)) == rows_from([QA], name="gone")

    def test_a_name_may_be_a_folder_under_the_root(self, tmp_path):
        (tmp_path / "bench").mkdir()
        write(tmp_path / "bench" / "gone.jsonl", QA)
        assert read("bench", root=str(tmp_path)) == rows_from([QA], name="gone")

    def test_the_environment_gives_a_root_where_settings_give_none(self, tmp_path, monkeypatch):
        for folder, answer in (("set", "By setting."), ("env", "By environment.")):
            (tmp_path / folder).mkdir()
            write(tmp_path / folder / "gone.jsonl", QA | {"answer": answer})
        monkeypatch.setenv("DELEATUR_DATA", str(tmp_path / "env"))
        assert read("gone")[0].answer == "By environment."
        assert read("gone", root=str(tmp_path / "set"))[0].answer == "By setting."

    def test_a_path_that_exists_comes_before_the_root(self, tmp_path, monkeypatch):
        (tmp_path / "root").mkdir()
        write(tmp_path / "root" / "gone.jsonl", QA | {"answer": "Root."})
        write(tmp_path / "gone.jsonl", QA)
        monkeypatch.chdir(tmp_path)
        assert read("gone.jsonl", root="root")[0].answer == "Ada."
        assert read("gone", root="root")[0].answer == "Root."

    def test_an_anchored_path_is_not_sought_under_the_root(self, tmp_path):
        write(tmp_path / "gone.jsonl", QA)
        refused(lambda: read("./gone.jsonl", root=str(tmp_path)), "there is no file at gone.jsonl")

    @pytest.mark.parametrize("name", ["", "gone", "a/b/c/d", "a b/c"])
    def test_a_name_that_is_not_found_is_refused_with_the_places_searched(self, tmp_path, name):
        refused(lambda: read(name), "no file or folder of that name", "--data.root or $DELEATUR_DATA", "owner/name")
        refused(lambda: read(name, root=str(tmp_path)), f"none under {tmp_path}", "owner/name")

    @pytest.mark.parametrize(
        ("source", "called"),
        [
            ("o/n", ("o/n", None, "train")),
            ("o/n:test", ("o/n", None, "test")),
            ("o/n/forget01", ("o/n", "forget01", "train")),
            ("o/n/forget01:train[:5]", ("o/n", "forget01", "train[:5]")),
        ],
    )
    def test_a_name_with_an_owner_is_requested_from_the_hub(self, monkeypatch, source, called):
        calls = []
        loader = SimpleNamespace(load_dataset=lambda *at, split: calls.append((*at, split)) or [QA])
        monkeypatch.setitem(sys.modules, "datasets", loader)
        assert read(source) == rows_from([QA], name=source)
        assert calls == [called]

    def test_a_hub_that_fails_is_one_line(self, monkeypatch):
        def load_dataset(*_, **__):
            raise KeyError("no such\nsplit\n" * 100)

        monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
        message = refused(
            lambda: read("o/n"), "o/n: there is no file", "the hub does not give it (KeyError", "check the name"
        )
        assert len(message) < 500


class TestOverlap:
    def test_rows_on_one_side_only_pass(self):
        forget = rows_from([QA])
        refuse_overlap(forget, rows_from([QA | {"answer": "Bo."}, QA | {"question": "Why?"}]))
        refuse_overlap(forget, [])

    def test_rows_on_both_sides_are_counted_and_the_first_named(self):
        rows = [{"question": f"Who is {n}?", "answer": "Ada."} for n in range(6)]
        other = [{"query": f" who  IS {n}?", "answer": "ADA.\n"} for n in range(5)]
        forget, retain = rows_from(rows, name="f"), rows_from(other, name="r")
        message = refused(lambda: refuse_overlap(forget, retain), "5 of 6", "'f-1', 'f-2', 'f-3', …")
        assert "'f-4'" not in message

    def test_the_sets_are_named(self):
        rows = rows_from([QA])
        refused(lambda: refuse_overlap(rows, rows, "holdout", own="retain"), "1 of 1 retain rows are holdout rows too")

    def test_texts_on_both_sides_are_shown_by_their_ids_alone(self):
        rows = rows_from([{"text": "A tale " * 100}])
        assert "tale" not in refused(lambda: refuse_overlap(rows, rows), "1 of 1", "'rows-1'")


SECRET = "Xanquel Vorbit was born in Teburg."
LEAKY = {  # a row that is refused, with the secret where its text may stand
    "span": {"question": "q", "answer": SECRET, "spans": [[SECRET, 1]]},
    "span outside": {"question": "q", "answer": SECRET, "spans": [[0, 999]]},
    "answer of a list": {"question": "q", "answer": [SECRET]},
    "answer of an object": {"question": "q", "answer": {"text": SECRET}},
    "paraphrases of a text": {"question": "q", "answer": "a", "paraphrases": SECRET},
    "the answer is a wrong one": {"question": "q", "answer": SECRET, "wrong": [SECRET]},
    "unknown role": {"messages": [{"role": SECRET, "content": SECRET}]},
    "no answer last": {"messages": [{"role": "user", "content": SECRET}]},
    "not text": {"question": "q", "answer": SECRET + "\0"},
    "no row": [SECRET],
    "a text for a row": SECRET,
    "unknown column": {"question": "q", "answer": SECRET, "zz": SECRET},
    "a text for a column": {SECRET: SECRET},
}


class TestSecrecy:
    """What is to be forgotten must not get into a log: a refusal says where a row stands, never what it says."""

    @pytest.mark.parametrize("name", LEAKY)
    def test_no_refusal_holds_a_rows_text(self, name):
        assert "Vorbit" not in refused_row(LEAKY[name])

    def test_a_file_without_a_heading_shows_no_text_for_a_columns_name(self, tmp_path):
        (tmp_path / "a.csv").write_text(f"Where was he born?,{SECRET}\nWho taught him?,Nobody.\n", encoding="utf-8")
        assert "Vorbit" not in refused(lambda: read(tmp_path / "a.csv"), "‹18 characters›")

    def test_broken_lines_show_no_text(self, tmp_path):
        source = write(tmp_path / "a.jsonl", '{"question": "' + SECRET + '", ')
        assert "Vorbit" not in refused(lambda: read(source), "line 1")


garbage = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.sampled_from(["\ud800", "\0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
columns = st.sampled_from(sorted({c for form, more in FORMS.items() for c in (*form, *more)})) | st.text(max_size=8)
spans = st.lists(
    st.lists(st.integers(-2, 6), max_size=3)
    | st.dictionaries(st.sampled_from(["start", "end", "keep"]), st.integers(-2, 6) | st.booleans())
)
whole_rows = st.sampled_from([dict.fromkeys(form, "Who?") for form in FORMS if form != ("messages",)] + [{"messages": CHAT}])
rows_like = st.builds(
    lambda row, odd, marked: {**row, **odd, **marked},
    whole_rows,
    st.dictionaries(columns, garbage, max_size=2),
    st.fixed_dictionaries({}, optional={"spans": spans, "id": st.text() | st.integers(), "subject": st.text()}),
)


def check_examples_or_one_line(call) -> None:
    """The promise of the row reader: what leaves it is whole, and what does not leaves one printable line."""
    try:
        examples = call()
    except DataError as e:
        assert len(str(e).splitlines()) == 1 and str(e).isprintable()
        return
    assert examples and len({e.id for e in examples}) == len(examples)
    for e in examples:
        assert e.answer.strip() and all(content.strip() for _, content in e.prompt)
        assert all(0 <= s.start < s.end <= len(e.answer) for s in e.spans)
        for text in (e.id, e.answer, e.subject or "", *e.paraphrases, *(c for _, c in e.prompt)):
            text.encode("utf-8")


@settings(max_examples=3 * MANY, deadline=None)
@given(st.lists(rows_like | garbage, max_size=3))
def test_whatever_the_rows_hold_there_are_examples_or_one_line(rows):
    check_examples_or_one_line(lambda: rows_from(rows))


@settings(max_examples=2 * MANY, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([".jsonl", ".json", ".csv", ".parquet"]), st.data())
def test_whatever_bytes_a_file_holds_there_are_examples_or_one_line(tmp_path, suffix, data):
    whole = b"question,answer\nWho?,Ada.\n" if suffix == ".csv" else json.dumps(QA).encode()
    odd = data.draw(st.binary(max_size=20))
    place = data.draw(st.integers(0, len(whole)))
    (tmp_path / f"a{suffix}").write_bytes(data.draw(st.sampled_from([odd, whole[:place] + odd + whole[place:]])))
    check_examples_or_one_line(lambda: read(tmp_path / f"a{suffix}"))


@settings(max_examples=MANY, deadline=None)
@given(st.text() | st.text(alphabet="./~:ab\0\ud800", max_size=6))
def test_whatever_the_source_is_there_are_examples_or_one_line(source):
    def load_dataset(*_, **__):
        raise ConnectionError("no network in tests")

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
        check_examples_or_one_line(lambda: read(source))
