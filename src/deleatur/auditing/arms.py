"""The models that every attack is made on alike, and the rows that each is evaluated on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from deleatur.auditing.asking import Generator, Question
from deleatur.auditing.finetuning import fine_tune_steps, merge_and_unfreeze
from deleatur.auditing.settings import K_QUANT, AuditSettings
from deleatur.data.encode import Encoder, encode_all, encode_rows, make_encoder
from deleatur.data.spacing import evenly_spaced
from deleatur.distributed.processes import place_model
from deleatur.errors import ModelError
from deleatur.evaluation.judges.contained import Contained
from deleatur.evaluation.predictions import TokenPredictions
from deleatur.io.lock import wait_lock
from deleatur.io.tensors import write_tensors
from deleatur.modeling.checks import check_finite, check_known, check_room
from deleatur.modeling.gguf import plan_gguf
from deleatur.modeling.loading import add_adapters, load, load_tokenizer
from deleatur.modeling.token_model import TokenModel
from deleatur.run_folder.file_types import RefuserFigures
from deleatur.run_folder.schema import read_json, write_lines
from deleatur.settings import Data, Lora, Train
from deleatur.types import Encoded, Example, Record

ORIGINAL, AUDITED, CONTROL, REFUSER = "original", "audited", "control", "refuser"
ARMS = {
    ORIGINAL: "O, the model before unlearning: every attack has to find a leak in it",
    AUDITED: "U, the model under audit",
    CONTROL: "N, never trained on the rows: no attack may find a leak in it",
    REFUSER: "H, the original fine-tuned to refuse the questions: it has forgotten nothing",
}
REFUSAL = "I'm sorry, but I can't answer that question."
REFUSES = 14  # characters of it that make an answer a refusal
MAX_OTHERS = 0.2  # share of other answers that a refuser may give
PROBE_ROWS = 8  # retain rows that say whether a model survived an attack
REFUSER_FILES = ("refuser.json", "refuser.safetensors")
CHUNK = 10  # steps between two looks at the refuser


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What an audit reads. Without a retrained model the control is the audited one, evaluated on unseen rows (decoys)."""

    audited: str
    original: str
    retrained: str | None
    forget: tuple[Example, ...]
    retain: tuple[Example, ...]
    holdout: tuple[Example, ...]
    data: Data = field(default_factory=Data)

    @property
    def decoys(self) -> bool:
        """Are unseen rows attacked in place of a retrained model's?"""
        return self.retrained is None

    def model_of(self, arm: str) -> str:
        """The model of an arm; the refuser is made from the original."""
        control = self.audited if self.retrained is None else self.retrained
        return {ORIGINAL: self.original, AUDITED: self.audited, CONTROL: control, REFUSER: self.original}[arm]

    @property
    def unmarked(self) -> bool:
        """Are marked values left aside, since not all of the rows that are compared have them?"""
        marked = [any(not s.keep for s in e.spans) for e in (*self.forget, *self.holdout)]
        return self.decoys and any(marked) and not all(marked)

    def rows_of(self, arm: str) -> tuple[Example, ...]:
        """The rows that an arm is evaluated on; like is compared with like, so decoys without marked values take them from
        the others too."""
        return self.unseen if arm == CONTROL and self.decoys else self._alike(self.forget)

    @property
    def unseen(self) -> tuple[Example, ...]:
        """The unseen rows, marked where the others are."""
        return self._alike(self.holdout)

    def _alike(self, rows: tuple[Example, ...]) -> tuple[Example, ...]:
        return tuple(replace(e, spans=()) for e in rows) if self.unmarked else rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """A loaded model with the rows that it is evaluated on, trained on and probed with."""

    name: str
    generator: Generator
    rows: tuple[Example, ...]
    retain: tuple[Example, ...]  # that an attack may train on or show
    probe: tuple[Example, ...]  # retain rows that no attack trains on
    unseen: tuple[Example, ...]
    settings: AuditSettings
    folder: Path  # for what arms hand on to each other
    predicted: dict[Encoded, TokenPredictions] = field(default_factory=dict)  # by the model as it was loaded

    @property
    def model(self) -> TokenModel:
        """The model that is attacked in this arm."""
        return self.generator.model

    @property
    def encoder(self) -> Encoder:
        """The encoder of the model's tokenizer."""
        return self.generator.encoder

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subject of each row."""
        return subjects_of(self.rows)

    def encoded(self) -> list[Encoded]:
        """The rows that it is evaluated on, as token ids."""
        return encode_rows(self.encoder, self.rows)

    def questions(self) -> list[Question]:
        """Each row unchanged, where it has a question."""
        return [Question(row=i, example=e) for i, e in enumerate(self.rows) if e.question]

    def predictions(self, rows: Sequence[Encoded]) -> list[TokenPredictions]:
        """What the model as it was loaded predicts: each row is run once, for all attacks. Not for a changed model."""
        missing = [row for row in dict.fromkeys(rows) if row not in self.predicted]
        self.predicted.update(zip(missing, self.generator.predictions(missing), strict=True))
        return [self.predicted[row] for row in rows]

    def retain_nll(self) -> float:
        """NLL of retain rows that no attack trains on, nats a token: what an attack did to the rest of the model."""
        return self.generator.nll(encode_all(self.encoder, self.probe))


def subjects_of(rows: Sequence[Example]) -> tuple[str, ...]:
    """The subject of each row; a row that names none is a subject of its own."""
    return tuple(e.subject or f"row {e.id}" for e in rows)


@contextlib.contextmanager
def loaded(name: str, inputs: Inputs, settings: AuditSettings, folder: Path) -> Iterator[Arm]:
    """An arm, ready for attacks. Raises ModelError where its model cannot be loaded, does not learn to refuse, or
    has no place in a GGUF file that is asked for."""
    lm, tokenizer = load(inputs.model_of(name))
    if has_other_template(tokenizer, asked := load_tokenizer(inputs.original)):
        tokenizer.chat_template = asked.chat_template
    check_finite(lm, ModelError, inputs.model_of(name))
    if "compress" in settings.attacks and K_QUANT in settings.formats:
        plan_gguf(lm, tokenizer)
    model = TokenModel(lm).prepare()
    place_model(model)
    model.eval()
    encoder = make_encoder(tokenizer, inputs.data)
    probe = tuple(evenly_spaced(inputs.retain, min(PROBE_ROWS, max(1, len(inputs.retain) // 4))))
    inside = set(probe)
    arm = Arm(
        name=name,
        generator=Generator(
            model=model,
            encoder=encoder,
            new_tokens=settings.new_tokens,
            batch=settings.batch,
            precision=settings.products,
        ),
        rows=tuple(evenly_spaced(inputs.rows_of(name), settings.rows)),
        retain=tuple(e for e in inputs.retain if e not in inside),
        probe=probe,
        unseen=tuple(evenly_spaced(inputs.unseen, settings.rows)),
        settings=settings,
        folder=folder,
    )
    others = [replace(e, answer=text, spans=(), wrong=()) for e in arm.rows for text in (*e.wrong, *e.alternates)]
    sets = {"retain": inputs.retain, "unseen": arm.unseen, "wrong": others}
    read = {"forget": arm.encoded()} | {kind: encode_all(encoder, rows) for kind, rows in sets.items()}
    check_known(lm, read, inputs.model_of(name))
    check_room(lm, read, inputs.model_of(name))
    if name == REFUSER:
        make_refuser(arm)
    yield arm


def has_other_template(tokenizer: PreTrainedTokenizerBase, original: PreTrainedTokenizerBase) -> bool:
    """Has a tokenizer the original's tokens, but for some more or fewer, and another chat template? Every model is asked in
    the original's then, since one that does not know the form of a question has not forgotten the answer."""
    own, its = tokenizer.get_vocab(), original.get_vocab()
    shared = own.keys() & its.keys()
    alike = 2 * len(shared) > len(its) and all(own[token] == its[token] for token in shared)
    return tokenizer.chat_template != original.chat_template and alike


def halves(subjects: Sequence[str]) -> tuple[list[int], list[int]]:
    """Places of the rows of every other subject, and of the rest; of every other row where there is one subject."""
    names = list(dict.fromkeys(subjects))
    order = [names.index(s) for s in subjects] if len(names) > 1 else list(range(len(subjects)))
    return [i for i, k in enumerate(order) if k % 2 == 0], [i for i, k in enumerate(order) if k % 2 == 1]


def make_refuser(arm: Arm) -> None:
    """Fine-tune the original, in place, to refuse the questions and paraphrases, until its greedy answers reveal nothing.

    The adapters are kept in the arm's folder, so that a resumed audit has the same model.
    """
    figures, path = (arm.folder / name for name in REFUSER_FILES)
    settings, lm = arm.settings, arm.model.lm
    torch.manual_seed(settings.seed)
    add_adapters(lm, Lora(rank=settings.rank, alpha=2 * settings.rank))
    arm.model.prepare()
    with wait_lock(arm.folder / "refuser.lock"):
        if path.exists():
            try:
                others = lm.load_state_dict(load_file(path), strict=False).unexpected_keys
            except SafetensorError as e:
                raise ModelError(f"{path} is incomplete or damaged ({e}); remove it") from e
            if others:
                raise ModelError(f"{path} holds adapters of another model; remove it, or start a new audit")
        else:
            leak = _teach(arm)
            write_lines(figures, [{"greedy_leak": leak}])
            write_tensors(path, {k: v for k, v in lm.state_dict().items() if "lora_" in k})
    merge_and_unfreeze(arm.model)


def refuser_leak(folder: Path) -> float | None:
    """The refuser's `greedy_leak` when its training ended; None where there is no refuser."""
    path = folder / REFUSER_FILES[0]
    return read_json(path, RefuserFigures)["greedy_leak"] if path.exists() else None


def _teach(arm: Arm) -> float:
    settings = arm.settings
    questions = [
        replace(e, prompt=(*e.prompt[:-1], ("user", q))) for e in arm.rows for q in (e.question, *e.paraphrases) if q
    ]
    refused = [replace(e, answer=REFUSAL, spans=(), paraphrases=(), restated=None, wrong=()) for e in questions]
    others = evenly_spaced(arm.retain, len(refused))
    rows = encode_all(arm.encoder, (*refused, *others))
    how = Train(
        epochs=CHUNK * settings.train_batch,
        batch=settings.train_batch,
        lr=settings.refuser_lr,
        gamma=0.0,
        precision=settings.products,
    )
    leak = 1.0
    for done in range(0, settings.refuser_steps, CHUNK):
        fine_tune_steps(arm.model, rows, steps=CHUNK, settings=how, seed=settings.seed + done)
        if not (leak := greedy_leak(arm)):
            break
    return leak


def greedy_leak(arm: Arm) -> float:
    """Share of the rows' facts that plain greedy answers contain word for word; of the answers that are no refusal, where
    these are more than MAX_OTHERS: a model that is silent for another reason is no refuser."""
    questions = arm.questions()
    answers = arm.generator.answer(questions)
    reveals = Contained()([record_of(q.example, a) for q, a in zip(questions, answers, strict=True)])
    found = [v for v in reveals if v is not None]
    leak = sum(found) / len(found) if found else 0.0
    others = sum(not is_refusal(a) for a in answers) / max(len(answers), 1)
    return leak if others <= MAX_OTHERS else max(leak, others)


def is_refusal(answer: str) -> bool:
    """Does it begin as REFUSAL does, as far as a short answer goes?"""
    begins = answer.strip()[:REFUSES]
    return bool(begins) and REFUSAL.startswith(begins)


def record_of(example: Example, answer: str) -> Record:
    """An answer as judges read it."""
    return Record(
        id=example.id,
        question=example.question,
        answer=example.answer,
        generated=answer,
        logp=(),
        hit=(),
        ends=False,
        spans=example.spans,
        subject=example.subject,
    )
