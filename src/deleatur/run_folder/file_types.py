"""What each file of a run, a bench, an audit or a ledger holds, as typed dicts. Importing this imports no torch.

A file has the version in its `schema_version`; the evaluations of 0.1 have none. Keys that are not named here may be there.
"""

from typing import Any, Literal, NotRequired, TypedDict

from deleatur.settings import Precision

SCHEMA_VERSION = 2  # of results.json
AUDIT_SCHEMA_VERSION = 2  # of audit.json
State = Literal["open", "done", "withdrawn"]
Ended = Literal["all steps", "done", "rolled back"]


class Figure(TypedDict):
    """A mean over rows, or a set metric, which may hold more, or lack something."""

    value: float | None
    n: int
    se: float | None


Scores = dict[str, dict[str, Figure]]  # set → metric → figure


class SuiteResults(TypedDict):
    """What was measured on what."""

    name: NotRequired[str]
    forget_sets: list[str]
    retain_sets: list[str]
    score: str  # the metric that FQ and RD read
    judge: NotRequired[str]


# "class" is no name that a class body could have
ModelResults = TypedDict(
    "ModelResults",
    {"name": str, "class": NotRequired[str], "parameters": NotRequired[int], "precision": NotRequired[Precision]},
)
"""The model that was trained."""


class DataResults(TypedDict):
    """One set's rows."""

    source: NotRequired[str | None]
    sha256: NotRequired[str]
    rows: NotRequired[int]
    cut: NotRequired[int]
    tokens: NotRequired[int]


class NamedSettings(TypedDict):
    """A loss or an importance, with its settings."""

    name: str


class RunSettings(TypedDict):
    """The settings of the run, as in run.yaml."""

    loss: NamedSettings
    importance: NamedSettings


class RunResults(TypedDict):
    """results.json of a finished run."""

    schema_version: int
    before: Scores
    after: Scores
    fq: float | None
    rd: float | None
    uq: float | None
    importance: dict[str, float | None]
    cost: dict[str, Any]  # CPU seconds a step, memory and so on, by name
    model: ModelResults
    data: dict[str, DataResults | None]
    run: RunSettings
    set_metrics: NotRequired[dict[str, dict[str, dict[str, Any]]]]  # side → set metric → value, n and more, or lacks
    suite: NotRequired[SuiteResults]
    fq_raw: NotRequired[float | None]
    rd_loss: NotRequired[float | None]
    no_coherence: NotRequired[str]
    ended: NotRequired[Ended]
    notes: NotRequired[list[str]]
    method: NotRequired[str]
    seed: NotRequired[int]
    peer: NotRequired[str]  # whose file it was read from, where it is not ours
    audit: NotRequired[Any]  # AuditSummary of its model, which a comparison puts here
    evaluation: NotRequired[bool]  # was nothing trained, so that "after" is of the model as it is?


class EvaluationResults(TypedDict):
    """results.json of an evaluation."""

    schema_version: int
    sets: Scores
    set_metrics: dict[str, dict[str, Any]]
    judge: str
    notes: list[str]
    suite: SuiteResults
    model: ModelResults
    data: dict[str, DataResults | None]
    run: dict[str, Any]  # its settings, as in evaluate.yaml
    lm_eval: NotRequired[dict[str, Any]]


class StepLine(TypedDict):
    """A line of steps.jsonl."""

    step: int
    loss: float | None
    forget_nll: float | None
    retain_nll: float | None
    importance: float | None


class TokenImportance(TypedDict):
    """A token's characters in the answer, its importance, and whether it is marked."""

    start: int
    end: int
    importance: float
    gold: bool | None


class AnswerImportance(TypedDict):
    """A line of an importance file that `deleatur score` wrote."""

    question: str
    answer: str
    tokens: list[TokenImportance]


class ImportanceLine(AnswerImportance):
    """A line of importance.jsonl: with the model's answers before and after."""

    id: str
    before: str
    after: str


class RecordLine(TypedDict):
    """What a reader without torch needs of a line of records/*.jsonl: its set, and a `deleatur.types.Record`."""

    set: str
    id: str
    question: str
    answer: str
    generated: str


class TrialLine(TypedDict):
    """A line of a bench's trials.jsonl."""

    number: int
    values: dict[str, float]
    value: float | None


RowHashes = dict[str, str]
"""data.json: by set, the hash of its rows."""


class BenchTerms(TypedDict):
    """bench.json: what has to be the same for all of a bench's runs."""

    run: dict[str, Any]  # as in run.yaml
    trials: int
    rates: list[float]
    objective: str
    share: NotRequired[float | None]


class AuditInputs(TypedDict):
    """inputs.json: what an audit is about; of a set the hash of its rows, of a model on disk that of its weights."""

    audited: str
    forget: str
    audited_weights: NotRequired[str]
    original: NotRequired[str]
    original_weights: NotRequired[str]
    retrained: NotRequired[str | None]
    retrained_weights: NotRequired[str]
    retain: NotRequired[str]
    holdout: NotRequired[str]
    settings: NotRequired[dict[str, Any]]
    encoding: NotRequired[dict[str, Any]]


class RefuserFigures(TypedDict):
    """refuser.json of an audit."""

    greedy_leak: float  # share of the rows that it still gives away, in [0, 1]


class ArmValue(TypedDict):
    """What an attack found on one arm."""

    value: float | None


class ArmFigures(ArmValue):
    """The same with its interval, and what it found in each setting."""

    low: float | None
    high: float | None
    n: int
    settings: dict[str, float | None]


class AttackSummary(TypedDict):
    """An attack's verdict, and what it found on each arm."""

    verdict: str
    why: str
    arms: dict[str, ArmValue]


class AttackFigures(TypedDict):
    """The same with all that it rests on."""

    verdict: str
    why: str
    arms: dict[str, ArmFigures]
    asks: str
    kind: str
    difference: dict[str, float | None] | None
    difference_in: NotRequired[str | None]  # the setting
    p: float | None
    p_holm: float | None
    needed: int | None
    beside: dict[str, Any]
    dropped: dict[str, str]
    leaked: list[dict[str, Any]]
    leaked_answers: int


class AuditVerdict(TypedDict):
    """What is read of audit.json where no page is made."""

    verdict: str


class AuditSummary(AuditVerdict):
    """What a comparison shows of an audit."""

    why: str
    flags: list[str]
    attacks: dict[str, AttackSummary]


class AuditReport(AuditVerdict):
    """What audit.json holds."""

    schema_version: int
    why: str
    flags: list[str]
    attacks: dict[str, AttackFigures]
    exit: int
    models: dict[str, str]
    arms: dict[str, str]
    decoys: bool
    judge: str
    rows: dict[str, dict[str, int]]
    refuser_leak: float | None
    seconds: float
    not_evaluated: list[str]
    settings: dict[str, Any]


class Measured(TypedDict):
    """What a model knows of a request's rows: the score of their answers, as asked and paraphrased, and their NLL."""

    revealed: float | None
    paraphrased: float | None
    nll: float | None  # mean over marked tokens, over all where none is marked, nats


class Request(TypedDict):
    """A line of the ledger. Paths are relative to its folder where they are below it."""

    sha256: str  # of the rows, as a run's results have it
    rows: str
    count: int
    retain: str | None
    holdout: str | None
    data: dict[str, Any]  # how the rows are read, where that is not the default
    added: str  # a day
    due: str | None
    state: State
    run: str | None  # the newest run
    verdict: str | None  # its headline
    finished: str | None  # when a run forgot it, UTC
    before: Measured | None  # that run's start model
    left: Measured | None  # its model
    exported: NotRequired[list[str]]  # folders to which a model of its runs was exported
