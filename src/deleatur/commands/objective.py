"""What the trials of a search maximise."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deleatur.config.run_config import nearest
from deleatur.errors import ConfigError
from deleatur.evaluation.aggregate import Figures, quality, score_figures
from deleatur.evaluation.metrics import METRICS
from deleatur.evaluation.metrics.membership import (
    MEMBERS,
    OTHERS,
    SIDES,
    mia_loss,
    mia_min_k,
    mia_min_k_plus,
    mia_zlib,
)
from deleatur.evaluation.metrics.nearness import other_nll, specific_nll
from deleatur.evaluation.metrics.table import Evidence, mean
from deleatur.types import Record, Suite

UQ, UNSEEN = "uq", "uq_unseen"
ATTACKS = (mia_loss, mia_min_k, mia_min_k_plus, mia_zlib)  # that need no pass of their own
KINDS = (specific_nll, other_nll)  # too familiar facts and damaged words cancel out in the mean over an answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """UQ; UQ and how near the forget rows are to unseen ones; or a metric, its value on retain minus forget sets.

    Raises:
        ConfigError: `name` is none of these, or a metric that should not fall on forget rows.
    """

    name: str
    suite: Suite

    def __post_init__(self) -> None:
        usable = [name for name, m in METRICS.items() if m.forget == "lower" and not m.everywhere]
        if self.metric not in usable:
            raise ConfigError(
                f"objective is {self.name!r}{nearest(self.name, [UQ, UNSEEN, *usable])}, but must be {UQ}, {UNSEEN}, "
                f"{', '.join(usable)}"
            )
        if self.name == UNSEEN and not any(name in self.suite.sets for name in OTHERS):
            raise ConfigError(f"{UNSEEN} {SIDES}")

    @property
    def metric(self) -> str:
        """The metric of each row that it is made of."""
        return self.suite.score if self.by_quality else self.name

    @property
    def by_quality(self) -> bool:
        """Is it made of FQ and RD?"""
        return self.name in (UQ, UNSEEN)

    @property
    def evaluated(self) -> tuple[str, ...]:
        """The sets whose records it needs."""
        attacked = [name for name in (MEMBERS, *OTHERS) if self.name == UNSEEN and name in self.suite.sets]
        return tuple(dict.fromkeys((*self.suite.forget_sets, *self.suite.retain_sets, *attacked)))

    def check(self, before: Figures) -> None:
        """Refuse what cannot be read on the suite's sets, or is 0 from the start."""
        scored = (*self.suite.forget_sets, *self.suite.retain_sets)
        if missing := [name for name in scored if self.metric not in before.get(name, {})]:
            raise ConfigError(f"{missing[0]} rows have no {self.metric}; give another --objective, and --out a new folder")
        if self.by_quality and self._quality(before, before)["uq"] is None:
            why = f"uq is not defined at a {self.metric} of 0 before"
            raise ConfigError(f"{why}; give another --objective, and --out a new folder")

    def value(self, before: Figures, records: Mapping[str, Sequence[Record]]) -> float:
        """The higher the better, from the figures before and the records after.

        `uq_unseen` is the harmonic mean of FQ, 100 − RD and 100·(1 − 2·|AUC − ½|), 0 where one of them is not positive. AUC
        is that of the membership attack that tells forget rows from unseen ones best, in either direction: of `ATTACKS`, and
        of the mean NLL of the tokens that are specific and of all others, where that is known (`KINDS`).
        """
        scored = (*self.suite.forget_sets, *self.suite.retain_sets)
        if not self.by_quality:
            of = METRICS[self.metric].of
            means = {n: mean([v for r in records[n] if (v := of(r)) is not None])["value"] for n in scored}
            retain, forget = (
                statistics.fmean(means[n] for n in part) for part in (self.suite.retain_sets, self.suite.forget_sets)
            )
            return retain - forget
        found = self._quality(before, {n: score_figures(records[n], self.metric) for n in scored})
        if self.name == UQ or not found["uq"]:
            return found["uq"] or 0.0
        apart = 2 * _deviation(Evidence(records=records, forget_sets=self.suite.forget_sets))
        return statistics.harmonic_mean([found["fq"] or 0.0, 100 - (found["rd"] or 0.0), 100 * (1 - apart)])

    def _quality(self, before: Figures, after: Figures) -> dict[str, float | None]:
        sets = {"forget_sets": self.suite.forget_sets, "retain_sets": self.suite.retain_sets}
        return quality(before, after, metric=self.suite.score, **sets)


def _deviation(evidence: Evidence) -> float:
    """How far the AUC of the attack that is furthest from ½ is from it. Raises ConfigError where none can be made."""
    by_row = (a["value"] for attack in ATTACKS if not isinstance(a := attack(evidence), str))
    by_kind = (a["auc"] for kind in KINDS if not isinstance(a := kind(evidence), str))
    aucs = [float(value) for value in (*by_row, *by_kind)]
    if not aucs:
        raise ConfigError(f"{UNSEEN} {SIDES}")
    return max(abs(auc - 0.5) for auc in aucs)
