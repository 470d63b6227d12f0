"""Charts of a comparison: rates with intervals, learning curves, dev during training, and groups."""

from statistics import fmean

from asr_lora.evaluation.comparison import Comparison
from asr_lora.evaluation.score_tables import named, system_rows
from asr_lora.folders.measurements import CurvePoint
from asr_lora.metrics.breakdown import FieldRates
from asr_lora.pages.charts import Dot, Figure, ForestPlot, GroupPlot, LinePlot

SYSTEMS_IN_GROUPS = 6  # in a chart of groups: the first system, and the best of the others
CURVES = 9  # runs in a chart of training, the first system included


def rate_figure(comparison: Comparison) -> Figure:
    """The leading rate of every system, and of the means over seeds."""
    rate, rows = comparison.lead, system_rows(comparison)
    dots = {row.name: row.dot(rate) for row in rows}
    means = [row.name for row in rows if row.runs > 1]
    return Figure(f"{rate.upper()} with intervals", ForestPlot(dots, f"{rate.upper()}, %", means))


def learning_figures(comparison: Comparison) -> list[Figure]:
    """The leading rate by hours of training speech, where systems of one method had different amounts of it."""
    points: dict[str, dict[float, list[float]]] = {}
    levels = {}
    for name, report in named(comparison):
        rate, training = 100 * report.scores.rate(comparison.lead), report.system.training
        if training is None:
            levels[name] = rate
        elif training.hours_of_speech:
            hours = float(f"{training.hours_of_speech:.2g}")
            points.setdefault(training.method, {}).setdefault(hours, []).append(rate)
    if max((len(of) for of in points.values()), default=0) < 2:
        return []
    lines = {method: [(hours, fmean(of[hours])) for hours in sorted(of)] for method, of in points.items()}
    up = f"{comparison.lead.upper()}, %"
    plot = LinePlot(lines, "hours of training speech", up, levels, logarithmic=True)
    return [Figure("How much speech is enough", plot)]


def training_figures(comparison: Comparison) -> list[Figure]:
    """The leading rate on dev during training, by steps and by minutes."""
    curves: dict[str, list[CurvePoint]] = {}
    for place in _drawn(comparison, CURVES):
        training = comparison.systems[place].system.training
        curve = training.curve if training else []
        if len(curve) > 1 and curve not in curves.values():  # one run may be scored in several ways
            curves[comparison.names[place]] = curve
    if not curves:
        return []
    up, rate = f"dev {comparison.lead.upper()}, %", comparison.lead
    return [
        Figure(
            f"On dev, by {across}",
            LinePlot({name: _points(curve, key, times, rate) for name, curve in curves.items()}, across, up),
        )
        for across, key, times in (("steps", "step", 1), ("minutes of training", "seconds", 1 / 60))
    ]


def _points(curve: list[CurvePoint], key: str, times: float, rate: str) -> list[tuple[float, float]]:
    return [(times * getattr(point, key), 100 * getattr(point, rate)) for point in curve]


def group_figure(comparison: Comparison, field: str, rates: FieldRates) -> Figure | None:
    """The leading rate in each group of a field; None where there are fewer than two groups."""
    groups = rates.groups
    if len(groups) < 2:
        return None
    systems = {
        comparison.names[place]: [
            Dot(100 * own.value, 100 * own.low, 100 * own.high) for own in (group.rates[place] for group in groups)
        ]
        for place in _drawn(comparison, SYSTEMS_IN_GROUPS)
    }
    plot = GroupPlot([group.group for group in groups], systems, f"{comparison.lead.upper()}, %")
    return Figure(f"By {field}", plot)


def _drawn(comparison: Comparison, most: int) -> list[int]:
    """Return the places of the first system and of the best others, in their order."""
    rates = [system.scores.rate(comparison.lead) for system in comparison.systems]
    best = sorted(range(1, len(rates)), key=lambda place: rates[place])[: most - 1]
    return [0, *sorted(best)]
