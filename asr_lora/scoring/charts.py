"""Charts as inline SVG, drawn in the page's own text colour."""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

INK = "#010203"  # stands for the page's text colour, so that charts follow dark mode
BAR = "#2f6fb0"
BINS = 40
COLOURS = ("#2f6fb0", "#c2571a", "#2e8b57", "#b3261e", "#7a5cc4", "#8c6d1f", "#c0508f", "#5b7083")  # on white and black
STROKES = ("-", "--", ":")
MOST_CELLS = 600  # drawn as shapes; more of them are drawn as an image within the chart


def wer_chart(names: Sequence[str], rates: Sequence[float], intervals: Sequence[tuple[float, float]]) -> str:
    """Draw WER in percent with 95 % intervals, a bar a system; return an <svg> element."""
    with _drawing(7.2, 0.8 + 0.5 * len(names)) as (figure, axes):
        places = range(len(names))
        axes.barh(places, [100 * rate for rate in rates], height=0.55, color=BAR)
        below = [100 * (rate - low) for rate, (low, _) in zip(rates, intervals, strict=True)]
        above = [100 * (high - rate) for rate, (_, high) in zip(rates, intervals, strict=True)]
        axes.errorbar([100 * rate for rate in rates], places, xerr=[below, above], fmt="none", ecolor=INK, capsize=4)
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set_xlabel("WER, %, with 95 % interval")
        return _svg(figure, "WER by system")


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
    with _drawing(7.2, 3.4) as (figure, axes):
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
        "font.size": 11,
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
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # several charts in a page may not share ids
    return re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', rf'<svg role="img" aria-label="{label}" viewBox="\1">', svg, count=1
    )
