"""How well do judges that need no endpoint distinguish restated right answers from wrong ones, and above what cosine?

    python examples/calibrate_judge.py --root data

TOFU's forget10 has for each question the answer in other words (right: reveals the fact) and five wrong answers in such
words. A judge is good when it ranks the right ones higher (AUC), and when one threshold, found on half of the authors, parts
them on the other half (balanced accuracy). `ramble` sets two right answers about the same author behind each,
`swapped` makes the answer in other words the reference, whose very words the wrong answers then have.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tyro

from deleatur.data.tofu import suite
from deleatur.evaluation.judges.cosine import cosine
from deleatur.evaluation.metrics.membership import auc
from deleatur.evaluation.metrics.revealed import revealed
from deleatur.evaluation.metrics.rouge import rouge_l
from deleatur.settings import Data, Judge
from deleatur.types import Example, Record

AUTHOR = 20  # rows in a row about one author
FORMS = ("plain", "ramble", "swapped")
Judged = tuple[list[float], list[float]]  # of right answers, of wrong ones


@dataclass(frozen=True, kw_only=True)
class Args:
    """Calibrate the cosine judge."""

    root: str | None = None
    """Folder in which tofu/ lies (default: $DELEATUR_DATA, then the hub)."""
    model: str | None = None
    """Embedding model: folder or name on the hub (default: all-MiniLM-L6-v2)."""
    rows: int = 100
    """Questions that are used, spread evenly over the 400, at least 4; 100 take a minute on one core."""


def records_of(examples: Sequence[Example], i: int, form: str) -> list[Record]:
    """The right answer to a question, then the wrong ones, as if they had been generated."""
    e = examples[i]
    reference, right = (e.restated or "", e.answer) if form == "swapped" else (e.answer, e.restated or "")
    first = i - i % AUTHOR
    more = [examples[first + (i + step) % AUTHOR].restated or "" for step in (7, 3)] if form == "ramble" else []
    said = [" ".join([text, *more]) for text in (right, *e.wrong)]
    return [Record(id=e.id, question=e.question, answer=reference, generated=s, logp=(), hit=(), ends=False) for s in said]


def in_rows(judge: Callable[[list[Record]], list[float]], rows: list[list[Record]]) -> list[list[float]]:
    """Every record's score, all asked at once."""
    values = iter(judge([r for row in rows for r in row]))
    return [[next(values) for _ in row] for row in rows]


def sides(scores: Sequence[Sequence[float]]) -> Judged:
    """Rows whose first score is the right answer's."""
    return [row[0] for row in scores], [score for row in scores for score in row[1:]]


def share(scores: Sequence[float], threshold: float) -> float:
    """How many of them are above the threshold, in [0, 1]."""
    return sum(score > threshold for score in scores) / len(scores)


def accuracy(judged: Judged, threshold: float) -> float:
    """Mean of the shares of right answers above the threshold and of wrong ones not above it."""
    return (share(judged[0], threshold) + 1 - share(judged[1], threshold)) / 2


def main(args: Args) -> None:
    """A line for each judge and form of answers."""
    examples = suite("forget10", Data(root=args.root)).sets["forget"]
    chosen = [i * len(examples) // args.rows for i in range(args.rows)]
    near = cosine(Judge(kind="cosine", model=args.model))
    judges = {
        "cosine": near.similarities,
        "contained": lambda records: [revealed(r) or 0.0 for r in records],
        "rouge_l": lambda records: [rouge_l(r) or 0.0 for r in records],
    }
    print(f"{'answers':8} {'judge':10} {'AUC':6} threshold  right and wrong above it, balanced accuracy, on rows held out")
    for name, judge in judges.items():
        forms = {form: in_rows(judge, [records_of(examples, i, form) for i in chosen]) for form in FORMS}
        for form, scores in {**forms, "all": [row for rows in zip(*forms.values(), strict=True) for row in rows]}.items():
            half = len(scores) // 2
            known, held, both = sides(scores[:half]), sides(scores[half:]), sides(scores)
            best = max(sorted({*known[0], *known[1]}), key=lambda t: accuracy(known, t))
            area = auc(both[1], both[0])["value"]  # counts pairs in which the first is lower
            line = f"{form:8} {name:10} {area:.3f}  {best:.3f}      {share(held[0], best):.3f} {share(held[1], best):.3f}"
            print(f"{line} {accuracy(held, best):.3f}", end="")
            print(f" ({accuracy(both, near.threshold):.3f} above {near.threshold:g})" if name == "cosine" else "")


if __name__ == "__main__":
    main(tyro.cli(Args))
