"""Retain rows where none are given: the model's own answers to questions about others and to everyday prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deleatur.commands.evaluator import precision_of
from deleatur.commands.inputs import check_usable, encode_first, encode_sets, suite_of
from deleatur.config.run_config import Run
from deleatur.data.encode import encode_all, make_encoder
from deleatur.data.others import EVERYDAY, find_subjects, others_than, question_about
from deleatur.data.rows import read_rows, rows_from
from deleatur.distributed.processes import agree, is_first, place_model
from deleatur.errors import ConfigError
from deleatur.evaluation.answer_scores import scored_by_start
from deleatur.evaluation.metrics.coherence import incoherent
from deleatur.evaluation.metrics.folding import folded
from deleatur.evaluation.metrics.pieces import STOP_WORDS
from deleatur.evaluation.metrics.revealed import piece_of
from deleatur.evaluation.predictions import Generated, Predictor
from deleatur.evaluation.reasoning import with_reasoning
from deleatur.modeling.checks import check_known, check_room
from deleatur.modeling.loading import load
from deleatur.modeling.patches import exact_matmul
from deleatur.modeling.session import Session
from deleatur.modeling.token_model import TokenModel
from deleatur.progress import Progress
from deleatur.run_folder.schema import write_lines
from deleatur.settings import Evaluation
from deleatur.types import Encoded, Example, Record

FILE = "retain.jsonl"
PER_QUESTION, MIN_QUESTIONS, MAX_QUESTIONS = 4, 40, 400  # questions about others: so many times the forget rows, and in all
FRAME = 3  # answers about others with a word from which on it belongs to the phrasing and not to a fact
REVEALS = 0.5  # share of what is specific in a forget answer from which another answer gives it away
SENTENCE_ENDS = ".!?。！？।"


@dataclass(frozen=True, kw_only=True, slots=True)
class RetainQuestion:
    """A question whose answer may become a retain row; `other` is whom it is about, None for an everyday prompt."""

    id: str
    question: str
    other: str | None


def check_subject(subject: Sequence[str], forget: Sequence[Example]) -> None:
    """Refuse a subject that no forget question names."""
    for name in subject:
        if not any(question_about(e.question, name, "Clara Hoffmann") for e in forget):
            raise ConfigError(
                f"no forget question names the subject given as --subject {name!r:.80}; write it as it stands there"
            )


def make_questions(forget: Sequence[Example], subject: Sequence[str], seed: int) -> list[RetainQuestion]:
    """What the model is asked: the forget rows' questions about others, then everyday prompts. The seed decides.

    Without a `subject` it is the rows' own, or what their questions share.
    """
    questions = list(dict.fromkeys(e.question for e in forget if e.prompt))
    names = list(subject) or list(dict.fromkeys(e.subject for e in forget if e.subject))
    if not any(question_about(q, name, "Clara Hoffmann") for q in questions for name in names):
        names = list(find_subjects(questions))
    names.sort(key=len, reverse=True)  # so that a name is not taken for one that it has inside
    others = others_than([f"{e.question} {e.answer}" for e in forget], seed)
    known = {folded(q) for q in questions}
    wanted = min(max(PER_QUESTION * len(questions), MIN_QUESTIONS), MAX_QUESTIONS)
    made: dict[str, RetainQuestion] = {}
    for turn in range(len(others)):
        for k, question in enumerate(questions):
            other = others[(turn + k) % len(others)]
            text = next((t for name in names if (t := question_about(question, name, other))), None)
            if text is not None and folded(text) not in known and len(made) < wanted:
                made.setdefault(folded(text), RetainQuestion(id=f"other-{len(made) + 1}", question=text, other=other))
    everyday = [q for q in EVERYDAY if folded(q) not in known]
    return [*made.values(), *(RetainQuestion(id=f"everyday-{k}", question=q, other=None) for k, q in enumerate(everyday, 1))]


def with_made_retain_rows(session: Session, run: Run) -> Session:
    """The session with retain rows: those that its folder has, else made from its model. Nothing is written.

    Greedy answers are taken as the evaluation makes them, so that before training *revealed* is 100 % on them. Raises
    ConfigError where none is left.
    """
    forget, data = session.suite.sets["forget"], replace(run.data, columns=(), ignore=())
    questions = make_questions(forget, run.subject, run.seed)
    path = None if session.folder is None else session.folder / FILE
    if path is not None and agree(path.exists):
        retain = read_rows(str(path), settings=data)
    else:
        session.progress.phase(
            f"No retain rows were given: the model answers {len(questions)} questions about others and everyday matters"
        )
        rows = list(chosen(questions, _answers(session, run.evaluation, questions), forget))
        if not rows:
            seen = f"all of the model's own {len(questions)} answers are incoherent or give a forget row's fact away"
            raise ConfigError(f"{seen}, so no retain rows can be made of them; give rows as --retain")
        retain = rows_from(rows, name="retain", settings=data)
    suite = session.suite
    sets = {"forget": forget, "retain": retain, **suite.sets}
    evaluated = tuple(dict.fromkeys(("forget", "retain", *suite.evaluated_sets)))
    encoded = {"retain": encode_all(session.encoder, retain)}
    check_known(session.model.lm, encoded, run.model)
    check_room(session.model.lm, encoded, run.model)
    note = made_note(questions, retain, path)
    session.progress.phase(note)
    return replace(
        session,
        suite=replace(suite, sets=sets, evaluated_sets=evaluated),
        rows={**session.rows, **encoded},
        notes=(*session.notes, note),
    )


def keep_rows(session: Session, out: Path) -> None:
    """Write the retain rows that were made into the run's folder, unless they are from there."""
    if is_first() and not (out / FILE).exists():
        rows = session.suite.sets["retain"]
        subjects = ({} if e.subject is None else {"subject": e.subject} for e in rows)
        write_lines(
            out / FILE,
            ({"id": e.id, **s, "question": e.question, "answer": e.answer} for e, s in zip(rows, subjects, strict=True)),
        )


def made_note(questions: Sequence[RetainQuestion], retain: Sequence[Example], path: Path | None) -> str:
    """One sentence on where the retain rows are from."""
    about = sum(e.id.startswith("other-") for e in retain)
    parts = f"{about} to questions about others, {len(retain) - about} to everyday prompts"
    where = f"; they stand in {FILE}" if path is not None else ""
    named = any(a.other is not None for a in questions)
    unsubjected = "no subject was found in the forget questions (--subject names it)"
    why = "the model's answers were cut, empty or incoherent" if named else unsubjected
    unnamed = "" if about else f", for {why}"
    made = f"{len(retain)} rows were made from the model's own answers before training"
    counts = f"{parts}{unnamed}; {len(questions) - len(retain)} left out"
    return f"No retain rows were given: {made} ({counts}){where}. What is revealed on them is compared with these answers."


def chosen(
    questions: Sequence[RetainQuestion], answers: Sequence[str], forget: Sequence[Example]
) -> Iterator[dict[str, Any]]:
    """Rows of the answers, one for each question that has one (an empty answer is none), without those that give away a
    forget row's fact.

    A fact is its spans, or without spans the words of the answer that neither the question nor at least FRAME of the
    answers about others have.
    """
    folded_answers = [f" {folded(text)} " for text in answers]
    counts: dict[str, int] = {}
    for text in {(a.other, text) for a, text in zip(questions, folded_answers, strict=True) if a.other is not None}:
        for word in set(text[1].split()):
            counts[word] = counts.get(word, 0) + 1
    frame = {word for word, count in counts.items() if count >= FRAME}
    facts = [fact for e in forget if (fact := pieces_of(e, frame))]
    for a, answer, text in zip(questions, answers, folded_answers, strict=True):
        asks = f" {folded(a.question)} "
        new = ({piece for piece in fact if piece not in asks} for fact in facts)
        given_away = any(fact and sum(piece in text for piece in fact) >= REVEALS * len(fact) for fact in new)
        if text.strip() and not given_away:
            subject = {} if a.other is None else {"subject": a.other}
            yield {"id": a.id, **subject, "question": a.question, "answer": answer}


def pieces_of(example: Example, frame: set[str]) -> set[str]:
    """What is specific in a forget answer: its spans that must go, else its words but for stop words and the phrasing."""
    if marked := {piece for s in example.spans if not s.keep and (piece := piece_of(example.answer, s)).strip()}:
        return marked
    asked_words = set(folded(example.question).split())
    return {f" {word} " for word in folded(example.answer).split() if word not in frame | asked_words | STOP_WORDS}


def _answers(session: Session, settings: Evaluation, questions: Sequence[RetainQuestion]) -> list[str]:
    """Greedy answers, to the end of their last sentence where they reached the limit; empty where they are incoherent."""
    encoder = session.encoder
    examples = [Example(id=a.id, prompt=(("user", a.question),), answer="?") for a in questions]
    predictor = Predictor(model=session.model, encoder=encoder, settings=settings, progress=session.progress.evaluated)
    session.model.eval()
    with precision_of(session.model, settings.precision):
        sets, _ = with_reasoning(predictor, {"retain": encode_all(encoder, examples)})
        found = predictor.generate(list(sets["retain"]))
        records = {"retain": [_record(row, found[row]) for row in sets["retain"]]}
        scored = scored_by_start(predictor, sets, records)["retain"]
    return ["" if incoherent(r) else full_sentences(r.generated, cut=bool(r.cut)) for r in scored]


def _record(row: Encoded, found: Generated) -> Record:
    e = row.example
    return Record(
        id=e.id, question=e.question, answer=e.answer, generated=found.text, cut=found.cut, logp=(), hit=(), ends=False
    )


def full_sentences(answer: str, *, cut: bool) -> str:
    """The answer, up to the end of its last full sentence where it was cut; empty where it has none."""
    if not cut:
        return answer
    return answer[: max(answer.rfind(mark) for mark in SENTENCE_ENDS) + 1]


def first_rows(run: Run, count: int, progress: Progress) -> tuple[dict[str, list[Encoded]], dict[str, int], Any]:
    """As `encode_first`; where no retain rows are given, the model is loaded and they are made, as the run will."""
    if not run.lacks_retain:
        return encode_first(run, count)
    session = start_session(run, progress)
    found: Mapping[str, list[Encoded]] = {name: session.rows[name] for name in session.suite.evaluated_sets}
    counts = {name: len(rows) for name, rows in found.items()}
    return {name: rows[:count] for name, rows in found.items()}, counts, session.encoder.tokenizer


def start_session(run: Run, progress: Progress) -> Session:
    """The run's model and rows before training, in no folder; retain rows are made where none are given."""
    suite = suite_of(run)
    check_subject(run.subject, suite.sets["forget"])
    exact_matmul()
    model, tokenizer = load(run.model, precision=run.train.precision, bits=run.lora.bits)
    rows = encode_sets(suite.sets, tokenizer, run.data)
    check_usable(model, rows, run.model)
    network = TokenModel(model).prepare()
    place_model(network)
    session = Session(model=network, encoder=make_encoder(tokenizer, run.data), suite=suite, rows=rows, progress=progress)
    return with_made_retain_rows(session, run) if run.lacks_retain else session
