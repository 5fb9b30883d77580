"""Membership inference attacks: are forget rows more, or less, familiar than unseen rows?"""

from __future__ import annotations

from deleatur.auditing.arms import Arm
from deleatur.auditing.attacks.table import Attack, Findings, one_by_one
from deleatur.data.encode import encode_all
from deleatur.evaluation.metrics.familiarity import min_k, min_k_plus, zlib_loss
from deleatur.evaluation.metrics.probability import loss
from deleatur.evaluation.predictions import make_record

SCORES = {"loss": loss, "min_k": min_k, "min_k_plus": min_k_plus, "zlib": zlib_loss}


def run(arm: Arm, setting: str) -> Findings:
    """Unfamiliarity of the rows, then of the unseen ones."""
    encoded = encode_all(arm.encoder, (*arm.rows, *arm.unseen))
    records = [make_record(row, predicted) for row, predicted in zip(encoded, arm.predictions(encoded), strict=True)]
    return Findings(values={name: tuple(score(r) for r in records) for name, score in SCORES.items()})


MEMBER = Attack(
    asks="Area under the curve between rows to forget and unseen ones, by mean NLL, Min-K%, Min-K%++ and NLL over packed "
    "length; below one half, rows were forgotten more than they were ever unknown.",
    source="1709.01604, 2310.16789, 2404.02936, 2012.07805",
    settings=lambda s: ("likelihood",),
    run=one_by_one(run),
    kind="area",
    needs=frozenset({"holdout"}),
)
