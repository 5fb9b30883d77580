"""The course of a run as small SVG figures that take their colours and letters from the page around them."""

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deleatur.run_folder.file_types import StepLine

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_POINTS = 400
# matplotlib knows no CSS variables: it draws in colours that stand for them
INK, GRID, FORGET, RETAIN, STRONG = "#a0a001", "#a0a002", "#a0a003", "#a0a004", "#a0a005"
VARIABLES = {INK: "--muted", GRID: "--rule", FORGET: "--mark", RETAIN: "--calm", STRONG: "--ink"}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "deleatur",
    "font.size": 10,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A figure of the page; `caption` says in words what it shows."""

    title: str
    caption: str
    svg: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One column of `steps.jsonl` as a line."""

    column: str
    label: str
    colour: str
    dash: str = "-"


LOSS = (Line(column="loss", label="loss", colour=INK),)
NLL = (
    Line(column="forget_nll", label="forget", colour=FORGET),
    Line(column="retain_nll", label="retain", colour=RETAIN, dash="--"),
)
IMPORTANCE = (Line(column="importance", label="importance", colour=FORGET),)


def charts(steps: Sequence[StepLine]) -> list[Chart]:
    """Loss, NLL and mean importance over the steps; none where there are no steps.

    A long run is drawn as means of equally many steps. The same steps give the same bytes.
    """
    if not steps:
        return []
    return [
        _chart("Loss", steps, LOSS),
        _chart("NLL, nats per token", steps, NLL),
        _chart("Mean importance, forget tokens", steps, IMPORTANCE),
    ]


def courses(runs: Sequence[tuple[str, Sequence[StepLine]]]) -> list[Chart]:
    """NLL over the steps of several runs by name, all on one scale; none of a run without steps."""
    runs = [(name, steps) for name, steps in runs if steps]
    every = (step[line.column] for _, steps in runs for step in steps for line in NLL)
    top = 1.05 * max((v for v in every if v is not None and math.isfinite(v)), default=1.0)
    return [_chart(name, steps, NLL, key=f"course-{i}", top=top) for i, (name, steps) in enumerate(runs)]


def _chart(
    title: str, steps: Sequence[StepLine], lines: Sequence[Line], *, key: str | None = None, top: float | None = None
) -> Chart:
    share = math.ceil(len(steps) / MAX_POINTS)
    names = (f"{line.label} " if len(lines) > 1 else "" for line in lines)
    courses = (f"{_brief(steps[0][line.column])} → {_brief(steps[-1][line.column])}" for line in lines)
    text = ", ".join(map("".join, zip(names, courses, strict=True)))
    means = f"; each point is the mean of {share} steps" if share > 1 else ""

    def onto(figure: "Figure") -> None:
        """Draw the lines onto the figure."""
        axes = figure.add_axes((0.12, 0.19, 0.83, 0.69))
        _draw(axes, steps, lines, share)
        if top is not None:
            axes.set_ylim(-0.05 * top, top)

    svg = draw(key or title, (3.7, 2.4), onto)
    return Chart(title=title, caption=f"{text} from the first to the last step{means}.", svg=svg)


def draw(key: str, size: tuple[float, float], onto: "Callable[[Figure], None]") -> str:
    """An SVG element of `size` inches; `key` is its own on the page. What is written on it stays text, `$` as well."""
    # here and not above: the command line reads this package for its tables, and matplotlib is slow to come
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the reader's letters are drawn, not matplotlib's
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=size)
        onto(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(out.getvalue(), key)


def _draw(axes: "Axes", steps: Sequence[StepLine], lines: Sequence[Line], share: int) -> None:
    for line in lines:
        x, y = (_means([step[name] for step in steps], share) for name in ("step", line.column))
        axes.plot(x, y, label=line.label, color=line.colour, linestyle=line.dash, marker="." if len(x) == 1 else "")
    axes.set_xlabel("step")
    axes.locator_params(axis="x", integer=True)
    axes.margins(x=0.02, y=0.08)
    if len(lines) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=len(lines), borderpad=0, handlelength=2.2)


def _means(values: Sequence[float | None], share: int) -> list[float]:
    """Means of every `share` values, not a number where one is none."""
    numbers = [math.nan if v is None else float(v) for v in values]
    parts = (numbers[i : i + share] for i in range(0, len(numbers), share))
    return [sum(part) / len(part) for part in parts]


def _for_page(svg: str, key: str) -> str:
    """matplotlib's file as an element of an HTML page: no metadata, no style for the whole page, ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (xmlns(:\w+)?|version)="[^"]*"', "", svg).replace("xlink:href", "href")
    key = re.sub(r"\W+", "-", key.lower())
    svg = re.sub(r'( id="| href="#|url\(#)', rf"\g<1>{key}-", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r'^<svg (.*?)width="[^"]*"', r"<svg \1", svg, count=1)
    svg = re.sub(r'^<svg (.*?)height="[^"]*"', r'<svg aria-hidden="true" \1', svg, count=1, flags=re.DOTALL)
    return re.sub(r"\n\s*", "\n", svg)


def _brief(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.3g}".replace("-", "−")
