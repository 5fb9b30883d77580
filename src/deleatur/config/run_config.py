"""A run: everything that decides its result, in and out of YAML."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import yaml

from deleatur.config.method import TABLES, MethodSettings, incompatibility, name_of
from deleatur.data.messages import show
from deleatur.errors import ConfigError
from deleatur.importance import AnyImportance, Learned
from deleatur.losses import AnyForgetLoss, GradientDifference
from deleatur.plain_parts import as_importance, as_loss, inner
from deleatur.settings import Data, Evaluation, Guard, Judge, Keep, Lora, Train, require


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Forget some rows, keep the others. A method is a pair: forget loss × importance.

    Raises:
        ConfigError: Rows and suite are both missing or both given, a setting is out of range, or loss, importance and
            training cannot be combined.

    Examples:
        >>> from deleatur.config import Run
        >>> from deleatur.losses import NPO
        >>> from deleatur.settings import Train
        >>> run = Run(model="tiny", forget="forget.jsonl", retain="retain.jsonl", loss=NPO(), train=Train(epochs=5))
        >>> run.train.epochs, run.seed
        (5, 0)
    """

    model: str
    """Name on the Hugging Face hub, folder (also of an adapter), or .gguf file of a causal language model."""
    forget: str | None = None
    """Rows to forget: file, folder, or data set name."""
    retain: str | None = None
    """Rows to keep: file, folder, or data set name; where none are given, `forget` makes them from the model's answers."""
    holdout: str | None = None
    """Unseen rows, evaluated for comparison."""
    held: str | None = None
    """Rows of earlier requests with what the model answers now, which stays so (`deleatur request run` writes them)."""
    subject: tuple[str, ...] = ()
    """Without retain rows: names that the forget questions are about (default: the rows' own, or what they share)."""
    suite: str | None = None
    """Benchmark in place of rows: tofu/forget10, rwku/all, muse/news, wmdp/bio, lume, …"""
    out: str | None = None
    """New folder for the run (default: runs/<name of the forget rows>, numbered if taken)."""
    seed: int = 0
    """Decides the order of rows and the start of adapters, 0 or more."""
    loss: AnyForgetLoss = field(default_factory=GradientDifference)
    """How tokens are pushed away."""
    importance: AnyImportance = field(default_factory=Learned)
    """How much each token matters."""
    data: Data = field(default_factory=Data)
    """How rows become examples."""
    lora: Lora = field(default_factory=Lora)
    """Adapters instead of all weights."""
    train: Train = field(default_factory=Train)
    """Training."""
    keep: Keep = field(default_factory=Keep)
    """Checkpoints during training."""
    guard: Guard = field(default_factory=Guard)
    """When training ends by itself."""
    evaluation: Evaluation = field(default_factory=Evaluation)
    """How the model is evaluated before and after."""
    judge: Judge = field(default_factory=Judge)
    """The judge of whether an answer still reveals the fact."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", as_loss(self.loss))  # a user's own objects come in here
        object.__setattr__(self, "importance", as_importance(self.importance))
        if (self.suite is None) is (self.forget is None and self.retain is None and self.holdout is None):
            raise ConfigError("give rows to forget, or a suite, and not both")
        if self.suite is None and self.forget is None:
            raise ConfigError("forget is missing; give rows to forget, or a suite")
        if self.subject and (self.suite or self.retain):
            raise ConfigError("subject is read where retain rows are made, and here they are given; leave one of them out")
        require(isinstance(self.seed, int) and self.seed >= 0, "seed", self.seed, "0 or more")
        if reason := incompatibility(self.loss, self.importance, self.train, self.lora):
            raise ConfigError(reason)

    @property
    def method(self) -> MethodSettings:
        """Forget loss, importance and training."""
        return MethodSettings(loss=self.loss, importance=self.importance, train=self.train)

    def with_method(self, method: MethodSettings) -> Run:
        """The same run by another method."""
        return dataclasses.replace(self, loss=method.loss, importance=method.importance, train=method.train)

    @property
    def sources(self) -> dict[str, str | None]:
        """Where the user's own rows are from, by set."""
        return {"forget": self.forget, "retain": self.retain, "holdout": self.holdout, "held": self.held}

    @property
    def lacks_retain(self) -> bool:
        """Are there rows of the user's own, and none to keep among them? They are made then."""
        return self.suite is None and self.retain is None


# what decides an evaluation
EVALUATION_FIELDS = ("model", "forget", "retain", "holdout", "suite", "data", "evaluation", "judge")


def to_dict(run: Run) -> dict[str, Any]:
    """Plain values; a loss or an importance carries its `name`."""
    return _plain(run)


def to_yaml(run: Run) -> str:
    """The resolved run, every value written out."""
    return yaml.safe_dump(to_dict(run), sort_keys=False, allow_unicode=True)


def evaluation_to_yaml(run: Run, tasks: Sequence[str]) -> str:
    """An evaluation's settings, as the YAML of its folder: the parts of a run that it reads, and tasks of lm-eval."""
    values = {name: value for name, value in to_dict(run).items() if name in EVALUATION_FIELDS}
    return yaml.safe_dump(values | {"tasks": list(tasks)}, sort_keys=False, allow_unicode=True)


def evaluation_from_yaml(path: Path) -> tuple[Run, tuple[str, ...]]:
    """The reverse of `evaluation_to_yaml`; the run's other fields are defaults. Raises ConfigError as `from_yaml`."""
    raw = _read(path)
    tasks = raw.pop("tasks", []) if isinstance(raw, dict) else []
    return from_dict(raw, where=str(path)), _value(tuple[str, ...], tasks, str(path), "tasks")


def from_yaml(path: Path) -> Run:
    """Read a run. Raises ConfigError, naming the nearest key for an unknown one."""
    return from_dict(_read(path), where=str(path))


def read_run(folder: Path) -> Run:
    """The run of a run folder, with the retain rows that were made there where it was given none. Raises as `from_yaml`."""
    run = from_yaml(folder / "run.yaml")
    made = folder / "retain.jsonl"
    has_made = run.suite is None and run.retain is None and made.is_file()
    return dataclasses.replace(run, retain=str(made), subject=()) if has_made else run


def _read(path: Path) -> object:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Once)
    except (OSError, UnicodeDecodeError, RecursionError) as e:
        raise ConfigError(f"cannot read {path}: {e}") from e
    # for a 13th month, a number of 5000 digits or `!!bool maybe` the parser has no errors of its own
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as e:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(e).split()):.500}") from e


class _Once(yaml.SafeLoader):
    """Refuses a key that is there twice, of which YAML would take the last and drop the first in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping as PyYAML makes it. Raises ValueError for a key that is there twice."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [key for key in dict.fromkeys(keys) if keys.count(key) > 1]:
            raise ValueError(f"the key {show(twice[0])} is there twice, {node.start_mark}; leave one out")
        return super().construct_mapping(node, deep)


def from_dict(raw: object, *, where: str = "run") -> Run:
    """A run from plain values; what is left out has its default."""
    return _build(Run, raw, where, "")


def nearest(word: str, among: list[str]) -> str:
    """` (did you mean …?)`, or nothing."""
    found = difflib.get_close_matches(word, among, n=1, cutoff=0.5)
    return f" (did you mean {found[0]}?)" if found else ""


def values_of(settings: Any) -> dict[str, Any]:
    """A dataclass's values by field; those that are dataclasses stay as they are."""
    return {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {name: _named(name, part) for name, part in values_of(value).items()}
    return list(value) if isinstance(value, tuple) else value


def _named(field_name: str, value: Any) -> Any:
    if field_name not in TABLES:
        return _plain(value)
    inner_value = inner(value)
    settings = _plain(inner_value) if dataclasses.is_dataclass(inner_value) else {}
    return {"name": name_of(value)} | settings


def _build(cls: type, raw: object, where: str, prefix: str) -> Any:
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: {prefix or 'the run'} must be a table of settings, not {show(raw)}")
    fields, hints = {f.name: f for f in dataclasses.fields(cls)}, get_type_hints(cls)
    for key in raw:
        if key not in fields:
            name = key[:80] if isinstance(key, str) else show(key)
            raise ConfigError(
                f"{where}: unknown key {prefix}{name}{nearest(name, list(fields))}; known: {', '.join(fields)}"
            )
    required = [
        n for n, f in fields.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing := [n for n in required if n not in raw]:
        raise ConfigError(f"{where}: {prefix}{missing[0]} is missing")
    values = {key: _value(hints[key], value, where, prefix + key) for key, value in raw.items()}
    try:
        return cls(**values)
    except ConfigError as e:  # what the settings themselves refuse does not say where they stand
        raise ConfigError(f"{where}: {e}") from e


def _value(hint: Any, value: object, where: str, key: str) -> Any:
    if key in TABLES:
        return _choose(TABLES[key], value, where, key)
    if dataclasses.is_dataclass(hint):
        return _build(cast(type, hint), value, where, key + ".")
    if get_origin(hint) is tuple:
        kind = get_args(hint)[0]
        if isinstance(value, list) and all(type(v) is kind for v in value):
            return tuple(value)
        wanted = "texts" if kind is str else "integers"
        raise ConfigError(f"{where}: {key} is {show(value)}, but must be a list of {wanted}")
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        raise ConfigError(f"{where}: {key} is {show(value)}, but must be one of {', '.join(get_args(hint))}")
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if float in options and isinstance(value, int | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):  # YAML reads 1e-5, without a point, as text
            value = float(value)
    if type(value) in options:
        return value
    wanted = " or ".join("nothing" if o is type(None) else o.__name__ for o in options)
    raise ConfigError(f"{where}: {key} is {show(value)}, but must be {wanted}")


def _choose(table: dict[str, type], value: object, where: str, key: str) -> Any:
    settings = {"name": value} if isinstance(value, str) else dict(value) if isinstance(value, dict) else {}
    name = settings.pop("name", None)
    if not isinstance(name, str) or name not in table:
        raise ConfigError(f"{where}: {key}.name is {show(name)}, but must be one of {', '.join(table)}")
    return _build(table[name], settings, where, key + ".")
