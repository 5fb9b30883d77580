"""Early stopping: rolls back a training that damages the model, ends one that is done, and notes one without effect."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor

from deleatur.data.batches import in_batches
from deleatur.data.encode import Encoder, encode_all
from deleatur.data.spacing import evenly_spaced
from deleatur.distributed.processes import fingerprints, gather, mesh_of, put
from deleatur.errors import Diverged
from deleatur.evaluation.variants import variants
from deleatur.modeling.start_pass import StartPass
from deleatur.modeling.token_model import TokenModel
from deleatur.progress import Step
from deleatur.protocols import Importance, Stateful
from deleatur.run_folder.file_types import Ended
from deleatur.settings import Guard, Train
from deleatur.training.checkpoint import Checkpoints
from deleatur.training.level import Level
from deleatur.types import Encoded, Example, Record

WINDOW = 5  # steps over which the retain NLL is averaged
MIN_START = 1.0  # nats; a start below counts as this much: three times a fine-tuned model's 0.05 is not damage
MIN_RISE = 0.05  # nats; a smaller rise of the forget rows' NLL counts as none
ROWS = 32  # most rows of a kind that are evaluated while training
DONE_SHARE = 0.95  # share of the unseen rows' NLL at which the rate begins to fall to 0, which takes it the rest of the way
COOL_DOWN = 1  # the fall takes one step for so many that were taken before: retain rows recover while it lasts
PROBE_ROWS = 16  # most forget rows that are looked at to see whether training is done
POINTS = 6  # of a curve that is put into a sentence
EVERYDAY = (
    "The sun rises in the east and sets in the west.",
    "Please close the door when you leave the room.",
    "Water boils at a lower temperature high in the mountains.",
    "She bought bread, milk and a dozen eggs at the market.",
    "If it rains tomorrow, we will stay at home and read.",
    "Two plus two is four, and three times three is nine.",
    "The train to the city leaves every hour from platform one.",
    "Most birds build a nest before they lay their eggs.",
    "He opened the letter, read it twice and put it back on the table.",
    "A year has twelve months, and a week has seven days.",
    "The children played in the garden until it was dark.",
    "To make tea, pour hot water over the leaves and wait a few minutes.",
)


class TrainingMonitor:
    """Watches one training of the model that `first` has read before.

    `ended` is "all steps", "done" or "rolled back"; `notes` says in sentences what a reader of the results has to know.
    """

    def __init__(
        self,
        guard: Guard,
        train: Train,
        first: StartPass,
        rows: Mapping[str, list[Encoded]],
        encoder: Encoder,
    ) -> None:
        self.guard, self.train, self.model, self.batch = guard, train, first.model, first.batch
        self.ended: Ended = "all steps"
        self.ending = False
        self.notes: list[str] = []
        sentences = [Example(id=f"everyday-{i}", prompt=(), answer=text) for i, text in enumerate(EVERYDAY)]
        sets = variants(encoder, {name: rows.get(name, ()) for name in ("forget", "holdout")})
        probed = {name: sets.get(f"{name}_paraphrased", sets.get(name, ())) for name in ("forget", "holdout")}
        self.rows_of = {
            "everyday": encode_all(encoder, sentences if guard.probe is not None else ()),
            "retain": evenly_spaced(rows["retain"], ROWS if guard.retain is not None or guard.stop is not None else 0),
            **{name: evenly_spaced(found, PROBE_ROWS if guard.stop is not None else 0) for name, found in probed.items()},
        }
        self.start = {name: first.mean_nll(self.rows_of[name]) for name in ("everyday", "retain", "holdout")}
        self.weights_of: dict[tuple[int, ...], Tensor] = {}  # importance of an answer's tokens, by these
        self.level = Level(self.start["holdout"], f"{len(rows['holdout'])} holdout rows") if rows.get("holdout") else None
        self.probed: list[tuple[int, float]] = []
        self.weights = [(name, p) for name, p in first.model.named_parameters() if p.requires_grad]
        self.sums = fingerprints(p for _, p in self.weights)

    def set_target(self, importance: Importance, rows: Sequence[Encoded], level: Level | None, first: StartPass) -> None:
        """Training is done once the tokens that the importance selects in forget rows are as unlikely as in unseen rows."""
        if level is None:
            return
        self.level = level
        for tokens in first.outputs(rows, importance.requires):
            each = importance(tokens).float().cpu().split([len(r.ids) - r.start for r in tokens.rows])
            self.weights_of |= {
                r.ids[r.start :]: g for r, g in zip(tokens.rows, each, strict=True) if not bool(g.isnan().any())
            }

    @torch.no_grad()
    def selected_nll(self, name: str) -> float:
        """Mean NLL of the rows of a kind as the model is now, each token by its importance, nats; 0 without rows."""
        was = self.model.training
        self.model.eval()
        total, mass = 0.0, 0.0
        for _, batch in in_batches(self.rows_of[name], self.batch):
            nll = self.model(batch.to(self.model.device)).nll.float().cpu()
            g = torch.cat([self._weights(row) for row in batch.rows])
            total, mass = total + float((g * nll).sum()), mass + float(g.sum())
        self.model.train(was)
        return total / mass if mass else 0.0

    def _weights(self, row: Encoded) -> Tensor:
        """Importance of a row's tokens: the known, else the marked ones where the others have one at all, else all."""
        size = len(row.ids) - row.start
        marked = torch.tensor(row.gold or [True] * size, dtype=torch.float32) if self.weights_of else torch.ones(size)
        return self.weights_of.get(row.ids[row.start :], marked)

    def gap(self) -> tuple[float, float]:
        """Mean NLL of the selected tokens of forget rows and of unseen rows, as the model is now, nats.

        Unseen rows are read again where there are some: what training does to all rows alike is not forgetting.
        """
        unseen = self.selected_nll("holdout") if self.rows_of["holdout"] else self.level.nll if self.level else 0.0
        return self.selected_nll("forget"), unseen

    def is_done(self) -> bool:
        """Are forget rows nearly as unlikely as unseen rows, and retain rows not lost?"""
        if self.level is None:
            return False
        forget, unseen = self.gap()
        return forget >= DONE_SHARE * unseen and self.nll("retain") <= self.start["retain"] + self.guard.budget

    @torch.no_grad()
    def nll(self, name: str) -> float:
        """Mean NLL of the rows of a kind as the model is now, nats a token; 0 where there are none."""
        was = self.model.training
        self.model.eval()
        parts = [self.model(b.to(self.model.device)).nll for _, b in in_batches(self.rows_of[name], self.batch)]
        self.model.train(was)
        return float(torch.cat(parts).float().mean()) if parts else 0.0

    def check_step(self, steps: Sequence[Step], *, kept: bool, count: int) -> int | None:
        """After a step, before its checkpoint where one is `kept`: in how many steps to end, or None to continue.

        Whether training is done is looked at only as long as that would end it before its last step of `count`.

        Raises Diverged where the model is damaged.
        """
        number, guard, now = steps[-1].step, self.guard, fmean(s.retain_nll for s in steps[-WINDOW:])
        if not self.allows(guard.retain, "retain", now):
            self._refuse("the retain rows' NLL", guard.retain, "retain", [(s.step, s.retain_nll) for s in steps])
        if kept and guard.probe is not None:
            self.probed.append((number, self.nll("everyday")))
            if not self.allows(guard.probe, "everyday", self.probed[-1][1]):
                self._refuse("the NLL of everyday sentences", guard.probe, "everyday", self.probed)
        left = -(-number // COOL_DOWN)
        if self.ending or guard.stop is None or number % guard.stop or number + left >= count or not self.is_done():
            return None
        self.ending = True
        return left

    def allows(self, factor: float | None, name: str, now: float) -> bool:
        """Is an NLL at most `factor` times its start? NaN is not."""
        return factor is None or now <= factor * max(self.start[name], MIN_START)

    def _refuse(self, what: str, factor: float | None, name: str, curve: Sequence[tuple[int, float]]) -> None:
        ends = [(i + 1) * len(curve) // POINTS - 1 for i in range(POINTS)] if len(curve) > POINTS else range(len(curve))
        course = ", ".join(f"{curve[i][1]:.3g} (step {curve[i][0]})" for i in ends)
        train, start = self.train, f"{self.start[name]:.3g}"
        raise Diverged(
            f"step {curve[-1][0]}: {what} passed {factor:g} times its start (1 nat at least): {start}, {course}; "
            f"lower train.lr ({train.lr:g}) or train.gamma ({train.gamma:g}), or raise train.alpha ({train.alpha:g})"
        )

    @contextlib.contextmanager
    def rolling_back(
        self, importance: Importance, steps: list[Step], checkpoints: Checkpoints | None, count: int
    ) -> Iterator[None]:
        """Notes where a training ended before its last step of `count`; rolls back one that damaged the model, to its newest
        checkpoint, and cuts `steps` there.

        Raises Diverged where there is no checkpoint: the model then stays damaged.
        """
        try:
            yield
            if steps and steps[-1].step < count:
                self._note_end(steps[-1].step, count)
        except Diverged as e:
            back = 0 if checkpoints is None else roll_back(self.model, importance, checkpoints)
            if not back:
                raise Diverged(f"{e}; there is no checkpoint to go back to" if checkpoints else str(e)) from e
            self.ended = "rolled back"
            self.notes.append(f"Rolled back to the checkpoint of step {back}, after {e}.")
            del steps[back:]
        self.model.eval()
        self._name_untouched()

    def _note_end(self, step: int, count: int) -> None:
        forget, unseen = self.gap()
        self.ended = "done"
        self.notes.append(
            f"Training ended after step {step} of {count}, when the forget tokens were about as unlikely as in unseen rows: "
            f"{forget:.3g} nats, there {unseen:.3g} ({self.level.source if self.level else 'no level'})."
        )

    def _name_untouched(self) -> None:
        now = fingerprints(p for _, p in self.weights)
        moved = [any(parts) for parts in zip(*gather([a != b for a, b in zip(self.sums, now, strict=True)]), strict=True)]
        same = [name for (name, _), some in zip(self.weights, moved, strict=True) if not some]
        if same:
            which = f"{len(same)} of {len(self.weights)} trained tensors never changed, {same[0]} first"
            self.notes.append(f"{which}: no gradient reaches them, or it is too small for their precision.")


@torch.no_grad()
def roll_back(model: TokenModel, importance: Importance, checkpoints: Checkpoints) -> int:
    """Trained weights and importance as the newest checkpoint has them; returns its step, or 0 where there is none."""
    if step := checkpoints.newest():
        trained = [p for p in model.parameters() if p.requires_grad]
        state = checkpoints.load(step, mesh=mesh_of(trained[0]))
        for p, kept in zip(trained, state["model"]["weights"], strict=True):
            put(p, kept)
            p.grad = None
        if isinstance(importance, Stateful):
            importance.load_state_dict(state["importance"])
    return step


def nothing_forgotten(before: Sequence[Record], after: Sequence[Record], train: Train) -> list[str]:
    """A sentence where the forget rows' NLL rose by less than MIN_RISE, else none."""
    was, now = (-fmean(x for r in records for x in r.logp) for records in (before, after))
    if now - was >= MIN_RISE:
        return []
    advice = f"raise train.lr ({train.lr:g}) or train.gamma ({train.gamma:g}), or train longer"
    return [f"The forget rows' NLL was {was:.3g} nats a token and is {now:.3g}; if the model knew these rows, {advice}."]
