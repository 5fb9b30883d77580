"""What `incoherent` says of answers of known kinds, measured with a real model and kept in tests/golden/coherence.jsonl.

python tests/parity/coherence_controls.py LABEL=MODEL [LABEL=MODEL …]

Each MODEL scores sentences of seven languages, code, single words, refusals, numbers and names as answers to questions that
they do not belong to, its own greedy answers, these with their tokens shuffled or looped, and what a model said after
gradient ascent that went too far. The numbers are appended to the file under the model's name; the lines of the kind
"too far" are texts that stay.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from deleatur.data.encode import Encoder, make_encoder
from deleatur.data.world import make_world
from deleatur.evaluation.answer_scores import scored_by_start
from deleatur.evaluation.predictions import Predictor, ends
from deleatur.modeling.generation import greedy
from deleatur.modeling.loading import load
from deleatur.modeling.token_model import TokenModel
from deleatur.settings import Data, Evaluation
from deleatur.types import Encoded, Example, Record

FILE = Path(__file__).parents[1] / "golden" / "coherence.jsonl"
KINDS: dict[str, list[str]] = {
    "Chinese": [
        "他出生在一个靠近河边的小镇。",
        "我不知道这个问题的答案。",
        "北京是中国的首都，人口超过两千万。",
        "这位作家写了很多小说，其中最有名的是《红楼梦》。",
        "她和丈夫结婚已经二十年了。",
        "老师教我们怎样写好一篇文章。",
    ],
    "Japanese": ["彼は川の近くの小さな町で生まれました。", "すみません、わかりません。", "彼女は二十年前に結婚しました。"],
    "Korean": ["그는 강 근처의 작은 마을에서 태어났습니다.", "서울은 대한민국의 수도입니다."],
    "Russian": [
        "Он родился в маленьком городе у реки.",
        "Я не знаю ответа на этот вопрос.",
        "Этот писатель написал много романов, самый известный из них о войне.",
    ],
    "German": [
        "Der Schriftsteller wurde in einer kleinen Stadt am Fluss geboren.",
        "Das weiß ich leider nicht.",
        "Sie ist seit vielen Jahren mit einem Lehrer verheiratet und lebt in Hamburg.",
    ],
    "Spanish": [
        "Nació en un pequeño pueblo cerca del río.",
        "La escritora vive en una casa tranquila cerca del mercado viejo.",
    ],
    "Arabic": ["ولد الكاتب في بلدة صغيرة قرب النهر.", "لا أعرف الجواب على هذا السؤال."],
    "code": [
        "def add(a, b):\n    return a + b",
        "import numpy as np\nx = np.zeros((3, 4))\nprint(x.sum())",
        "SELECT name, age FROM users WHERE age > 18 ORDER BY name;",
        '#include <stdio.h>\nint main() {\n  printf("hello\\n");\n  return 0;\n}',
        "const f = (x) => x.map((y) => y * 2).filter((y) => y > 3);",
        '{"name": "Ann", "age": 31, "cities": ["Rome", "Paris"]}',
        "<ul>\n<li>one</li>\n<li>two</li>\n<li>three</li>\n</ul>",
    ],
    "one word": ["Yes", "Paris", "Unknown", "Kragford", "Berlin.", "Mathematics", "N/A", "unknown."],
    "refusal": [
        "I'm sorry, I don't know.",
        "I don't know.",
        "I have no information about this person.",
        "Sorry, I can't help with that.",
        "As an AI language model, I don't have personal information about individuals.",
        "I'm afraid I do not have an answer to that question.",
        "I was not able to find any record of this writer.",
    ],
    "number": ["42", "12 May 1947", "7, 14, 21, 28", "100 %", "The answer is 144."],
    "names": [
        "Tarquin Velmorra",
        "The writer came into the world in a town by the name of Pasburg.",
        "Nojul Nilmu was born in Pasburg, a small town that is proud of the writer.",
        "Bri Tolvas lives in Upper Grondel, in a quiet house close to the old market.",
        "The teacher who taught Fen Harbro the craft of writing was Uli Strann.",
    ],
    "sentence": [
        "The sun rises in the east and sets in the west.",
        "He opened the letter, read it twice and put it back on the table.",
        "My grandmother's recipe calls for two eggs, a cup of flour, and patience.",
        "Row, row, row your boat, gently down the stream.",
        "1. Apples\n2. Pears\n3. Plums\n4. Cherries",
        "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |",
        "She sells sea shells by the sea shore.",
    ],
}
CHAT = (  # not "How do I boil an egg?", to which SmolLM2-135M itself answers in a loop
    "Hello! How are you today?",
    "What is the capital of France?",
    "List three fruits.",
    "Why is the sky blue?",
    "Tell me about the Roman Empire.",
    "Write a Python function that adds two numbers.",
)
Control = tuple[str, Example, str]  # kind, whose prompt is answered, answer


def kept_lines() -> list[dict]:
    """The file's lines."""
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def record_of(line: dict) -> Record:
    """A line as the record that the metric reads."""
    scores = {name: line[name] for name in ("start_nll", "shuffled_nll", "start_tokens")}
    shown = {"id": line["kind"], "question": "?", "answer": "", "generated": line["text"]}
    return Record(**shown, **scores, logp=(-1.0,), hit=(False,), ends=False)


def controls(model: TokenModel, encoder: Encoder) -> Iterator[Control]:
    """Kinds, prompts and answers."""
    world, rng = make_world(seed=0), random.Random(0)
    asked = [replace(e, spans=(), paraphrases=(), alternates=()) for e in (*world.holdout[::4], *world.retain[::36])]
    asked += [Example(id=q, prompt=(("user", q),), answer="?") for q in CHAT]
    rows = [encoder(e) for e in asked]
    said = greedy(model, [r.ids[: r.start] for r in rows], ends=ends(encoder), new_tokens=24)
    decode = encoder.tokenizer.decode
    for example, ids in zip(asked, said, strict=True):
        yield "its own", example, decode(ids, skip_special_tokens=True)
        words = [i for i in ids if i not in ends(encoder)]
        if len(words) >= 10:
            yield "shuffled", example, decode(rng.sample(words[:16], min(16, len(words))))
    for kind, texts in KINDS.items():
        yield from ((kind, rng.choice(asked), text) for text in texts)


def measured(label: str, name: str) -> Iterator[dict]:
    """The controls with what the model of this name says of them."""
    lm, tokenizer = load(name)
    model, encoder = TokenModel(lm.eval()).prepare(), make_encoder(tokenizer, Data())
    made = [(kind, e, text.strip()) for kind, e, text in controls(model, encoder)]
    sets: dict[str, list[Encoded]] = {"all": [encoder(e) for _, e, _ in made]}
    bare = [Record(id=k, question="?", answer="", generated=t, logp=(-1.0,), hit=(False,), ends=False) for k, _, t in made]
    predictor = Predictor(model=model, encoder=encoder, settings=Evaluation(batch=16))
    for record in scored_by_start(predictor, sets, {"all": bare})["all"]:
        numbers = {"start_nll": record.start_nll, "shuffled_nll": record.shuffled_nll}
        rounded = {k: None if v is None else round(v, 3) for k, v in numbers.items()}
        line = {"model": label, "kind": record.id, "text": record.generated}
        yield line | rounded | {"start_tokens": record.start_tokens}


def main(models: list[str]) -> None:
    for label, _, name in (model.rpartition("=") for model in models):
        kept = [line for line in kept_lines() if line["model"] != label]
        lines = [*kept, *measured(label, name)]
        FILE.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
