"""What is forgotten against what is kept, and how importance agrees with the spans: a point a method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deleatur.report.compare import ComparedMethod
from deleatur.report.compare_columns import COLUMNS, Cell, Column, cell, score_of
from deleatur.report.compare_text import ordered
from deleatur.report.figures import FORGET, GRID, INK, STRONG, Chart, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BY_NAME = {column.name: column for column in COLUMNS}
FORGET_SCORE, RETAIN_SCORE, AUC = BY_NAME["forget, %"], BY_NAME["retain, %"], BY_NAME["ROC-AUC"]
BEFORE = [Column(name=part, meaning="", read=score_of(part, "before")) for part in ("forget_sets", "retain_sets")]
SIZE = (4.9, 3.9)  # inches; the axes take BOX of it
BOX = (0.115, 0.125, 0.855, 0.85)
LETTER, LINE, DOT = 4.6, 9.6, 3.5  # points: a letter's width, a line's height, half a dot with the air around it
MAX_NAMES = 4  # in one label
NEAR = 6.0  # points; closer dots share a label


@dataclass(frozen=True, kw_only=True, slots=True)
class Dot:
    """A method's place on the axes, in points from the lower left corner."""

    name: str
    x: float
    y: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """Names of dots that all but coincide, as lines of one text; its lower left corner, and the dot it belongs to."""

    text: str
    x: float
    y: float
    dot: Dot

    @property
    def width(self) -> float:
        """Width in points."""
        return LETTER * max(map(len, self.text.split("\n")))

    @property
    def height(self) -> float:
        """Height in points."""
        return LINE * (self.text.count("\n") + 1)

    def meets(self, x: float, y: float, width: float, height: float) -> bool:
        """Does it overlap this rectangle, given by its lower left corner and size?"""
        return x < self.x + self.width and self.x < x + width and y < self.y + self.height and self.y < y + height


def frontier(runs: Sequence[ComparedMethod]) -> Chart | None:
    """Score on sets that should go against that on sets that should stay; None where no method has both."""
    points = [(run, cell(run, FORGET_SCORE), cell(run, RETAIN_SCORE)) for run in ordered(runs)]
    points = [(run, x, y) for run, x, y in points if x.n and y.n]
    if not points:
        return None
    start = [cell(points[0][0], column) for column in BEFORE]
    unnamed: list[str] = []

    def onto(figure: Figure) -> None:
        """Draw the methods as points with their names."""
        axes = figure.add_axes(BOX)
        _points(axes, points)
        marks = [(run.label, x.mean, y.mean) for run, x, y in points]
        if start[0].mean is not None and start[1].mean is not None:
            axes.plot(start[0].mean, start[1].mean, "o", color=INK, markerfacecolor="none", markersize=6, zorder=2)
            marks.append(("before", start[0].mean, start[1].mean))
        _label(axes, [(name, x or 0.0, y or 0.0) for name, x, y in marks], unnamed)

    svg = draw("frontier", SIZE, onto)
    several = any(len(run.seeds) > 1 for run in runs)
    seeds = "; each small ring is one run, bars are ± one standard error over seeds" if several else ""
    hidden = f" No room for the name of {', '.join(unnamed)}." if unnamed else ""
    caption = f"Up and to the left is better. Red: the first of the table; the open ring is the model before{seeds}.{hidden}"
    return Chart(title="Forgetting against keeping", caption=caption, svg=svg)


def agreement(runs: Sequence[ComparedMethod]) -> Chart | None:
    """ROC-AUC of importance against the spans, the highest above; None where no method has it."""
    found = [(run, c) for run in runs if (c := cell(run, AUC)).mean is not None]
    found.sort(key=lambda item: item[1].mean or 0.0)
    if not found:
        return None
    height = 0.75 + 0.2 * len(found)
    left = min(0.45, 0.03 + LETTER * max(len(run.label) for run, _ in found) * 1.12 / (72 * SIZE[0]))

    def onto(figure: Figure) -> None:
        """Draw each method's ROC-AUC on a line of its own."""
        axes = figure.add_axes((left, 0.5 / height, 0.97 - left, 1 - 0.6 / height))
        axes.axvline(0.5, color=INK, linewidth=0.9, linestyle=":")
        for place, (run, c) in enumerate(found):
            for value in _values(run, AUC) if c.n > 1 else ():
                axes.plot(value, place, "o", color=INK, markerfacecolor="none", markersize=3.5, markeredgewidth=0.7)
            axes.errorbar(c.mean or 0.0, place, xerr=c.se, fmt="o", color=STRONG, markersize=5, elinewidth=1)
        axes.set_yticks(range(len(found)), [_cut(run.label, int(0.45 * 72 * SIZE[0] / LETTER)) for run, _ in found])
        axes.set_ylim(-0.7, len(found) - 0.3)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("ROC-AUC against the given spans")

    svg = draw("agreement", (SIZE[0], height), onto)
    caption = "How often a token that must go has more importance than one that must not; the dotted line is chance."
    return Chart(title="Importance against the given spans", caption=caption, svg=svg)


def labels(dots: Sequence[Dot], width: float, height: float) -> Iterator[Label]:
    """Names next to their dots, the first dots first, on axes of so many points; what finds no free place has none.

    A place is free if it is on the axes and overlaps neither another label nor another dot.
    """
    groups: list[list[Dot]] = []
    for dot in dots:
        home = next((g for g in groups if (g[0].x - dot.x) ** 2 + (g[0].y - dot.y) ** 2 < NEAR**2), None)
        groups.append([dot]) if home is None else home.append(dot)
    placed: list[Label] = []
    for group in groups:
        names = [dot.name for dot in group]
        if len(names) > MAX_NAMES:
            names = [*names[: MAX_NAMES - 1], f"and {len(names) - MAX_NAMES + 1} more"]
        others = [d for d in dots if d not in group]
        free = (
            label
            for label in _beside(group[0], "\n".join(names))
            if label.x >= 0
            and label.x + label.width <= width
            and label.y >= 0
            and label.y + label.height <= height
            and not any(label.meets(p.x, p.y, p.width, p.height) for p in placed)
            and not any(label.meets(d.x - DOT, d.y - DOT, 2 * DOT, 2 * DOT) for d in others)
        )
        if found := next(free, None):
            placed.append(found)
    yield from placed


def _beside(dot: Dot, text: str) -> Iterator[Label]:
    """Places for a label: right, left, above, below and between, then the same farther away."""
    size = Label(text=text, x=0.0, y=0.0, dot=dot)
    for away in (6.0, 16.0, 30.0, 46.0):
        right, left, over, under = dot.x + away, dot.x - away - size.width, dot.y + away, dot.y - away - size.height
        middle = (dot.x - size.width / 2, dot.y - size.height / 2)
        places = [(right, middle[1]), (left, middle[1]), (middle[0], over), (middle[0], under)]
        places += [(right, over), (right, under), (left, over), (left, under)]
        yield from (Label(text=text, x=x, y=y, dot=dot) for x, y in places)


def _points(axes: Axes, points: Sequence[tuple[ComparedMethod, Cell, Cell]]) -> None:
    for place, (run, x, y) in enumerate(points):
        if len(run.seeds) > 1:
            pairs = [
                (g, k)
                for r in run.results
                if not isinstance(g := FORGET_SCORE.of(r), str) and not isinstance(k := RETAIN_SCORE.of(r), str)
            ]
            axes.plot(*zip(*pairs, strict=True), "o", color=INK, markerfacecolor="none", markersize=3.5, markeredgewidth=0.7)
        colour = FORGET if place == 0 else STRONG
        bars = {"xerr": x.se, "yerr": y.se, "elinewidth": 1, "zorder": 3}
        axes.errorbar(x.mean or 0.0, y.mean or 0.0, fmt="o", color=colour, markersize=5, **bars)
    axes.set_xlabel("score on what should go, %")
    axes.set_ylabel("score on what should stay, %")
    axes.grid(visible=True, axis="both")
    axes.margins(x=0.06, y=0.14)


def _label(axes: Axes, marks: Sequence[tuple[str, float, float]], unnamed: list[str]) -> None:
    """Write names next to the marks; those without room go to `unnamed`."""
    axes.autoscale_view()
    (left, right), (low, high) = map(float, axes.get_xlim()), map(float, axes.get_ylim())
    width, height = 72 * SIZE[0] * BOX[2], 72 * SIZE[1] * BOX[3]
    dots = [
        Dot(name=_cut(name, 40), x=(x - left) / (right - left) * width, y=(y - low) / (high - low) * height)
        for name, x, y in marks
    ]
    made = list(labels(dots, width, height))
    for label in made:
        x, y = label.x / width, (label.y + label.height / 2) / height
        axes.text(x, y, label.text, transform=axes.transAxes, va="center", fontsize=8, linespacing=1.1, zorder=4)
        end = (
            min(max(label.dot.x, label.x - 1), label.x + label.width + 1),
            min(max(label.dot.y, label.y), label.y + label.height),
        )
        if abs(end[0] - label.dot.x) + abs(end[1] - label.dot.y) > 2 * DOT + 4:
            ends = ((label.dot.x / width, end[0] / width), (label.dot.y / height, end[1] / height))
            axes.plot(*ends, transform=axes.transAxes, color=GRID, linewidth=0.8, zorder=1)
    named = {label.dot for label in made}
    unnamed += [dot.name for dot in dots if dot not in named and not any(_close(dot, other) for other in named)]


def _close(one: Dot, other: Dot) -> bool:
    return (one.x - other.x) ** 2 + (one.y - other.y) ** 2 < NEAR**2


def _values(run: ComparedMethod, column: Column) -> list[float]:
    return [v for r in run.results if not isinstance(v := column.of(r), str)]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
