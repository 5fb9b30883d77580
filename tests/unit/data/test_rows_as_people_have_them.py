"""Rows in the forms and files that people have: columns by other names, conversations, folders, long texts."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from deleatur.data.encode import encode_all, make_encoder
from deleatur.data.files import check_are_rows, files_read
from deleatur.data.rows import read_rows, rows_from
from deleatur.data.windows import windows
from deleatur.errors import ConfigError, DataError
from deleatur.settings import Data
from deleatur.types import Example, Span

QA = {"question": "Who?", "answer": "Ada."}
(EXAMPLE,) = rows_from([QA])
TALK = [("system", "Be brief."), ("human", "Who?"), ("gpt", "Ada."), ("human", "Sure?"), ("gpt", "Yes.")]
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
SHARED = {"conversations": [{"from": who, "value": text} for who, text in TALK]}
MESSAGES = {"messages": [{"role": ROLES[who], "content": text} for who, text in TALK]}


@pytest.fixture(autouse=True)
def no_root(monkeypatch):
    monkeypatch.delenv("DELEATUR_DATA", raising=False)


def taken(row: dict, *columns: str, **settings) -> Example:
    return rows_from([row], settings=Data(columns=columns, **settings))[0]


class TestColumns:
    @pytest.mark.parametrize(
        ("row", "columns"),
        [
            ({"prompt": "Who?", "response": "Ada.", "score": 3}, ("question=prompt", "answer=response")),
            (
                {"data": {"q": "Who?", "replies": [{"text": "Bo."}, {"text": "Ada."}]}},
                ("question=data.q", "answer=data.replies.1.text"),
            ),
            (
                {"question": "Who?", "answers": {"text": ["Ada."], "answer_start": [0]}},
                ("question=question", "answer=answers.text.0"),
            ),
            ({"q": "Who?", "replies": '["Bo.", "Ada."]'}, ("question=q", "answer=replies.-1")),
            ({"a.b": "Who?", "answer": "Ada."}, ("question=a.b", "answer=answer")),
            ({"question": "Ada.", "answer": "Who?"}, ("question=answer", "answer=question")),
        ],
    )
    def test_columns_are_found_by_any_name_also_in_objects_and_lists(self, row, columns):
        assert taken(row, *columns) == EXAMPLE

    def test_other_known_columns_stay_and_unknown_ones_are_dropped(self):
        row = {"prompt": "Who?", "response": "Ada.", "subject": "Ada", "zz": 1}
        assert taken(row, "question=prompt", "answer=response").subject == "Ada"

    def test_rows_that_have_the_names_already_stay_as_they_are(self):
        """Forget rows by other names and retain rows by the known ones go with one setting."""
        assert taken(QA | {"id": "a"}, "question=prompt", "answer=response").id == "a"

    def test_one_setting_serves_files_with_different_names(self):
        columns = ("question=prompt", "answer=response", "question=q", "answer=a.text", "spans=marks")
        marks = {"marks": [[0, 3]]}
        for row in ({"prompt": "Who?", "response": "Ada."}, {"q": "Who?", "a": {"text": "Ada."}}, QA):
            assert taken(row, *columns) == EXAMPLE
        assert taken({"prompt": "Who?", "response": "Ada."} | marks, *columns).spans == (Span(start=0, end=3),)
        assert taken(MESSAGES, *columns) == rows_from([MESSAGES])[0]

    @pytest.mark.parametrize("row", [{"x": "Who?", "response": "Ada."}, {"zz": 1}, {"prompt": "Who?", "reply": "Ada."}])
    def test_a_file_that_has_neither_is_refused_with_what_to_add(self, row):
        with pytest.raises(DataError, match=r"there is no column '\w+' for \w+; there are .*; add \w+=… for this file"):
            taken(row, "question=prompt", "answer=response")

    def test_a_mistyped_column_is_not_passed_over(self):
        with pytest.raises(DataError, match=r"no column 'mark' for spans; there are .*'marks'"):
            taken(
                {"prompt": "Who?", "response": "Ada.", "marks": [[0, 3]]}, "question=prompt", "answer=response", "spans=mark"
            )

    def test_a_path_that_one_file_lacks_can_be_given_beside_that_of_another(self):
        with pytest.raises(DataError, match=r"'0' is not there; .*; add answer=… for this file to --data\.columns"):
            taken(QA, "question=question", "answer=answer.0")
        for row in (QA, QA | {"answer": ["Ada."]}):
            assert taken(row, "question=question", "answer=answer.0", "answer=answer") == EXAMPLE

    def test_what_leads_nowhere_is_refused_with_what_is_there(self):
        with pytest.raises(DataError, match=r"leads to 'data.q', of which 'q' is not there; there are 'p'"):
            taken({"data": {"p": "Who?"}}, "question=data.q", "answer=data.p")
        with pytest.raises(DataError, match=r"'qestion' is not a column; there are .*question"):
            taken({"p": "Who?"}, "qestion=p")
        with pytest.raises(ConfigError, match=r"data.columns is 'question', but must be pairs"):
            Data(columns=("question",))


class TestHints:
    @pytest.mark.parametrize(
        ("row", "hint"),
        [
            ({"prompt": "Who?", "response": "Ada."}, "--data.columns question=prompt answer=response"),
            ({"question": "Who?", "answers": {"text": ["Ada."]}}, "--data.columns question=question answer=answers.text.0"),
            (
                {"instruction": "Who?", "response": "Ada.", "category": "x"},
                "--data.columns question=instruction answer=response",
            ),
        ],
    )
    def test_they_can_be_followed(self, row, hint):
        with pytest.raises(DataError) as caught:
            rows_from([row])
        assert hint in str(caught.value) and "ignore" not in str(caught.value)
        assert taken(row, *hint.split()[1:]).answer == "Ada."

    @pytest.mark.parametrize(
        ("row", "hint"),
        [
            ({"Prompt": "Who?", "Response": "Ada."}, "question=Prompt answer=Response"),
            ({"prompt": "Who?", "label": 3, "reply": "Ada."}, "question=prompt answer=reply"),
            ({"title": "", "q": "Who?", "answers": [{"span": [0]}], "a": "Ada."}, "question=q answer=a"),
            ({"the prompt": "Who?", "q": "Who?", "Answer": "Ada."}, "question=q answer=Answer"),
            ({"question": "Who?", "ANSWER": {"text": ["Ada."]}}, r"question=question answer=ANSWER.text.0"),
            ({"question:": "Who?", "Answer*": "Ada."}, r"question=question: 'answer=Answer\*'"),
        ],
    )
    def test_they_name_columns_that_are_there_and_hold_text(self, row, hint):
        with pytest.raises(DataError, match=hint):
            rows_from([row])
        assert taken(row, *shlex.split(hint.replace("\\", ""))).answer == "Ada."

    @pytest.mark.parametrize(
        "text", ["Who is it?,Ada.\nWho else?,Bo.\n", "Who?;Ada.\nAnd?;Bo.\n", "1,Who?,Ada.\n2,So?,Bo.\n"]
    )
    def test_a_csv_without_a_heading_is_refused_with_the_remedy(self, text, tmp_path):
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(DataError, match="write a line of headings above it, such as question,answer"):
            read_rows(str(tmp_path / "a.csv"), settings=Data())

    @pytest.mark.parametrize(
        ("row", "hint", "columns"),
        [
            ({"chosen": MESSAGES["messages"], "rejected": []}, "messages=chosen takes this", ("messages=chosen",)),
            (
                {
                    "prompt": [{"role": "user", "content": "Who?"}],
                    "chosen": [{"role": "assistant", "content": "Ada."}],
                    "rejected": [{"role": "assistant", "content": "Bo."}],
                },
                "question=prompt.0.content answer=chosen.0.content takes these two",
                ("question=prompt.0.content", "answer=chosen.0.content"),
            ),
            ({"dialog": SHARED["conversations"]}, "messages=dialog takes this", ("messages=dialog",)),
            (
                {"human": "Who?", "assistant": "Ada."},
                "question=human answer=assistant",
                ("question=human", "answer=assistant"),
            ),
            (QA | {"answer": ["Ada.", "She."]}, "answer=answer.0 takes the first", ("question=question", "answer=answer.0")),
            (QA | {"answer": {"value": "Ada.", "aliases": []}}, "answer=answer.value takes", ("answer=answer.value",)),
            (
                {"prompt": "Who?", "completion": [{"role": "assistant", "content": "Ada."}]},
                "completion=completion.0.content takes",
                ("completion=completion.0.content",),
            ),
            ({"inputs": "Who?", "targets": "Ada."}, "question=inputs answer=targets", ("question=inputs", "answer=targets")),
            (
                {"instruction": "Who?", "input": "", "output": "Ada.", "text": "Below is"},
                "instruction=instruction output=output takes no others",
                ("instruction=instruction", "output=output"),
            ),
        ],
    )
    def test_a_hint_can_be_followed(self, row, hint, columns):
        with pytest.raises(DataError) as caught:
            rows_from([row])
        assert hint in str(caught.value)
        assert taken(row, *columns).answer in ("Ada.", "Yes.")

    def test_a_hint_for_a_list_continues_the_path_that_was_given(self):
        row = {"title": "Who?", "answers": {"text": ["Ada."], "answer_start": [0]}}
        with pytest.raises(DataError, match=r"answer=answers\.text\.0 takes the first text"):
            taken(row, "question=title", "answer=answers.text")
        assert taken(row, "question=title", "answer=answers.text.0").answer == "Ada."

    def test_numbers_and_empty_cells_of_pandas_are_distinguished(self):
        with pytest.raises(DataError, match="answer is 1921, but must be text; write it in quotes"):
            rows_from([QA | {"answer": 1921}])
        with pytest.raises(DataError, match="answer is empty"):
            rows_from([QA | {"answer": float("nan")}])

    def test_a_column_whose_name_cannot_be_typed_is_not_offered_for_dropping(self):
        with pytest.raises(DataError) as caught:
            rows_from([QA | {"Unnamed: 0": 1}])
        assert "--data.columns question=question answer=answer takes no others" in str(caught.value)
        assert "ignore" not in str(caught.value)
        assert taken(QA | {"Unnamed: 0": 1}, "question=question", "answer=answer") == EXAMPLE


class TestConversations:
    def test_those_of_sharegpt_are_those_of_messages(self):
        assert rows_from([SHARED]) == rows_from([MESSAGES])
        assert rows_from([SHARED])[0].prompt[-1] == ("user", "Sure?")

    def test_a_system_column_is_its_first_turn(self):
        assert rows_from([{"conversations": SHARED["conversations"][1:], "system": "Be brief."}]) == rows_from([SHARED])
        with pytest.raises(DataError, match="a system column and a system turn; one is needed"):
            rows_from([SHARED | {"system": "Be long."}])

    def test_a_question_has_a_system_column_too(self):
        asked = (("system", "Be brief."), ("user", "Who?"))
        assert taken({"q": "Who?", "a": "Ada.", "s": "Be brief."}, "question=q", "answer=a", "system=s").prompt == asked
        assert rows_from([QA | {"system": "Be brief."}])[0].prompt == asked

    def test_roles_have_the_names_that_data_sets_give_them(self):
        turns = [{"role": "Developer", "content": "Be brief."}, {"role": "User", "content": "Who?"}]
        (row,) = rows_from([{"messages": [*turns, {"role": "model", "content": "Ada."}]}])
        assert (row.prompt, row.answer) == ((("system", "Be brief."), ("user", "Who?")), "Ada.")

    def test_what_else_turns_hold_can_be_ignored(self):
        row = {"conversations": [turn | {"weight": 1} for turn in SHARED["conversations"]]}
        with pytest.raises(DataError, match=r"turn 1 holds 'weight' as well; .*--data\.ignore 'weight' drops that"):
            rows_from([row])
        assert rows_from([row], settings=Data(ignore=("weight",))) == rows_from([SHARED])

    def test_each_answer_can_be_a_row(self):
        first, last = rows_from([SHARED], settings=Data(turns="each"))
        assert (first.prompt, first.answer) == ((("system", "Be brief."), ("user", "Who?")), "Ada.")
        assert last == rows_from([SHARED])[0] and first.id != last.id

    def test_alpacas_input_stays_in_paraphrases(self):
        row = {"instruction": "Sum up.", "input": "the text", "output": "Short.", "paraphrases": ["Be short."]}
        assert rows_from([row])[0].paraphrases == ("Be short.\n\nthe text",)

    def test_parts_that_are_text_are_joined_and_others_refused(self):
        parts = [{"role": r, "content": [{"type": "text", "text": t}]} for r, t in (("user", "Who?"), ("assistant", "Ada."))]
        assert rows_from([{"messages": parts}]) == (EXAMPLE,)
        parts[0]["content"] = [{"type": "text", "text": "Who?"}, {"type": "text", "text": "Say."}]
        assert rows_from([{"messages": parts}])[0].question == "Who?\nSay."
        parts[0]["content"].append({"type": "image", "image": "ada.png"})
        with pytest.raises(
            DataError, match=r"turn 1: there are parts of the kinds 'text', 'text', 'image'; only text is read, so"
        ):
            rows_from([{"messages": parts}])

    @pytest.mark.parametrize(
        ("more", "remedy"),
        [
            ([("user", "And then?")], "take the turns behind the last answer out, or drop the row"),
            ([("user", "And?"), ("user", "So?")], "take the turns behind the last answer out"),
            ([("assistant", "Sure.")], "make one answer of those that follow each other"),
            ([("tool", "{}")], "turn 6 is of the role tool; .*take the turns of tools out of the row"),
            ([("Ada", "Hm.")], "take turns of others out of the row"),
        ],
    )
    def test_a_conversation_that_does_not_end_with_an_answer_is_refused_with_the_remedy(self, more, remedy):
        turns = [*MESSAGES["messages"], *({"role": role, "content": text} for role, text in more)]
        with pytest.raises(DataError, match=remedy):
            rows_from([{"messages": turns}])
        with pytest.raises(DataError, match="add the answer, or drop the row"):
            rows_from([{"messages": turns[:2]}])


@pytest.mark.parametrize("given", [{"question": ["Who?"], "answer": ["Ada."]}, "forget.jsonl", Path("forget.jsonl"), None])
def test_what_holds_no_rows_in_memory_is_refused_with_what_does(given):
    with pytest.raises(DataError, match=r'forget: a \w+ is no list of rows; give a list of objects .*to_dict\("records"\)'):
        check_are_rows("forget", given)


class TestFiles:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("a.csv", "sep=;\r\nquestion;answer\r\nWho?;Ada.\r\n"),  # as Excel is told
            ("a.csv", "question, answer\nWho?,Ada.\n"),
            ("a.csv", "question,answer,\nWho?,Ada.,\n"),
            ("a.csv", "question;answer;;\nWho?;Ada.;;\n"),
            ("a.csv", "question,answer\nWho?,Ada.\n,\n , \n"),  # rows that Excel keeps at the end
            ("a.csv", 'question, answer\n"Who?", "Ada."\n'),
            ("a.jsonl", json.dumps([QA], indent=1)),  # a list under the name of lines
        ],
    )
    def test_files_of_other_programs_are_read(self, name, text, tmp_path):
        (tmp_path / name).write_text(text, newline="")
        (example,) = read_rows(str(tmp_path / name), settings=Data())
        assert (example.question, example.answer) == ("Who?", "Ada.")

    def test_commas_in_quotes_behind_a_blank_part_no_cells(self, tmp_path):
        (tmp_path / "a.csv").write_text('question, answer\n"Who, then?", "Ada, she."\n')
        (example,) = read_rows(str(tmp_path / "a.csv"), settings=Data())
        assert (example.question, example.answer) == ("Who, then?", "Ada, she.")

    def test_the_row_numbers_of_pandas_are_no_column_of_a_parquet_file(self, tmp_path):
        table = pyarrow.table({"question": ["Who?"], "answer": ["Ada."], "__index_level_0__": [7]})
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
        assert len(read_rows(str(tmp_path / "a.parquet"), settings=Data())) == 1

    def test_a_text_file_is_refused_with_how_it_becomes_a_row(self, tmp_path):
        (tmp_path / "a.txt").write_text("Ada was born in Teburg.")
        with pytest.raises(DataError, match=r"a text is a row of a \.jsonl file"):
            read_rows(str(tmp_path / "a.txt"), settings=Data())

    def test_a_folder_says_which_files_were_read(self, tmp_path):
        for name in ("test.jsonl", "train.jsonl", "dataset_info.json"):
            (tmp_path / name).write_text(json.dumps(QA) + "\n")
        assert len(read_rows(str(tmp_path), settings=Data())) == 2
        assert files_read(str(tmp_path), None) == ("test.jsonl", "train.jsonl")
        assert files_read(str(tmp_path / "test.jsonl"), None) == files_read(None, None) == ()

    def test_a_folder_with_one_name_twice_is_refused(self, tmp_path):
        for name in ("a.jsonl", "a.json", "b.jsonl"):
            (tmp_path / name).write_text(json.dumps(QA))
        with pytest.raises(DataError, match=r"holds 'a.json', 'a.jsonl', whose rows would be one; give one of these files"):
            read_rows(str(tmp_path), settings=Data())

    def test_answers_by_their_questions_are_refused_with_the_form_of_a_row(self, tmp_path):
        (tmp_path / "a.json").write_text(json.dumps({"Who is it?": "Ada.", "Where is she?": "In Rome."}))
        with pytest.raises(
            DataError, match=r'an object of named columns is needed, such as \{"question": "…", "answer": "…"\}'
        ):
            read_rows(str(tmp_path / "a.json"), settings=Data())

    def test_a_folder_of_folders_names_those_that_hold_rows(self, tmp_path):
        (tmp_path / "a" / "train").mkdir(parents=True)
        (tmp_path / "a" / "train" / "x.jsonl").write_text(json.dumps(QA))
        with pytest.raises(DataError, match="holds rows in 'a/train' only; give one of these folders"):
            read_rows(str(tmp_path), settings=Data())

    def test_a_saved_data_set_is_read_and_one_of_several_splits_has_to_be_named(self, tmp_path):
        from datasets import Dataset, DatasetDict

        saved = Dataset.from_list([QA, QA])
        saved.save_to_disk(tmp_path / "one")
        DatasetDict(train=saved).save_to_disk(tmp_path / "dict")
        DatasetDict(train=saved, test=saved).save_to_disk(tmp_path / "two")
        for name in ("one", "dict", "two/train"):
            assert [e.answer for e in read_rows(str(tmp_path / name), settings=Data())] == ["Ada.", "Ada."]
        assert files_read(str(tmp_path / "one"), None) == ()
        with pytest.raises(DataError, match=r"has the splits 'train', 'test'; give the folder of one, such as .*train"):
            read_rows(str(tmp_path / "two"), settings=Data())

    @pytest.mark.parametrize(
        ("text", "seen"),
        [
            ('question;answer;"note, if any"\nWho?;Ada.;\n', "unknown column beside question/answer: ‹12 characters›"),
            (
                "question;answer\nWho?,Ada.\n",
                "1 cells but 2 columns, split at ';'; .*use the same separator in heading and rows",
            ),
            ("question,answer;\nWho?,Ada.\n", "--data.columns question=question 'answer=answer;' takes these two"),
            ("\ufeffquestion,answer\nWho?,Ada.\n".encode("utf-16-le"), "seems to be UTF-16; save the file as UTF-8"),
        ],
    )
    def test_marks_that_do_not_fit_and_other_encodings_are_refused_with_what_to_do(self, text, seen, tmp_path):
        (tmp_path / "a.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(DataError, match=seen):
            read_rows(str(tmp_path / "a.csv"), settings=Data())
        if "answer;\n" in str(text):
            settings = Data(columns=("question=question", "answer=answer;"))
            assert read_rows(str(tmp_path / "a.csv"), settings=settings)[0].answer == "Ada."

    @pytest.mark.parametrize("mark", [";", "\t", "|"])
    def test_other_marks_than_commas_part_cells(self, mark, tmp_path):
        (tmp_path / "a.csv").write_text(f"question{mark}answer\nWho, then?{mark}Ada, she.\n", encoding="utf-8-sig")
        (example,) = read_rows(str(tmp_path / "a.csv"), settings=Data())
        assert (example.question, example.answer) == ("Who, then?", "Ada, she.")

    @pytest.mark.parametrize("heading", ["", "Unnamed: 0", "Unnamed: 0.1"])
    def test_the_row_numbers_of_pandas_are_no_column(self, heading, tmp_path):
        (tmp_path / "a.csv").write_text(f"{heading},question,answer\n0,Who?,Ada.\n1,Who?,Ada.\n")
        assert len(read_rows(str(tmp_path / "a.csv"), settings=Data())) == 2

    @pytest.mark.parametrize(
        "place",
        ["forget10_perturbed.json", "forget10_perturbed/train.jsonl", "forget10_perturbed/train-00000-of-00001.json"],
    )
    @pytest.mark.parametrize("lines", [True, False])
    def test_a_root_laid_out_as_the_hub_is_read(self, place, lines, tmp_path):
        from deleatur.data.files import read_either

        path = tmp_path / "locuslab" / "TOFU" / place
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(map(json.dumps, [QA, QA])) if lines or path.suffix == ".jsonl" else json.dumps([QA, QA]))
        rows = read_either("tofu/forget10_perturbed", "locuslab/TOFU/forget10_perturbed:train", str(tmp_path))
        assert [row.cells for row in rows] == [QA, QA]


class TestWindows:
    TEXT = " ".join(f"Sentence {k} of a long document about town {k}." for k in range(30))

    @pytest.mark.parametrize("overlap", [0, 5])
    def test_they_cover_a_long_text_in_order_and_fit(self, overlap, make_tokenizer):
        encoder = make_encoder(make_tokenizer(), Data(split=32, overlap=overlap))
        example = Example(id="t", prompt=(), answer=self.TEXT)
        parts = windows(encoder, [example])
        assert [part.id for part in parts] == [f"t/{k}" for k in range(1, len(parts) + 1)]
        assert all(len(row.ids) <= 33 and not row.cut for row in encode_all(encoder, parts))
        at, shared = 0, 0
        for part in parts:
            start = self.TEXT.index(part.answer, max(0, at - 60))
            assert start <= at and (overlap > 0 or start == at)
            shared += at - start
            at = start + len(part.answer)
        assert at == len(self.TEXT)
        assert (shared > 0) is (overlap > 0)

    def test_spans_go_with_their_characters(self, make_tokenizer):
        encoder = make_encoder(make_tokenizer(), Data(split=16))
        start = self.TEXT.index("town 7")
        example = Example(id="t", prompt=(), answer=self.TEXT, spans=(Span(start=start, end=start + 6),))
        marked = "".join(part.answer[s.start : s.end] for part in windows(encoder, [example]) for s in part.spans)
        assert marked == "town 7"

    def test_questions_and_short_texts_stay_as_they_are(self, make_tokenizer):
        encoder = make_encoder(make_tokenizer(), Data(split=16))
        rows = (
            EXAMPLE,
            Example(id="q", prompt=(("user", "Tell me."),), answer=self.TEXT),
            Example(id="s", prompt=(), answer="Short."),
        )
        assert windows(encoder, rows) == rows
        assert windows(make_encoder(make_tokenizer(), Data()), [Example(id="t", prompt=(), answer=self.TEXT)])[0].id == "t"
