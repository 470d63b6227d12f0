"""A comparison -> one self-contained HTML page, and the same table as Markdown."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from asr_lora.scoring.charts import wer_chart
from asr_lora.scoring.comparison import Comparison
from asr_lora.scoring.intervals import Difference
from asr_lora.scoring.wer import shown_words

CHANGED_SHOWN = 30
COLUMNS = (
    "System",
    "WER %",
    "95 % interval",
    "CER %",
    "WER as written %",
    "Difference",
    "Trainable parameters",
    "Weights MB",
    "Training min",
    "Peak memory GB",
    "Context",
    "RTFx",
)


def render_page(comparison: Comparison, *, transcripts: bool) -> str:
    """Render the page; without `transcripts` it shows numbers only."""
    changed = _most_changed(comparison) if transcripts else []
    template = environment().get_template("page.html.j2")
    return template.render(**_context(comparison), chart=_chart(comparison), changed=changed)


def render_markdown(comparison: Comparison) -> str:
    """Render verdict and table as Markdown."""
    return environment(autoescape=False).get_template("table.md.j2").render(**_context(comparison))


@cache
def environment(autoescape: bool = True) -> Environment:
    """Templates of pages and tables."""
    loader = PackageLoader("asr_lora.scoring", "templates")
    return Environment(
        loader=loader, autoescape=autoescape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _context(comparison: Comparison) -> dict[str, Any]:
    systems = comparison.systems
    against = {pair.b: pair.leading for pair in comparison.pairs if pair.a == systems[0]["system"]["name"]}
    return {
        "verdict": [pair.sentence for pair in comparison.pairs],
        "columns": (*COLUMNS, *(_guard_column(guard) for guard in comparison.guards)),
        "table": [
            [*_row(system, against.get(system["system"]["name"])), *_guard_cells(comparison, system["system"]["name"])]
            for system in systems
        ]
        + [_combined_row(comparison, body) for body in comparison.combined],
        "systems": systems,
        "dataset": systems[0]["dataset"],
        "decoding": systems[0]["decoding"],
        "normaliser": systems[0]["normaliser"],
        "lead": comparison.lead.upper(),
        "unit": comparison.unit,
        "units": comparison.units,
        "pairs": comparison.pairs,
    }


def _chart(comparison: Comparison) -> str:
    systems = comparison.systems
    return wer_chart(
        [system["system"]["name"] for system in systems],
        [system["scores"]["wer"] for system in systems],
        [tuple(system["scores"]["wer_interval"]) for system in systems],
    )


def _row(system: dict[str, Any], difference: Difference | None) -> list[str]:
    """One line of the table, in the order of COLUMNS; a dash where a number does not apply."""
    scores, facts = system["scores"], system["system"]
    training = facts["training"]
    low, high = scores["wer_interval"]
    return [
        facts["name"],
        f"{100 * scores['wer']:.1f}",
        f"{100 * low:.1f} to {100 * high:.1f}",
        f"{100 * scores['cer']:.1f}",
        f"{100 * scores['raw_wer']:.1f}",
        f"{100 * difference.value:+.1f} ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"
        if difference
        else "–",
        f"{training['trainable_parameters']:,} ({_share(training)})" if training else "–",
        f"{training['weights_bytes'] / 1e6:.1f}" if training else "–",
        f"{training['seconds'] / 60:.1f}" if training else "–",
        f"{training['peak_memory_bytes'] / 1e9:.1f}" if training else "–",
        facts["context"].replace("_", " "),
        f"{system['rtfx']:.1f}" if system["rtfx"] else "–",
    ]


def _guard_column(guard: Comparison) -> str:
    dataset = guard.systems[0]["dataset"]
    return f"Guard {dataset['language']} {guard.lead.upper()} %"


def _guard_cells(comparison: Comparison, name: str) -> list[str]:
    """The leading rate of a system on every guard."""
    cells = []
    for guard in comparison.guards:
        found = [system["scores"] for system in guard.systems if system["system"]["name"] == name]
        cells.append(f"{100 * found[0][guard.lead]:.1f}" if found else "–")
    return cells


def _combined_row(comparison: Comparison, body: dict[str, Any]) -> list[str]:
    """The line of several seeds or subsets: means, and their spread where a system has its interval."""
    wer, cer = body["wer"], body["cer"]
    change = body[comparison.lead].get("difference")
    cells = {
        "System": f"{body['name']} (mean of {len(body['systems'])})",
        "WER %": f"{100 * wer['mean']:.1f} ± {100 * wer['sd']:.1f}",
        "95 % interval": f"{100 * wer['interval'][0]:.1f} to {100 * wer['interval'][1]:.1f}",
        "CER %": f"{100 * cer['mean']:.1f} ± {100 * cer['sd']:.1f}",
        "Difference": f"{100 * change['value']:+.1f} ({100 * change['low']:+.1f} to {100 * change['high']:+.1f})"
        if change
        else "–",
    }
    return [cells.get(column, "–") for column in COLUMNS] + ["–"] * len(comparison.guards)


def _share(training: dict[str, Any]) -> str:
    return f"{100 * training['trainable_parameters'] / training['total_parameters']:.1f} %"


def _most_changed(comparison: Comparison) -> list[dict[str, Any]]:
    """The utterances whose word errors differ most between the first system and any other."""

    def spread(place: int) -> int:
        edits = [scored.words[place].edits for scored in comparison.scored]
        return max(abs(count - edits[0]) for count in edits[1:])

    places = sorted(range(len(comparison.rows[0])), key=lambda place: (-spread(place), place))
    names = [system["system"]["name"] for system in comparison.systems]
    shown = []
    for place in places[:CHANGED_SHOWN]:
        if not spread(place):
            break
        first = comparison.rows[0][place]
        lines = [
            {
                "name": name,
                "edits": scored.words[place].edits,
                "words": shown_words(scored.alignments[place]),
            }
            for name, scored in zip(names, comparison.scored, strict=True)
        ]
        shown.append({"id": first["id"], "seconds": first["seconds"], "reference": first["reference"], "lines": lines})
    return shown
