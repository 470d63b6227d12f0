"""Charts as inline SVG, drawn in the page's own text colour."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

INK = "#010203"  # stands for the page's text colour, so that charts follow dark mode
BAR = "#2f6fb0"
BINS = 40


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
