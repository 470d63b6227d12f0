"""Charts as data, and how each is drawn as inline SVG in the page's own text colour."""

import html
import io
import math
import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

INK = "#010203"  # stands for the page's text colour, so that charts follow dark mode
BINS = 40
COLOURS = tuple(f"#c0105{number}" for number in range(1, 9))  # each stands for a colour of the page, --c1 to --c8
BAR = COLOURS[0]
STROKES = ("-", "--", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LONGEST_NAME = 36  # characters that a chart has room for
NUMBERED_COLUMNS = 16  # a heat map of more columns shows colours only
MOST_CELLS = 600  # drawn as shapes; more of them are drawn as an image within the chart


class Dot(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ForestPlot:
    """A dot and an interval for each name, the first at the top with a line across where its value lies."""

    dots: Mapping[str, Dot]  # at least one
    measure: str  # such as "WER, %"
    means: Collection[str] = ()  # names whose dot is a mean over several systems, drawn as a diamond

    def svg(self) -> str:
        with _drawing(5.2, 0.8 + 0.3 * len(self.dots)) as (figure, axes):
            axes.axvline(next(iter(self.dots.values())).value, linestyle=":", color=INK, linewidth=1)
            for place, (name, dot) in enumerate(self.dots.items()):
                axes.plot([dot.low, dot.high], [place, place], color=BAR, linewidth=1.8)
                axes.plot(dot.value, place, "D" if name in self.means else "o", color=BAR, markersize=6)
                axes.annotate(
                    f"{dot.value:.1f}",
                    (dot.high, place),
                    xytext=(5, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                )
            axes.set_yticks(range(len(self.dots)), [shorter(name) for name in self.dots])
            axes.set_ylim(len(self.dots) - 0.5, -0.5)
            axes.margins(x=0.12)
            axes.set_xlabel(f"{self.measure}, with 95 % interval")
            _grid(axes, "x")
            dots = "; ".join(
                f"{name} {dot.value:.1f}, {dot.low:.1f} to {dot.high:.1f}" for name, dot in self.dots.items()
            )
            return _svg(figure, f"{self.measure} with 95 % interval: {dots}")


@dataclass(frozen=True)
class GroupPlot:
    """A dot and an interval for each system in each group, the groups from top to bottom."""

    groups: Sequence[str]
    systems: Mapping[str, Sequence[Dot]]  # the dots of each system, in the order of the groups
    measure: str

    def svg(self) -> str:
        systems, groups = self.systems, self.groups
        apart = 0.7 / max(2, len(systems))
        height = 1.0 + 0.16 * (len(systems) + 1.5) * len(groups) + 0.2 * -(-len(systems) // 2)
        with _drawing(5.2, height) as (figure, axes):
            for number, (name, dots) in enumerate(systems.items()):
                colour = COLOURS[number % len(COLOURS)]
                places = [place + apart * (number - (len(systems) - 1) / 2) for place in range(len(dots))]
                axes.hlines(places, [dot.low for dot in dots], [dot.high for dot in dots], color=colour, linewidth=1.6)
                axes.plot(
                    [dot.value for dot in dots], places, MARKERS[number % len(MARKERS)], color=colour, markersize=5.5,
                    label=shorter(name),
                )  # fmt: skip
            axes.set_yticks(range(len(groups)), [shorter(name) for name in groups])
            axes.set_ylim(len(groups) - 0.5, -0.5)
            axes.set_xlabel(f"{self.measure}, with 95 % interval")
            _grid(axes, "x")
            figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
            return _svg(
                figure, f"{self.measure} of {len(systems)} systems in {len(groups)} groups, with 95 % intervals"
            )


@dataclass(frozen=True)
class LinePlot:
    """A line through points for each name, and a level across for what has no place along the bottom."""

    lines: Mapping[str, Sequence[tuple[float, float]]]  # points (x, y) by x; at least one line
    across: str  # what x is
    up: str  # what y is
    levels: Mapping[str, float] = field(default_factory=dict)  # y that holds for every x, such as the base model's
    logarithmic: bool = False  # x

    def svg(self) -> str:
        with _drawing(5.2, 3.4 + 0.2 * -(-len(self.lines) // 2)) as (figure, axes):
            for place, (name, points) in enumerate(self.lines.items()):
                axes.plot(
                    *zip(*points, strict=True), _stroke(place), label=shorter(name),
                    color=COLOURS[place % len(COLOURS)], marker=MARKERS[place % len(MARKERS)], markersize=4.5,
                )  # fmt: skip
            for name, value in self.levels.items():
                axes.axhline(value, linestyle=":", color=INK, linewidth=1.2, label=shorter(name))
            if self.logarithmic:
                axes.set_xscale("log")
                ticks = sorted({x for points in self.lines.values() for x, _ in points})
                axes.set_xticks(ticks, [f"{x:.2g}" for x in ticks])
                axes.xaxis.set_minor_formatter("")
            axes.set_xlabel(self.across)
            axes.set_ylabel(self.up)
            _grid(axes, "y")
            figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
            return _svg(figure, f"{self.up} by {self.across}, a line for each of {len(self.lines)}")


@dataclass(frozen=True)
class RankPlot:
    """A line for each name over the ranks 1, 2, 3 and so on."""

    lines: Mapping[str, Sequence[float]]  # at least one
    across: str
    up: str
    logarithmic: bool = False  # y

    def svg(self) -> str:
        with _drawing(5.2, 3.4) as (figure, axes):
            for place, (name, values) in enumerate(self.lines.items()):
                ranks = range(1, len(values) + 1)
                axes.plot(ranks, values, _stroke(place), label=name, color=COLOURS[place % len(COLOURS)])
            if self.logarithmic:
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter("{x:g}")
                axes.yaxis.set_minor_formatter("")
            axes.set_xlabel(self.across)
            axes.set_ylabel(self.up)
            axes.legend(frameon=False, fontsize=9)
            return _svg(figure, f"{self.up} by {self.across}, a line for each of {len(self.lines)}")


@dataclass(frozen=True)
class Histogram:
    """How often values occur; the label for screen readers states minimum, median and maximum."""

    values: Sequence[float]  # at least one
    measure: str  # what they measure, such as "seconds"
    counted: str  # what has a value, such as "utterances"

    def svg(self) -> str:
        ordered = sorted(self.values)
        low, middle, high = (f"{ordered[place]:.3g}" for place in (0, len(ordered) // 2, -1))
        with _drawing(4.4, 2.4) as (figure, axes):
            axes.hist(ordered, bins=min(BINS, max(1, len(set(ordered)))), color=BAR)
            axes.set_xlabel(self.measure)
            axes.set_ylabel(self.counted)
            total = f"{len(ordered)} {self.counted}"
            return _svg(figure, f"Histogram of {self.measure}: {total}, from {low} to {high}, median {middle}")


@dataclass(frozen=True)
class HeatMap:
    """A table as colours, with its numbers where there is room for them."""

    table: Sequence[Sequence[float | None]]  # a list for each row, None where there is no value
    rows: Sequence[str]  # names, the first at the top
    columns: Sequence[str]  # names
    across: str  # what the columns are
    measure: str

    def svg(self) -> str:
        rows, columns = self.rows, self.columns
        values = np.array([[math.nan if value is None else value for value in row] for row in self.table], dtype=float)
        width, height = 2.4 + 0.45 * min(len(columns), 14), 0.9 + 0.27 * min(len(rows), 18)
        with _drawing(max(4.4, width), max(2.2, height)) as (figure, axes):
            mesh = axes.pcolormesh(values, cmap="viridis", rasterized=values.size > MOST_CELLS)
            figure.colorbar(mesh, ax=axes).ax.tick_params(labelsize=9)
            axes.invert_yaxis()
            for axis, names in ((axes.xaxis, columns), (axes.yaxis, rows)):
                step = max(1, -(-len(names) // 24))
                axis.set_ticks([place + 0.5 for place in range(0, len(names), step)], names[::step])
            axes.tick_params(length=0, labelsize=9)
            axes.set_xlabel(self.across)
            for place, value in np.ndenumerate(values):
                if len(columns) <= NUMBERED_COLUMNS and not math.isnan(value):
                    ink = "white" if mesh.norm(value) < 0.6 else "black"
                    axes.text(
                        place[1] + 0.5, place[0] + 0.5, f"{value:.3g}", ha="center", va="center", fontsize=7,
                        color=ink, in_layout=False,
                    )  # fmt: skip
            return _svg(figure, f"{self.measure}: {len(rows)} rows by {self.across}")


class Chart(Protocol):
    def svg(self) -> str:
        """Return the chart as an <svg> element."""


@dataclass(frozen=True)
class Figure:
    """A chart under a title."""

    title: str
    chart: Chart


def shorter(name: str) -> str:
    """Shorten a name to the room that a chart has for it."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _stroke(place: int) -> str:
    return STROKES[place // len(COLOURS) % len(STROKES)]


def _grid(axes: Any, axis: str) -> None:
    axes.grid(axis=axis, color=INK, alpha=0.15, linewidth=0.8)
    axes.set_axisbelow(True)


@contextmanager
def _drawing(width: float, height: float) -> Iterator[tuple[Any, Any]]:
    """Yield a figure (sizes in inches) and its axes, in the style of the page."""
    from matplotlib import figure as drawing
    from matplotlib import rc_context

    style = {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "asr_lora",  # the same drawing gives the same bytes
        "font.family": "sans-serif",
        "font.size": 10,
        "text.parse_math": False,  # a name may hold dollars
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    }
    with rc_context(style):
        figure = drawing.Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.patch.set_visible(False)
        figure.patch.set_visible(False)
        yield figure, axes


def _svg(figure: Any, label: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"#c0105(\d)", r"var(--c\1)", svg)
    svg = re.sub(r"<defs>\s*<style.*?</defs>", "", svg, count=1, flags=re.DOTALL)  # it would style the whole page
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    # Several charts in a page may not share ids: what is left of them is of shapes, which charts have in common.
    mark = f"c{zlib.crc32(svg.encode()):08x}-"
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{mark}", svg)
    head = f'<svg role="img" aria-label="{html.escape(label)}" viewBox='
    return re.sub(r'<svg [^>]*?viewBox=("[^"]+")[^>]*>', lambda found: f"{head}{found[1]}>", svg, count=1)
