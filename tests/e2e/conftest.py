"""The tool as a user has it: a tiny model, a small world on disk, and the command line, run in this process."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ |= dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"), "1")
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "ACCELERATE_USE_CPU": "true"}

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


@contextmanager
def unchecked() -> Iterator[None]:
    """Import without the checker of shapes: in the command line a marker stands in for a text until it is parsed."""
    hooks = [finder for finder in sys.meta_path if type(finder).__module__.startswith("jaxtyping")]
    sys.meta_path[:] = [finder for finder in sys.meta_path if finder not in hooks]
    try:
        yield
    finally:
        sys.meta_path[:0] = hooks


with unchecked():
    import deleatur.cli.verbs  # noqa: F401 - what main imports where it is called
    from deleatur.cli.main import main

from two_requests import copied, done, fine_tuned_model  # noqa: E402, F401 - fixtures

from deleatur.commands.demo import write_world  # noqa: E402
from deleatur.data.world import World, make_world  # noqa: E402

torch.set_num_threads(1)
QUICK = ("--train.epochs", "2", "--train.batch", "4", "--train.lr", "1e-3", "--evaluation.new-tokens", "8")


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C is heard, also where the suite was started by `nohup … &`, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@dataclass(frozen=True, kw_only=True)
class Said:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, kw_only=True)
class Home:
    """A folder with the models `tiny` (width 32) and `wide` (width 48), and the rows of a world of three people."""

    folder: Path
    world: World

    @property
    def model(self) -> Path:
        return self.folder / "tiny"

    @property
    def wide(self) -> Path:
        return self.folder / "wide"

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    @property
    def rows(self) -> tuple[str, ...]:
        return ("--forget", str(self.file("forget")), "--retain", str(self.file("retain")))

    def forget(self, out: Path | str, *more: object) -> tuple[str, ...]:
        """A whole command, of a second; the method with a scorer unless another is named."""
        recipe = () if "--recipe" in more else ("--recipe", "atwu-scorer")
        return ("forget", "--model", str(self.model), *self.rows, "--out", str(out), *recipe, *QUICK, *map(str, more))


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make_home(tmp_path_factory.mktemp("home"))


def make_home(folder: Path) -> Home:
    """The models and rows in a folder; the same in every one."""
    home = Home(folder=folder, world=make_world(people=3, forget=1, holdout=1, rows_per_fact=1))
    write_world(home.world, home.folder)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([f"{e.question} {e.answer}" for e in home.world.fine_tuning_rows], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")  # and no pad token
    for folder, width in ((home.model, 32), (home.wide, 48)):
        make_model(len(tokenizer), width).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return home


def make_model(vocabulary: int, width: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=2, vocab_size=vocabulary, max_position_embeddings=256))


@pytest.fixture(scope="session")
def finished(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the default recipe, with holdout rows. Copy it before changing it."""
    out = tmp_path_factory.mktemp("finished") / "run"
    main(home.forget(out, "--holdout", home.file("holdout")))
    return out


@pytest.fixture
def run_folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be harmed."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """Run a command in the test's own folder."""
    monkeypatch.chdir(tmp_path)

    def call(*args: object) -> Said:
        capsys.readouterr()
        try:
            main([str(a) for a in args])
            code = 0
        except SystemExit as e:
            code = int(e.code or 0)
        out, err = capsys.readouterr()
        return Said(code=code, out=out, err=err)

    return call


@pytest.fixture
def refused(call: Callable[..., Said], home: Home, finished: Path, tmp_path: Path) -> Callable[..., str]:
    """Run a command that must be refused: exit 2, one line, no file changed anywhere. Returns the line."""

    def refused(*args: object) -> str:
        places = (home.folder, finished, tmp_path)
        before = [seen(place) for place in places]
        said = call(*args)
        assert [seen(place) for place in places] == before
        assert (said.code, said.out) == (2, "")
        assert said.err.startswith("deleatur: ")
        assert said.err.count("\n") == 1
        assert said.err.endswith("\n")
        assert len(said.err) < 1000
        return said.err

    return refused


def seen(place: Path) -> dict[str, tuple[int, bytes | None]]:
    """Everything under a folder: modes, and what files hold."""
    paths = [place, *place.rglob("*")]
    return {str(p): (p.stat().st_mode, None if p.is_dir() else p.read_bytes()) for p in paths}
