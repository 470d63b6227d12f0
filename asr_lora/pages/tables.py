"""A comparison -> its tables: systems, pairs, how they were made; and the systems in plain numbers for LaTeX."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from asr_lora.evaluation.comparison import Comparison, Pair, combined_name

Facts = Mapping[str, Any]
DASH = "–"
CSV_COLUMNS = {  # name there -> key in `system_numbers`, and what it is multiplied by
    "runs": ("runs", 1),
    "wer": ("wer", 100),
    "werlow": ("wer_low", 100),
    "werhigh": ("wer_high", 100),
    "cer": ("cer", 100),
    "cerlow": ("cer_low", 100),
    "cerhigh": ("cer_high", 100),
    "difference": ("difference", 100),
    "differencelow": ("difference_low", 100),
    "differencehigh": ("difference_high", 100),
    "p": ("p", 1),
    "trainable": ("trainable", 1),
    "megabytes": ("weights_bytes", 1e-6),
    "minutes": ("seconds", 1 / 60),
    "gigabytes": ("memory_bytes", 1e-9),
    "cost": ("cost", 1),
    "rtfx": ("rtfx", 1),
}
LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "#": r"\#", "$": r"\$", "%": r"\%", "&": r"\&", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", ",": r"\char44{}", ";": r"\char59{}", '"': r"\char34{}",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Text in rows and columns; the first cell of a row names it."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: frozenset[int] = frozenset()  # columns of words, not numbers


# Systems.


def system_numbers(comparison: Comparison, price_per_hour: float | None = None) -> list[dict[str, Any]]:
    """What is known of every system, and then of the mean of each that has several seeds; None where nothing is.

    Rates are shares, lengths seconds, sizes bytes. The difference is of the leading rate against the first system, `p`
    that of the matched-pairs test.
    """
    first = comparison.names[0]
    against = {pair.b: pair for pair in comparison.pairs if pair.a == first}
    singles = [_of_system(system, against.get(name), price_per_hour) for name, system in named(comparison)]
    return singles + [_of_family(comparison, body) for body in comparison.combined]


def named(comparison: Comparison) -> Iterable[tuple[str, dict[str, Any]]]:
    return zip(comparison.names, comparison.systems, strict=True)


def _of_system(system: Facts, pair: Pair | None, price: float | None) -> dict[str, Any]:
    scores, facts = system["scores"], system["system"]
    training = facts["training"] or {}
    seconds = training.get("seconds")
    return {
        "name": facts["name"],
        "runs": 1,
        **{rate: scores[rate] for rate in ("wer", "cer", "raw_wer", "raw_cer")},
        **{f"{rate}_low": scores[f"{rate}_interval"][0] for rate in ("wer", "cer")},
        **{f"{rate}_high": scores[f"{rate}_interval"][1] for rate in ("wer", "cer")},
        **_difference(asdict(pair.leading) if pair else None),
        "p": pair.test.p if pair and pair.test else None,
        "trainable": training.get("trainable_parameters"),
        "share": training["trainable_parameters"] / training["total_parameters"] if training else None,
        "weights_bytes": training.get("weights_bytes"),
        "seconds": seconds,
        "memory_bytes": training.get("peak_memory_bytes"),
        "cost": seconds / 3600 * price if seconds is not None and price is not None else None,
        "context": facts["context"].replace("_", " "),
        "rtfx": system["rtfx"] or None,
    }


def _of_family(comparison: Comparison, body: Facts) -> dict[str, Any]:
    """Of several seeds or subsets: means, and their spread where a system has nothing."""
    facts: dict[str, Any] = {"name": combined_name(dict(body)), "runs": len(body["systems"])}
    for rate in ("wer", "cer"):
        own = body[rate]
        low, high = own["interval"]
        facts |= {rate: own["mean"], f"{rate}_low": low, f"{rate}_high": high, f"{rate}_sd": own["sd"]}
    return facts | _difference(body[comparison.lead].get("difference"))


def _difference(found: Facts | None) -> dict[str, Any]:
    value, low, high = (found[key] if found else None for key in ("value", "low", "high"))
    return {"difference": value, "difference_low": low, "difference_high": high}


def score_table(comparison: Comparison, price_per_hour: float | None = None) -> Table:
    """The table at the top of the page; the rate that leads comes first."""
    columns: dict[str, Callable[[Facts], str]] = {"System": lambda row: str(row["name"])}
    lead = comparison.lead
    for rate in (lead, "cer" if lead == "wer" else "wer"):
        columns[f"{rate.upper()} %"] = lambda row, rate=rate: _rate(row, rate)  # type: ignore[misc]
        if rate == lead:
            columns["95 % interval"] = lambda row: interval(
                row[f"{comparison.lead}_low"], row[f"{comparison.lead}_high"]
            )
    columns |= {
        f"{comparison.lead.upper()} as written %": lambda row: percent(row.get(f"raw_{comparison.lead}")),
        "Difference": lambda row: percent(row["difference"], "+.1f"),
        "its 95 % interval": lambda row: interval(row["difference_low"], row["difference_high"], "+.1f"),
        "Trainable parameters": _trainable,
        "Checkpoint MB": lambda row: number(row.get("weights_bytes"), 1e-6),
        "Training min": lambda row: number(row.get("seconds"), 1 / 60),
        "Peak memory GB": lambda row: number(row.get("memory_bytes"), 1e-9),
    }
    if price_per_hour is not None:
        columns["Cost"] = lambda row: number(row.get("cost"), 1, ".2f")
    columns["Context"] = lambda row: row.get("context", DASH)
    columns["RTFx"] = lambda row: number(row.get("rtfx"))
    for guard in comparison.guards:
        columns[_guard_column(guard)] = lambda row, guard=guard: _guard_cell(guard, row["name"])  # type: ignore[misc]
    rows = [[shown(row) for shown in columns.values()] for row in system_numbers(comparison, price_per_hour)]
    return Table("Scores", list(columns), rows, frozenset({list(columns).index("Context")}))


def _rate(row: Facts, rate: str) -> str:
    return percent(row[rate]) + (f" ± {100 * row[f'{rate}_sd']:.1f}" if f"{rate}_sd" in row else "")


def _trainable(row: Facts) -> str:
    return f"{row['trainable']:,} ({100 * row['share']:.1f} %)" if row.get("trainable") else DASH


def _guard_column(guard: Comparison) -> str:
    return f"Guard {guard.systems[0]['dataset']['language']} {guard.lead.upper()} %"


def _guard_cell(guard: Comparison, name: str) -> str:
    rates = {own: system["scores"][guard.lead] for own, system in named(guard)}
    return percent(rates.get(name))


def percent(share: float | None, form: str = ".1f") -> str:
    return number(share, 100, form)


def number(value: float | None, times: float = 1, form: str = ".1f") -> str:
    return DASH if value is None else f"{value * times:{form}}"


def interval(low: float | None, high: float | None, form: str = ".1f") -> str:
    return DASH if low is None or high is None else f"{100 * low:{form}} to {100 * high:{form}}"


def with_interval(found: Facts, form: str = ".1f") -> list[str]:
    """Two cells: a value, and its interval."""
    return [percent(found["value"], form), interval(found["low"], found["high"], form)]


def numbers_csv(comparison: Comparison, price_per_hour: float | None = None) -> str:
    r"""One row a system, rates in percent, empty where there is nothing: for siunitx, pgfplotstable or csvsimple.

    Names are escaped for LaTeX, their commas and quotation marks too, since TeX's readers know no quoted cells.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["system", *CSV_COLUMNS])
    for row in system_numbers(comparison, price_per_hour):
        values = [(row.get(key), times) for key, times in CSV_COLUMNS.values()]
        table.writerow(
            [_latex(row["name"]), *("" if value is None else _plain(value * times) for value, times in values)]
        )
    return text.getvalue()


def _plain(value: float) -> str:
    """A number with six figures that matter."""
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _latex(name: str) -> str:
    return "".join(LATEX.get(character, character) for character in " ".join(name.split()))


# Pairs and guards.


def pair_table(comparison: Comparison, pairs: Sequence[Pair], caption: str = "Each pair") -> Table:
    """Every pair, the leading rate first."""
    lead, other = ("CER", "WER") if comparison.lead == "cer" else ("WER", "CER")
    columns = [
        "B against A", f"{lead}, points", "95 % interval", f"{other}, points", "its 95 % interval",
        "Probability that B is better", "MAPSSWE p", "Verdict on B",
    ]  # fmt: skip
    rows = []
    for pair in pairs:
        beside = pair.wer if comparison.lead == "cer" else pair.cer
        rows.append(
            [
                f"{pair.b} against {pair.a}",
                *with_interval(asdict(pair.leading), "+.1f"),
                *with_interval(asdict(beside), "+.1f"),
                f"{pair.leading.probability_of_improvement:.3f}",
                _p_value(pair.test.p if pair.test else None),
                pair.verdict,
            ]
        )
    return Table(caption, columns, rows, frozenset({7}))


def _p_value(p: float | None) -> str:
    return "< 0.001" if p is not None and p < 0.001 else number(p, 1, ".3f")


def guard_tables(comparison: Comparison) -> list[Table]:
    """Of each guard, its scores and how far every system is from the first."""
    tables = []
    for guard in comparison.guards:
        dataset, lead = guard.systems[0]["dataset"], guard.lead.upper()
        columns = [
            "System", "WER %", "95 % interval", "CER %", "its 95 % interval", f"Difference of {lead}",
            "95 % interval of it",
        ]  # fmt: skip
        rows = []
        for row in system_numbers(guard):
            cells = [row["name"]]
            for rate, form in (("wer", ".1f"), ("cer", ".1f"), ("difference", "+.1f")):
                cells += [percent(row[rate], form), interval(row[f"{rate}_low"], row[f"{rate}_high"], form)]
            rows.append(cells)
        caption = f"Guard: {dataset['split']} split of {dataset['language']}, {dataset['utterances']} utterances"
        tables.append(Table(caption, columns, rows))
    return tables


def combined_table(comparison: Comparison) -> Table:
    """Systems of several seeds or subsets."""
    columns = [
        "System", f"Mean {comparison.lead.upper()} %", "Spread (sd)", "Lowest", "Highest", "95 % interval",
        "Difference", "its 95 % interval",
    ]  # fmt: skip
    rows = []
    for body in comparison.combined:
        own = body[comparison.lead]
        rows.append(
            [
                f"{body['name']} ({', '.join(body['systems'])})",
                *(percent(own[key]) for key in ("mean", "sd", "lowest", "highest")),
                interval(*own["interval"]),
                *(with_interval(own["difference"], "+.1f") if "difference" in own else (DASH, DASH)),
            ]
        )
    return Table("Several seeds or subsets", columns, rows)


# How the numbers were made.


def making_table(comparison: Comparison) -> Table:
    columns = [
        "System", "Model", "Base", "Trained on", "Data hashes", "Seed", "Best step on dev", "Strength", "Computed in",
        "Scored by", "Trained by",
    ]  # fmt: skip
    rows = []
    for name, report in named(comparison):
        facts = report["system"]
        training = facts["training"] or {}
        seed = (training.get("config") or {}).get("training", {}).get("seed")
        rows.append(
            [
                name,
                facts["model"],
                facts["base"],
                f"{training['hours_of_speech']:.2f} h, {training['epochs']:.1f} epochs" if training else DASH,
                ", ".join(f"{name} {digest[:12]}" for name, digest in training.get("data", {}).items()) or DASH,
                number(seed, 1, "d"),
                number(training.get("step"), 1, "d"),
                number(facts.get("strength"), 1, "g"),
                f"{facts['dtype']} on {facts['device']}",
                _provenance(report["made_with"]),
                _provenance(training.get("made_with") or {}),
            ]
        )
    return Table("Systems", columns, rows, frozenset({1, 2, 3, 4, 8, 9, 10}))


def _provenance(made: Facts) -> str:
    """Commit, machine and time, as far as they are known."""
    return "; ".join(filter(None, ((made.get("commit") or "")[:12], made.get("machine"), made.get("time")))) or DASH


def empty_table(names: Sequence[tuple[str, str, str, str]]) -> Table:
    """Rows that wait for a run: name, base, method and speech of each; no figure in any."""
    columns = [
        "System", "Base", "Method", "Trained on", "WER %", "95 % interval", "CER %", "Difference", "its 95 % interval",
        "Trainable parameters", "Checkpoint MB", "Training min", "Peak memory GB", "RTFx",
    ]  # fmt: skip
    rows = [[*row, *[DASH] * (len(columns) - len(row))] for row in names]
    return Table("Scores, not measured yet", columns, rows, frozenset({1, 2, 3}))
