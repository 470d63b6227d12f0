"""Charts as inline SVG, drawn in the page's own text colour."""

import html
import io
import math
import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

INK = "#010203"  # stands for the page's text colour, so that charts follow dark mode
BINS = 40
COLOURS = tuple(f"#c0105{number}" for number in range(1, 9))  # each stands for a colour of the page, --c1 to --c8
BAR = COLOURS[0]
STROKES = ("-", "--", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LONGEST_NAME = 36  # characters that a chart has room for
MOST_CELLS = 600  # drawn as shapes; more of them are drawn as an image within the chart


class Dot(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


def forest(dots: Mapping[str, Dot], measure: str, *, means: Collection[str] = ()) -> str:
    """Draw a dot and an interval for each name, the first at the top and a line where it lies; return an <svg> element.

    Args:
        dots: of each name what is drawn; one at least.
        measure: what they measure, such as "WER, %".
        means: names whose dot is a mean over others, and drawn as a diamond.
    """
    with _drawing(5.2, 0.8 + 0.3 * len(dots)) as (figure, axes):
        axes.axvline(next(iter(dots.values())).value, linestyle=":", color=INK, linewidth=1)
        for place, (name, dot) in enumerate(dots.items()):
            axes.plot([dot.low, dot.high], [place, place], color=BAR, linewidth=1.8)
            axes.plot(dot.value, place, "D" if name in means else "o", color=BAR, markersize=6)
            axes.annotate(
                f"{dot.value:.1f}",
                (dot.high, place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        axes.set_yticks(range(len(dots)), [shorter(name) for name in dots])
        axes.set_ylim(len(dots) - 0.5, -0.5)
        axes.margins(x=0.12)
        axes.set_xlabel(f"{measure}, with 95 % interval")
        _grid(axes, "x")
        said = "; ".join(f"{name} {dot.value:.1f}, {dot.low:.1f} to {dot.high:.1f}" for name, dot in dots.items())
        return _svg(figure, f"{measure} with 95 % interval: {said}")


def grouped(groups: Sequence[str], systems: Mapping[str, Sequence[Dot]], measure: str) -> str:
    """Draw a dot and an interval for each system in each group, groups down; return an <svg> element.

    Args:
        groups: their names, the first at the top.
        systems: of each its dots in the order of the groups.
        measure: what they measure.
    """
    apart = 0.7 / max(2, len(systems))
    with _drawing(5.2, 1.0 + 0.16 * (len(systems) + 1.5) * len(groups) + 0.2 * -(-len(systems) // 2)) as (figure, axes):
        for number, (name, dots) in enumerate(systems.items()):
            colour, places = COLOURS[number % len(COLOURS)], [
                place + apart * (number - (len(systems) - 1) / 2) for place in range(len(dots))
            ]  # fmt: skip
            axes.hlines(places, [dot.low for dot in dots], [dot.high for dot in dots], color=colour, linewidth=1.6)
            axes.plot(
                [dot.value for dot in dots], places, MARKERS[number % len(MARKERS)], color=colour, markersize=5.5,
                label=shorter(name),
            )  # fmt: skip
        axes.set_yticks(range(len(groups)), [shorter(name) for name in groups])
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.set_xlabel(f"{measure}, with 95 % interval")
        _grid(axes, "x")
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
        return _svg(figure, f"{measure} of {len(systems)} systems in {len(groups)} groups, with 95 % intervals")


def traces(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    across: str,
    up: str,
    *,
    levels: Mapping[str, float] | None = None,
    logarithmic: bool = False,
) -> str:
    """Draw lines through points, and a level across for what has no place along the bottom; return an <svg> element.

    Args:
        lines: of each name its points (x, y) by x; one at least.
        across: what x is.
        up: what y is.
        levels: y of what is the same everywhere, such as an untouched model.
        logarithmic: whether equal distances across are equal ratios.
    """
    with _drawing(5.2, 3.4 + 0.2 * -(-len(lines) // 2)) as (figure, axes):
        for place, (name, points) in enumerate(lines.items()):
            axes.plot(
                *zip(*points, strict=True), STROKES[place // len(COLOURS) % len(STROKES)], label=shorter(name),
                color=COLOURS[place % len(COLOURS)], marker=MARKERS[place % len(MARKERS)], markersize=4.5,
            )  # fmt: skip
        for name, value in (levels or {}).items():
            axes.axhline(value, linestyle=":", color=INK, linewidth=1.2, label=shorter(name))
        if logarithmic:
            axes.set_xscale("log")
            ticks = sorted({x for points in lines.values() for x, _ in points})
            axes.set_xticks(ticks, [f"{x:.2g}" for x in ticks])
            axes.xaxis.set_minor_formatter("")
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        _grid(axes, "y")
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
        return _svg(figure, f"{up} by {across}, a line for each of {len(lines)}")


def shorter(name: str) -> str:
    """A name as a chart has room for it."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _grid(axes: Any, axis: str) -> None:
    axes.grid(axis=axis, color=INK, alpha=0.15, linewidth=0.8)
    axes.set_axisbelow(True)


def histogram(values: Sequence[float], measure: str, counted: str) -> str:
    """Draw how often values occur; return an <svg> element, whose label says the middle and the ends.

    Args:
        values: one at least.
        measure: what they measure, such as "seconds".
        counted: what has a value, such as "utterances".
    """
    ordered = sorted(values)
    low, middle, high = (f"{ordered[place]:.3g}" for place in (0, len(ordered) // 2, -1))
    with _drawing(4.4, 2.4) as (figure, axes):
        axes.hist(ordered, bins=min(BINS, max(1, len(set(ordered)))), color=BAR)
        axes.set_xlabel(measure)
        axes.set_ylabel(counted)
        label = f"Histogram of {measure}: {len(ordered)} {counted}, from {low} to {high}, half of them up to {middle}"
        return _svg(figure, label)


def curves(lines: Mapping[str, Sequence[float]], across: str, up: str, *, logarithmic: bool = False) -> str:
    """Draw a line for each name over 1, 2, 3, ...; return an <svg> element.

    Args:
        lines: of each name its values; one at least.
        across: what is counted along the bottom.
        up: what the values are.
        logarithmic: whether equal distances upwards are equal ratios.
    """
    with _drawing(5.2, 3.4) as (figure, axes):
        for place, (name, values) in enumerate(lines.items()):
            style = STROKES[place // len(COLOURS) % len(STROKES)]
            axes.plot(range(1, len(values) + 1), values, style, label=name, color=COLOURS[place % len(COLOURS)])
        if logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.legend(frameon=False, fontsize=9)
        return _svg(figure, f"{up} by {across}, a line for each of {len(lines)}")


def heat_map(
    table: Sequence[Sequence[float | None]], rows: Sequence[str], columns: Sequence[str], *, across: str, measure: str
) -> str:
    """Draw a table as colours, with its numbers where they have room; return an <svg> element.

    Args:
        table: a list for each row, None where there is no value.
        rows: their names, the first at the top.
        columns: their names.
        across: what the columns are.
        measure: what the values measure.
    """
    values = np.array([[math.nan if value is None else value for value in row] for row in table], dtype=float)
    small = len(columns) <= 16
    with _drawing(max(4.4, 2.4 + 0.45 * min(len(columns), 14)), max(2.2, 0.9 + 0.27 * min(len(rows), 18))) as drawn:
        figure, axes = drawn
        mesh = axes.pcolormesh(values, cmap="viridis", rasterized=values.size > MOST_CELLS)
        figure.colorbar(mesh, ax=axes).ax.tick_params(labelsize=9)
        axes.invert_yaxis()
        for axis, names in ((axes.xaxis, columns), (axes.yaxis, rows)):
            step = max(1, -(-len(names) // 24))
            axis.set_ticks([place + 0.5 for place in range(0, len(names), step)], names[::step])
        axes.tick_params(length=0, labelsize=9)
        axes.set_xlabel(across)
        for place, value in np.ndenumerate(values):
            if small and not math.isnan(value):
                ink = "white" if mesh.norm(value) < 0.6 else "black"
                axes.text(
                    place[1] + 0.5, place[0] + 0.5, f"{value:.3g}", ha="center", va="center", fontsize=7, color=ink,
                    in_layout=False,
                )  # fmt: skip
        return _svg(figure, f"{measure}: {len(rows)} rows by {across}")


@contextmanager
def _drawing(width: float, height: float) -> Iterator[tuple[Any, Any]]:
    """Yield a figure of inches and its axes, in the style of the page."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "asr_lora",  # the same drawing gives the same bytes
        "font.family": "sans-serif",
        "font.size": 10,
        "text.parse_math": False,  # a name may hold dollars
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    }
    with rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
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
