"""A comparison -> its charts: rates with intervals, learning curves, dev while training, and groups."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from asr_lora.evaluation.comparison import Comparison
from asr_lora.pages.charts import Dot, forest, grouped, traces
from asr_lora.pages.tables import system_numbers

GROUPED = 6  # systems in a chart of groups: the first, and the best of the others
TRACED = 8  # runs in a chart of training, beside the first system

Figure = tuple[str, str]  # title and SVG


def rate_figure(comparison: Comparison) -> Figure:
    """The leading rate of every system, and of the means of seeds."""
    rate, rows = comparison.lead, system_numbers(comparison)
    dots = {row["name"]: Dot(*(100 * row[key] for key in (rate, f"{rate}_low", f"{rate}_high"))) for row in rows}
    means = [row["name"] for row in rows if row["runs"] > 1]
    return f"{rate.upper()} with intervals", forest(dots, f"{rate.upper()}, %", means=means)


def learning_figures(comparison: Comparison) -> list[Figure]:
    """The leading rate against hours of speech, where systems of one method had unlike amounts of it."""
    points: dict[str, dict[float, list[float]]] = {}
    levels = {}
    for name, system in zip(comparison.names, comparison.systems, strict=True):
        rate, training = 100 * system["scores"][comparison.lead], system["system"]["training"]
        if training is None:
            levels[name] = rate
        elif training["hours_of_speech"]:
            hours = float(f"{training['hours_of_speech']:.2g}")
            points.setdefault(training["method"], {}).setdefault(hours, []).append(rate)
    if max((len(of) for of in points.values()), default=0) < 2:
        return []
    lines = {method: [(hours, fmean(of[hours])) for hours in sorted(of)] for method, of in points.items()}
    up = f"{comparison.lead.upper()}, %"
    drawn = traces(lines, "hours of training speech", up, levels=levels, logarithmic=True)
    return [("How much speech is enough", drawn)]


def training_figures(comparison: Comparison) -> list[Figure]:
    """The leading rate on dev while systems were trained, by steps and by minutes."""
    curves: dict[str, list[dict[str, float]]] = {}
    for place in _drawn(comparison, TRACED + 1):
        curve = (comparison.systems[place]["system"]["training"] or {}).get("curve", [])
        if len(curve) > 1 and curve not in curves.values():  # one run may be scored in several ways
            curves[comparison.names[place]] = curve
    if not curves:
        return []
    up = f"dev {comparison.lead.upper()}, %"
    return [
        (
            f"On dev, by {across}",
            traces({name: _points(curve, key, times, comparison.lead) for name, curve in curves.items()}, across, up),
        )
        for across, key, times in (("steps", "step", 1), ("minutes of training", "seconds", 1 / 60))
    ]


def _points(curve: Sequence[Mapping[str, float]], key: str, times: float, rate: str) -> list[tuple[float, float]]:
    return [(times * row[key], 100 * row[rate]) for row in curve]


def group_figure(comparison: Comparison, body: Mapping[str, Any]) -> str:
    """The leading rate in each group of a field; empty where there are not two to compare."""
    if len(body["groups"]) < 2:
        return ""
    systems = {
        comparison.names[place]: [
            Dot(*(100 * group["rates"][place][key] for key in ("value", "low", "high"))) for group in body["groups"]
        ]
        for place in _drawn(comparison, GROUPED)
    }
    return grouped([group["group"] for group in body["groups"]], systems, f"{comparison.lead.upper()}, %")


def _drawn(comparison: Comparison, most: int) -> list[int]:
    """Places of the first system and of the best others, in their order."""
    rates = [system["scores"][comparison.lead] for system in comparison.systems]
    best = sorted(range(1, len(rates)), key=lambda place: rates[place])[: most - 1]
    return [0, *sorted(best)]
