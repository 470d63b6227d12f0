"""Tables of a comparison: systems, pairs, regression sets, seeds, and how the numbers were made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from asr_lora.evaluation.comparison import Comparison, Pair
from asr_lora.folders.manifests import MadeWith
from asr_lora.folders.measurements import Difference, ReportRecord, TrainingRecord
from asr_lora.metrics.combine import Family
from asr_lora.metrics.intervals import Interval
from asr_lora.pages.charts import Dot
from asr_lora.pages.tables import DASH, Cell, Number, Table, Text, count, interval, percent, text


@dataclass(frozen=True)
class SystemRow:
    """One system, or the mean of several seeds, in numbers; rates are shares."""

    name: str
    runs: int  # 1, or how many systems the mean is over
    wer: Interval
    cer: Interval
    wer_sd: float | None = None  # over runs
    cer_sd: float | None = None
    raw: float | None = None  # leading rate without normalisation
    difference: Difference | None = None  # of the leading rate to the first system
    p: float | None = None  # of the matched-pairs test against the first system
    training: TrainingRecord | None = None
    cost: float | None = None
    context: str = DASH
    rtfx: float | None = None

    def rate(self, name: str) -> Interval:
        return self.cer if name == "cer" else self.wer

    def dot(self, rate: str) -> Dot:
        found = self.rate(rate)
        return Dot(100 * found.value, 100 * found.low, 100 * found.high)


def system_rows(comparison: Comparison, price_per_hour: float | None = None) -> list[SystemRow]:
    """Return every system, and then the mean of each family of several seeds."""
    against = {pair.b: pair for pair in comparison.pairs if pair.a == comparison.names[0]}
    singles = [
        _system_row(system, comparison.lead, against.get(system.system.name), price_per_hour)
        for system in comparison.systems
    ]
    return singles + [_family_row(family, comparison.lead) for family in comparison.combined]


def _system_row(system: ReportRecord, lead: str, pair: Pair | None, price: float | None) -> SystemRow:
    scores, facts = system.scores, system.system
    training = facts.training
    return SystemRow(
        name=facts.name,
        runs=1,
        wer=Interval(scores.wer, *scores.interval("wer")),
        cer=Interval(scores.cer, *scores.interval("cer")),
        raw=scores.raw_cer if lead == "cer" else scores.raw_wer,
        difference=pair.leading if pair else None,
        p=pair.test.p if pair and pair.test else None,
        training=training,
        cost=training.seconds / 3600 * price if training and price is not None else None,
        context=facts.context.replace("_", " "),
        rtfx=system.rtfx or None,
    )


def _family_row(family: Family, lead: str) -> SystemRow:
    wer, cer = (Interval(own.mean, *own.interval) for own in (family.wer, family.cer))
    difference = family.cer.difference if lead == "cer" else family.wer.difference
    return SystemRow(family.label, len(family.systems), wer, cer, family.wer.sd, family.cer.sd, difference=difference)


def score_table(comparison: Comparison, price_per_hour: float | None = None) -> Table:
    """Make the main table; the leading rate comes first."""
    lead, other = ("cer", "wer") if comparison.lead == "cer" else ("wer", "cer")
    columns: dict[str, Callable[[SystemRow], Cell]] = {
        "System": lambda row: row.name,
        f"{lead.upper()} %": lambda row: _rate(row, lead),
        "95 % interval": lambda row: interval(row.rate(lead).low, row.rate(lead).high),
        f"{other.upper()} %": lambda row: _rate(row, other),
        f"{lead.upper()} % unnormalised": lambda row: percent(row.raw),
        f"{lead.upper()} difference": lambda row: _value_and_interval(row.difference)[0],
        "its 95 % interval": lambda row: _value_and_interval(row.difference)[1],
        "Trainable parameters": _trainable,
        "Checkpoint MB": lambda row: _trained(row.training, "weights_bytes", 1e-6),
        "Training min": lambda row: _trained(row.training, "seconds", 1 / 60),
        "Peak memory GB": lambda row: _trained(row.training, "peak_memory_bytes", 1e-9),
    }
    if price_per_hour is not None:
        columns["Cost"] = lambda row: Number(row.cost, ".2f")
    columns["Encoder context"] = lambda row: row.context
    columns["RTFx"] = lambda row: Number(row.rtfx)
    for other_set in comparison.regression_sets:
        head = f"Regression set {other_set.systems[0].dataset.language} {other_set.lead.upper()} %"
        rates = {name: own.scores.rate(other_set.lead) for name, own in named(other_set)}
        columns[head] = lambda row, rates=rates: percent(rates.get(row.name))  # type: ignore[misc]
    rows = [[cell(row) for cell in columns.values()] for row in system_rows(comparison, price_per_hour)]
    return Table("Scores", list(columns), rows, frozenset({list(columns).index("Encoder context")}))


def named(comparison: Comparison) -> list[tuple[str, ReportRecord]]:
    return list(zip(comparison.names, comparison.systems, strict=True))


def _rate(row: SystemRow, rate: str) -> Cell:
    sd = row.cer_sd if rate == "cer" else row.wer_sd
    value = percent(row.rate(rate).value)
    return value if sd is None else text(value, " ± ", percent(sd))


def _trainable(row: SystemRow) -> Cell:
    if row.training is None:
        return DASH
    share = row.training.trainable_parameters / row.training.total_parameters
    return text(count(row.training.trainable_parameters), " (", percent(share), " %)")


def _trained(training: TrainingRecord | None, key: str, times: float) -> Number:
    """One number of the training in another unit; a dash where nothing was trained."""
    return Number(getattr(training, key) * times if training else None)


def value_and_interval(found: Interval | Difference, form: str = ".1f") -> list[Cell]:
    """Two cells: a share in per cent, and its interval."""
    return [percent(found.value, form), interval(found.low, found.high, form)]


def _value_and_interval(difference: Difference | None) -> list[Cell]:
    return value_and_interval(difference, "+.1f") if difference else [DASH, DASH]


def number_table(comparison: Comparison, price_per_hour: float | None = None) -> Table:
    """Make the table of plain numbers for CSV: rates and differences in per cent, with heads that LaTeX reads."""
    columns = (
        "system", "runs", "wer", "werlow", "werhigh", "cer", "cerlow", "cerhigh", "difference", "differencelow",
        "differencehigh", "p", "trainable", "megabytes", "minutes", "gigabytes", "cost", "rtfx",
    )  # fmt: skip
    rows: list[list[Cell]] = []
    for row in system_rows(comparison, price_per_hour):
        change, training = row.difference, row.training
        shares = [row.wer.value, row.wer.low, row.wer.high, row.cer.value, row.cer.low, row.cer.high]
        changes = [change.value, change.low, change.high] if change else [None, None, None]
        rows.append(
            [
                row.name,
                Number(row.runs),
                *map(percent, [*shares, *changes]),
                Number(row.p),
                _trained(training, "trainable_parameters", 1),
                _trained(training, "weights_bytes", 1e-6),
                _trained(training, "seconds", 1 / 60),
                _trained(training, "peak_memory_bytes", 1e-9),
                Number(row.cost),
                Number(row.rtfx),
            ]
        )
    return Table("Numbers", columns, rows)


def pair_table(comparison: Comparison, pairs: Sequence[Pair], caption: str) -> Table:
    """Make a table of pairs, the leading rate first."""
    lead, other = ("CER", "WER") if comparison.lead == "cer" else ("WER", "CER")
    columns = [
        "B against A", f"{lead} difference", "95 % interval", f"{other} difference", "its 95 % interval",
        "Probability of improvement", "MAPSSWE p", "Verdict on B",
    ]  # fmt: skip
    rows = [
        [
            f"{pair.b} against {pair.a}",
            *_value_and_interval(pair.leading),
            *_value_and_interval(pair.wer if comparison.lead == "cer" else pair.cer),
            Number(pair.leading.probability_of_improvement, ".3f"),
            _p_value(pair.test.p if pair.test else None),
            pair.verdict,
        ]
        for pair in pairs
    ]
    return Table(caption, columns, rows, frozenset({7}))


def _p_value(p: float | None) -> Cell:
    return "< 0.001" if p is not None and p < 0.001 else Number(p, ".3f")


def regression_table(comparison: Comparison) -> Table:
    """Make the table of one regression set: scores of each system, and its difference to the first."""
    dataset, lead = comparison.systems[0].dataset, comparison.lead.upper()
    columns = [
        "System", "WER %", "95 % interval", "CER %", "its 95 % interval", f"{lead} difference", "its 95 % interval",
    ]  # fmt: skip
    rows = [
        [row.name, *value_and_interval(row.wer), *value_and_interval(row.cer), *_value_and_interval(row.difference)]
        for row in system_rows(comparison)
    ]
    caption = f"Regression set: {dataset.split} split of {dataset.language}, {dataset.utterances} utterances"
    return Table(caption, columns, rows)


def combined_table(comparison: Comparison) -> Table:
    """Make the table of systems with several seeds or subsets."""
    columns = [
        "System", f"Mean {comparison.lead.upper()} %", "Standard deviation", "Lowest", "Highest", "95 % interval",
        "Difference", "its 95 % interval",
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for family in comparison.combined:
        own = family.cer if comparison.lead == "cer" else family.wer
        name = f"{family.name} ({', '.join(family.systems)})"
        values = map(percent, (own.mean, own.sd, own.lowest, own.highest))
        rows.append([name, *values, interval(own.interval[0], own.interval[1]), *_value_and_interval(own.difference)])
    return Table("Several seeds or subsets", columns, rows)


def making_table(comparison: Comparison) -> Table:
    """Make the table of how each system was trained and scored."""
    columns = [
        "System", "Model", "Base model", "Trained on", "SHA-256 of the data", "Seed", "Best step on dev",
        "Adapter strength", "Precision and device", "Scored with", "Trained with",
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for name, report in named(comparison):
        facts, training = report.system, report.system.training
        rows.append(
            [
                name,
                facts.model,
                facts.base,
                _trained_on(training),
                ", ".join(f"{part} {digest[:12]}" for part, digest in (training.data if training else {}).items())
                or DASH,
                Number(((training and training.config) or {}).get("training", {}).get("seed"), "d"),
                Number(training.step if training else None, "d"),
                Number(facts.strength, "g"),
                f"{facts.dtype} on {facts.device}",
                _provenance(report.made_with),
                _provenance(training.made_with) if training else DASH,
            ]
        )
    return Table("Systems", columns, rows, frozenset({1, 2, 3, 4, 8, 9, 10}))


def _trained_on(training: TrainingRecord | None) -> Text:
    if training is None:
        return text(DASH)
    return text(Number(training.hours_of_speech, ".2f"), " h, ", Number(training.epochs), " epochs")


def _provenance(made: MadeWith) -> str:
    """Commit, machine and time, as far as they are recorded."""
    return "; ".join(filter(None, ((made.commit or "")[:12], made.machine, made.time))) or DASH
