"""The verdict of a run, from `results.json` alone: one sentence, and the reasons with their numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deleatur.report.tables import by_judge, percent, set_name
from deleatur.run_folder.file_types import RunResults
from deleatur.run_folder.ledger import GONE, KNOWN

HALF = 0.5  # share left above which nothing worth the name was forgotten
BROKEN = 0.1  # rise of the share of incoherent answers that is called damage: five times what a sound model may have
LOST = 0.1  # share of the retain score whose loss is called a loss; below, one row in ten of a small set is noise
TAUGHT = 0.1  # rise of the retain score, in [0, 1], that says that training taught the rows
NEAR = 0.15  # deviation of the loss attack from where it should be that still counts as near: AUC .35 to .65
UNSEEN_MARGIN = 0.05  # above the score of unseen rows, within which forget rows are at their level


Tone = Literal["good", "mixed", "bad"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """`headline` is one sentence; `reasons` follow with their numbers; `notes` are technical and come last.

    `tone`: is the sentence good news, bad news, or some of both? `forgotten`: is nothing left to forget?
    """

    headline: str
    tone: Tone
    forgotten: bool
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """All of it, in the order in which it is to be read."""
        return [f"{self.headline}.", *self.reasons, *self.notes]


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """A figure of one group of sets before and after; `n` counts rows. None where a side was not measured."""

    before: float | None
    after: float | None
    n: int

    @property
    def given(self) -> bool:
        """Were both sides measured?"""
        return self.before is not None and self.after is not None


def verdict(results: RunResults) -> Verdict:
    """The headline, its reasons and the technical notes of a run. Never raises on results of older runs, which say less."""
    found = Findings(results)
    notes = tuple(str(note) for note in results.get("notes") or ())
    sentence, tone = headline(found)
    return Verdict(headline=sentence, tone=tone, forgotten=found.forgotten, reasons=tuple(reasons(found)), notes=notes)


class Findings:
    """The figures of the results that decide the verdict."""

    def __init__(self, results: RunResults) -> None:
        suite = results.get("suite") or {}
        self.results, self.judge = results, suite.get("judge")
        self.forget_sets, self.retain_sets = suite.get("forget_sets") or ["forget"], suite.get("retain_sets") or ["retain"]
        self.score = self._score(suite.get("score") or "revealed")
        self.forget, self.retain = self.side(self.forget_sets, self.score), self.side(self.retain_sets, self.score)
        self.reworded = self.side([f"{name}_paraphrased" for name in self.forget_sets], self.score)
        self.unseen = self.side(["holdout"], self.score)
        self.forget_broken, self.retain_broken = (
            self.side(names, "incoherent") for names in (self.forget_sets, self.retain_sets)
        )
        self.rolled_back = results.get("ended") == "rolled back"

    def _score(self, wanted: str) -> str:
        """The suite's score, or where forget rows lack it the first figure of theirs in [0, 1]."""
        after = (self.results.get("after") or {}).get(self.forget_sets[0]) or {}
        return wanted if wanted in after else next((m for m in FALLBACKS if m in after), wanted)

    def side(self, names: Sequence[str], metric: str) -> Side:
        """The mean over the sets, before and after; None unless each of them was measured."""
        sides = [[(self.results.get(when) or {}).get(n, {}).get(metric) for n in names] for when in ("before", "after")]
        before, after = (_mean(figures) for figures in sides)
        counts = [int(f["n"]) for f in (sides[1] if after is not None else sides[0]) if f]
        return Side(before=before, after=after, n=sum(counts))

    def set_metric(self, name: str) -> Mapping[str, Any]:
        """A set metric after the run; empty where it was not given."""
        figure = ((self.results.get("set_metrics") or {}).get("after") or {}).get(name) or {}
        return figure if _number(figure.get("value")) is not None else {}

    @property
    def left(self) -> float | None:
        """The largest share of the score before that is left, in the trained phrasing or paraphrased."""
        known = self.known_before
        return max((s.after / known for s in (self.forget, self.reworded) if s.after is not None and known), default=None)

    @property
    def known_before(self) -> float | None:
        """The score before: as asked, or paraphrased where that is more and as asked it is no more than chance."""
        asked, reworded = self.forget.before, self.reworded.before
        return asked if asked is None or reworded is None or asked > self.chance else max(asked, reworded)

    @property
    def chance(self) -> float:
        """The score before up to which nothing is known: chance, or that of unseen rows."""
        return max(KNOWN, 0.0 if self.unseen_known else self.unseen.before or 0.0)

    @property
    def unseen_known(self) -> bool:
        """Did the model know the rows given as unseen, so that they are no measure of what it never saw?"""
        return (self.unseen.before or 0.0) > HALF

    @property
    def nothing_known(self) -> bool:
        """Did the model know no more of the forget rows than chance, or than of unseen rows, in other words either?"""
        return self.known_before is not None and self.known_before <= self.chance

    @property
    def forgotten(self) -> bool:
        """Is nothing left to forget, since it is forgotten or was not known?"""
        if self.rolled_back or self.forget.before is None or self.forget.after is None:
            return False
        left = self.left
        return self.nothing_known or (left is not None and left <= HALF and (left <= GONE or _at_unseen(self)))

    @property
    def broken(self) -> bool:
        """Are many more forget answers incoherent than before?"""
        return _rise(self.forget_broken) > BROKEN

    @property
    def retain_made(self) -> bool:
        """Are the retain rows the model's own answers before training, so that a change of a guess counts as a loss?"""
        run = self.results.get("run") or {}
        return "retain" in run and not run["retain"] and not run.get("suite")

    @property
    def retain_lost(self) -> bool:
        """Was the score on retain rows lost, or are many more of their answers incoherent?"""
        before, after = self.retain.before, self.retain.after
        lost = not self.retain_made and bool(before) and after is not None and (before - after) / before > LOST
        return lost or _rise(self.retain_broken) > BROKEN

    @property
    def retain_taught(self) -> bool:
        """Did the score on retain rows rise, by training on them?"""
        return _rise(self.retain) > TAUGHT

    @property
    def attack(self) -> tuple[float, float] | None:
        """AUC of the attack by loss and where it should be, if the two are surely and clearly apart."""
        figure = self.set_metric("mia_loss")
        value, aim = _number(figure.get("value")), _number(figure.get("retrained"))
        if value is None:
            return None
        aim = 0.5 if aim is None else aim
        low, high = (_number(figure.get(k)) for k in ("low", "high"))
        surely = low is None or high is None or not low <= aim <= high
        return (value, aim) if surely and abs(value - aim) > NEAR else None


FALLBACKS = ("judged", "revealed", "accuracy", "rouge_l", "probability")


def headline(found: Findings) -> tuple[str, Tone]:
    """One sentence without its full stop, and its tone."""
    if found.rolled_back:
        return "Rolled back: training damaged the model, which is now that of an earlier step", "bad"
    left, lost = found.left, ", and retain rows were lost" if found.retain_lost else ""
    if found.forget.before is None or found.forget.after is None:
        return "Nothing was measured on forget rows", "mixed"
    if found.nothing_known:
        known, n = round(found.forget.before * found.forget.n), found.forget.n
        return f"Nothing to forget: the model knew {known} of {n}{lost}", "mixed"
    if left is None or left > HALF:
        return f"Not forgotten{lost}", "bad"
    harm = list(harms(found))
    done = "Forgotten" if found.forgotten else "Partly forgotten"
    if harm:
        return f"{done}, but {(', and ' if ':' in harm[0] else ' and ').join(harm[:2])}", "mixed"
    if found.forget_broken.after is None:
        return f"{done}; whether the answers are coherent was not measured", "mixed"
    if not found.retain.given or found.retain_made:
        why = ": no retain rows were given" if found.retain_made else ""
        return f"{done}; what else was lost was not measured{why}", "mixed"
    return f"{done}, and nothing else lost", "good"


def harms(found: Findings) -> Iterator[str]:
    """Unwanted effects of the run, the worst first."""
    if found.broken:
        yield "answers about it are incoherent"
    if found.retain_lost:
        yield "retain rows were lost"
    if attack := found.attack:
        over = "too far" if attack[0] < attack[1] else "not far enough"
        yield f"{over}: its rows can be distinguished from unseen rows"
    if found.retain_taught:
        many = (found.retain.before or 0.0) > HALF
        yield f"retain rows were not {'all known' if many else 'known'} before: this run taught them"


def _at_unseen(found: Findings) -> bool:
    """Are forget rows, paraphrased too, at the level of unseen rows?"""
    if found.unseen.after is None or found.unseen_known:
        return False
    sides = (found.forget.after, found.reworded.after)
    return max((a for a in sides if a is not None), default=1.0) <= found.unseen.after + UNSEEN_MARGIN


def reasons(found: Findings) -> Iterator[str]:
    """Sentences with the numbers that the headline rests on, the three that decide it first."""
    name = by_judge(found.score, found.judge)
    head = f"{name[0].upper()}{name[1:]} on {_names(found.forget_sets)}: {_moved(found.forget)}"
    yield head + (f"; on {_names(found.retain_sets)}: {_moved(found.retain)}" if found.retain.n else "") + "."
    if found.nothing_known:
        yield "A model that does not know the rows cannot show that a method forgets them."
    if found.retain_taught:
        yield "The gain on retain rows is training on them, not a merit of forgetting; fine-tune on them first."
    paraphrased = list(_paraphrased(found))
    decides = (found.reworded.after or 0.0) > max(found.forget.after or 0.0, KNOWN)
    yield from paraphrased if decides else ()
    yield from _language(found)
    yield from _distinguished(found)
    yield from () if decides else paraphrased
    if found.unseen.n:
        aim = "This is the level that forget rows should come near."
        known = "The model knew most of them, so they are no measure of rows that it never saw; give others."
        yield f"Unseen rows: {_moved(found.unseen)}. {known if found.unseen_known else aim}"
    yield from _beyond(found)


def _paraphrased(found: Findings) -> Iterator[str]:
    if found.reworded.n:
        kept = found.side([f"{n}_paraphrased" for n in found.retain_sets], found.score)
        more = f"; {_names(found.retain_sets)} {_moved(kept)}" if kept.n else ""
        yield f"Paraphrased: {_names(found.forget_sets)} {_moved(found.reworded)}{more}."


def _language(found: Findings) -> Iterator[str]:
    broken, kept = found.forget_broken, found.retain_broken
    if broken.after is not None:
        more = f"; on {_names(found.retain_sets)}: {_moved(kept)}" if kept.after is not None else ""
        yield f"Incoherent answers on {_names(found.forget_sets)}: {_moved(broken)}{more}."
    elif why := found.results.get("no_coherence"):
        yield f"Whether the answers are coherent was not measured: {why}."


def _distinguished(found: Findings) -> Iterator[str]:
    if figure := found.set_metric("mia_loss"):
        aim, low, high = (_number(figure.get(k)) for k in ("retrained", "low", "high"))
        of = "not distinguishable from unseen rows" if aim is None else "like the retrained model"
        between = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
        yield (
            f"A membership attack by loss separates forget rows from unseen ones with AUC {figure['value']:.2f}{between} "
            f"(n = {figure.get('n', '?')}); {0.5 if aim is None else aim:.2f} = {of}, "
            "above = still recognised, below = pushed too far."
        )


def _beyond(found: Findings) -> Iterator[str]:
    parts = [
        f"{what} {f['value']:+.2f} ± {_number(f.get('se')) or 0:.2f} nats a token (n = {f.get('n', '?')})".replace("-", "−")
        for key, what in (("specific_nll", "what is specific"), ("other_nll", "all else"))
        if (f := found.set_metric(key))
    ]
    if parts:
        yield f"NLL of forget rows beyond that of unseen rows: {', '.join(parts)}; 0 = alike."


def _moved(side: Side) -> str:
    return f"{percent(side.before)} → {percent(side.after)} (n = {side.n})"


def _names(sets: Sequence[str]) -> str:
    return ", ".join(map(set_name, sets))


def _rise(side: Side) -> float:
    """How much more there is after than before; what was not measured before counts as none."""
    return 0.0 if side.after is None else side.after - (side.before or 0.0)


def _mean(figures: Sequence[Mapping[str, Any] | None]) -> float | None:
    values = [_number(f["value"]) for f in figures if f]
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known and len(known) == len(figures) else None


def _number(value: object) -> float | None:
    """A finite number; None for all else."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
