"""CPU seconds of whole processes, imports among them, one thread: `python benchmarks/processes.py WHAT [FOLDER]`

    help           `deleatur --help`
    start FOLDER   `deleatur forget` on the README's rows up to its first step, and loading that model by transformers alone
    toy FOLDER     makes a Llama of 5.3M parameters there, fine-tuned on TOFU (400 steps of 16 rows)
    ours FOLDER    what OpenUnlearning's default TOFU metrics read, by that model, and all metrics of it
    peer FOLDER    the same as OpenUnlearning goes about it: a padded pass for each metric and each wrong answer

`help` and `start` are medians of five, `start` alternating. TOFU is read from $DELEATUR_DATA; its suite is tofu/forget05:
200 forget and 200 holdout rows, 400 retain rows, 100 of real authors, 117 world facts; answers of up to 200 tokens.
"""

from __future__ import annotations

import os
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}

SUITE, NEW_TOKENS, REPEATS = "tofu/forget05", 200, 5
SETS = ("forget", "retain_perturbed", "real_authors", "world_facts")  # with answers and wrong answers
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LOAD = """import sys, torch, transformers
transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
transformers.AutoTokenizer.from_pretrained(sys.argv[1])"""
TO_FIRST_STEP = """import os, sys
from deleatur.cli.main import main
from deleatur.training import train
train.fit = lambda *given, **named: os._exit(0)
main()"""


def took(*command: str) -> float:
    """CPU seconds of a Python process."""
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime


def start(model: str) -> None:
    """Both kinds of process in turn, after one of each that is not counted."""
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("forget", "retain"):
            rows = re.search(rf"cat > {name}.jsonl <<'ROWS'\n(.*?)ROWS", readme, re.DOTALL)
            Path(folder, f"{name}.jsonl").write_text(rows[1] if rows else "", encoding="utf-8")
        files = [part for name in ("forget", "retain") for part in (f"--{name}", f"{folder}/{name}.jsonl")]
        pairs = [
            (
                took("-c", LOAD, model),
                took("-c", TO_FIRST_STEP, "forget", "--model", model, *files, "--out", f"{folder}/{k}"),
            )
            for k in range(REPEATS + 1)
        ][1:]
    load, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = [b / a for a, b in pairs]
    each = ", ".join(f"{r:.2f}" for r in ratios)
    print(f"loading {load:.2f} CPU s, up to the first step {ours:.2f}: {statistics.median(ratios):.2f}× ({each})")


def toy(folder: str) -> None:
    """A small Llama, and a byte-level BPE of TOFU's words."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from deleatur.data.batches import collate
    from deleatur.data.encode import encode_all, make_encoder
    from deleatur.data.rows import read_rows
    from deleatur.modeling.token_model import TokenModel
    from deleatur.settings import Data

    torch.manual_seed(0)
    rows, bpe = read_rows("tofu/full", settings=Data()), Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special, letters = ["<|im_start|>", "<|im_end|>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=8192, special_tokens=special, initial_alphabet=letters)
    bpe.train_from_iterator((t for e in rows for t in (e.question, e.answer)), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|im_end|>")
    tokenizer.chat_template = CHAT
    shape: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 4}
    lm = LlamaForCausalLM(LlamaConfig(vocab_size=8192, bos_token_id=0, eos_token_id=1, tie_word_embeddings=True, **shape))
    model, encoded = TokenModel(lm).prepare(), encode_all(make_encoder(tokenizer, Data()), rows)
    optimizer, rng = torch.optim.AdamW(lm.parameters(), lr=2e-3), random.Random(0)
    for _ in range(400):
        model(collate(rng.sample(encoded, 16))).nll.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    model.undo()
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"{sum(p.numel() for p in lm.parameters()) / 1e6:.1f}M parameters")


def so_far(what: str) -> None:
    """CPU seconds of this process."""
    print(f"{time.process_time():7.2f} CPU s after {what}", flush=True)


def read(folder: str) -> tuple[Any, Any, Any, dict[str, Any]]:
    """The model, encoder, suite and its encoded rows."""
    import torch

    from deleatur.commands.inputs import encode_sets
    from deleatur.data.encode import make_encoder
    from deleatur.data.suites import read_suite
    from deleatur.modeling.loading import load
    from deleatur.settings import Data

    torch.set_num_threads(1)
    so_far("imports")
    (lm, tokenizer), suite = load(folder), read_suite(SUITE, Data())
    rows = encode_sets({n: suite.sets[n] for n in suite.evaluated_sets}, tokenizer, Data())
    return lm.eval(), make_encoder(tokenizer, Data()), suite, rows


def ours(folder: str) -> None:
    """Likelihoods of all sets, greedy answers of all but the holdout rows, and their metrics."""
    lm, encoder, suite, rows = read(folder)
    from deleatur.evaluation.aggregate import measure
    from deleatur.evaluation.predictions import Predictor
    from deleatur.modeling.patches import exact_matmul
    from deleatur.modeling.token_model import TokenModel
    from deleatur.run_folder.writer import set_metrics_of
    from deleatur.settings import Evaluation

    exact_matmul()
    predictor = Predictor(model=TokenModel(lm).prepare(), encoder=encoder, settings=Evaluation(new_tokens=NEW_TOKENS))
    so_far("reading")
    records = predictor.records(rows, generate=False)
    so_far("likelihoods")
    answers = predictor.generate([row for name in SETS for row in rows[name]])
    for name in SETS:
        pairs = zip(records[name], rows[name], strict=True)
        records[name] = [replace(a, generated=answers[r].text, cut=answers[r].cut) for a, r in pairs]
    so_far("greedy answers")
    figures = measure(records)
    utility = set_metrics_of(suite, {"before": records}, "before")["model_utility"]
    so_far("metrics")
    cut = sum(bool(answer.cut) for answer in answers.values())
    print(f"{cut} of {len(answers)} answers cut; ROUGE-L {figures['forget']['rouge_l']['value']:.3f}; utility {utility}")


def peer(folder: str) -> None:
    """Probability of the answers, of the restated and each wrong one; of forget rows again for extraction strength and, with
    the holdout rows, membership; answers in batches of 32, and their ROUGE."""
    from evaluation import BATCH, plain_answers, plain_pass
    from rouge_score.rouge_scorer import RougeScorer

    from deleatur.evaluation.predictions import ends
    from deleatur.evaluation.variants import other_answers

    lm, encoder, _, rows = read(folder)
    so_far("reading")
    others = {name: [[encoder(e) for e in other_answers(row.example)] for row in rows[name]] for name in SETS}
    passes = [rows["forget"], rows["forget"], rows["holdout"], *(rows[name] for name in SETS)]
    passes += [[o[k] for o in each if k < len(o)] for each in others.values() for k in range(max(map(len, each)))]
    for texts in passes:
        plain_pass(lm, texts)
    so_far(f"likelihoods, {sum(-(-len(texts) // BATCH) for texts in passes)} forwards")
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    for name in SETS:
        said = plain_answers(lm, [row.ids[: row.start] for row in rows[name]], ends(encoder), NEW_TOKENS, BATCH)
        for ids, row in zip(said, rows[name], strict=True):
            scorer.score(row.example.answer, encoder.tokenizer.decode(ids, skip_special_tokens=True))
    so_far("greedy answers and ROUGE")


def main() -> None:
    match sys.argv[1:]:
        case ["help"]:
            print(f"{statistics.median(took('-m', 'deleatur', '--help') for _ in range(REPEATS)):.3f} CPU s")
        case [("start" | "toy" | "ours" | "peer") as what, folder]:
            {"start": start, "toy": toy, "ours": ours, "peer": peer}[what](folder)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
