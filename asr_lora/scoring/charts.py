"""Charts as inline SVG, drawn in the page's own text colour."""

import io
import re
from collections.abc import Sequence

INK = "#010203"  # stands for the page's text colour, so that charts follow dark mode
BAR = "#2f6fb0"


def wer_chart(names: Sequence[str], rates: Sequence[float], intervals: Sequence[tuple[float, float]]) -> str:
    """Draw WER in percent with 95 % intervals, a bar a system; return an <svg> element."""
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
        figure = Figure(figsize=(7.2, 0.8 + 0.5 * len(names)), layout="constrained")
        axes = figure.subplots()
        places = range(len(names))
        axes.barh(places, [100 * rate for rate in rates], height=0.55, color=BAR)
        below = [100 * (rate - low) for rate, (low, _) in zip(rates, intervals, strict=True)]
        above = [100 * (high - rate) for rate, (_, high) in zip(rates, intervals, strict=True)]
        axes.errorbar([100 * rate for rate in rates], places, xerr=[below, above], fmt="none", ecolor=INK, capsize=4)
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set_xlabel("WER, %, with 95 % interval")
        axes.spines[["top", "right"]].set_visible(False)
        axes.patch.set_visible(False)
        figure.patch.set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    return re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg role="img" aria-label="WER by system" viewBox="\1">', svg, count=1
    )
