"""The job: two or more reports of the same utterances -> one table, one verdict, one page."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from asr_lora.artifacts import ComparisonFolder, ReportFolder, fingerprint, read_jsonl, write_text
from asr_lora.errors import ConfigError, DataError
from asr_lora.scoring.comparison import Comparison, Pair
from asr_lora.scoring.intervals import Difference, paired_difference, resamples
from asr_lora.scoring.page import render_markdown, render_page


def compare(reports: Sequence[Path], *, out: Path, transcripts: bool = True) -> ComparisonFolder:
    """Compare every pair of systems with a paired bootstrap; write index.html, comparison.json and table.md.

    Args:
        reports: report folders; the first is what the others are held against.
        transcripts: whether the page may show references and hypotheses.

    Raises:
        ConfigError: fewer than two reports, or two with the same name; `out` holds something else.
        DataError: a report is incomplete, or theirs are not the same utterances, normaliser and decoding.
    """
    comparison = read_comparison(reports)
    systems = comparison.systems
    names = [system["system"]["name"] for system in systems]
    folder = ComparisonFolder(out)
    folder.require_ours(folder.complete or folder.markdown.is_file())
    write_text(folder.page, render_page(comparison, transcripts=transcripts))
    write_text(folder.markdown, render_markdown(comparison))
    folder.write(
        {
            "fingerprint": fingerprint([system["fingerprint"] for system in systems], names, transcripts),
            "reports": [str(path) for path in reports],
            "systems": [{key: system[key] for key in ("system", "scores", "rtfx", "decoding")} for system in systems],
            "dataset": systems[0]["dataset"],
            "normaliser": systems[0]["normaliser"],
            "bootstrap": {"unit": comparison.unit, "units": comparison.units},
            "pairs": [{**asdict(pair), "verdict": pair.wer.verdict} for pair in comparison.pairs],
            "verdict": comparison.verdict,
        }
    )
    return folder


def read_comparison(reports: Sequence[Path]) -> Comparison:
    """Hold every pair of reports against each other, and write nothing.

    Raises:
        ConfigError: fewer than two reports, or two with the same name.
        DataError: a report is incomplete, or theirs are not the same utterances, normaliser and decoding.
    """
    if len(reports) < 2:
        raise ConfigError("a comparison needs two reports or more: asr-lora compare REPORT REPORT --out FOLDER")
    folders = [ReportFolder(path) for path in reports]
    systems = [folder.read() for folder in folders]
    names = [system["system"]["name"] for system in systems]
    if len(set(names)) < len(names):
        raise ConfigError(f"two reports have one name ({', '.join(names)}): evaluate again with --name")
    _same_conditions(systems, reports)
    rows = [sorted(read_jsonl(folder.hypotheses), key=lambda row: row["id"]) for folder in folders]
    _same_utterances(rows, reports)
    return _compare(systems, names, rows)


def _same_conditions(systems: list[dict[str, Any]], reports: Sequence[Path]) -> None:
    for field in ("normaliser", "decoding"):
        for system, report in zip(systems[1:], reports[1:], strict=True):
            if system[field] != systems[0][field]:
                raise DataError(
                    f"{report} and {reports[0]} differ in {field} ({system[field]} and {systems[0][field]}): "
                    "evaluate both in the same way"
                )


def _same_utterances(rows: list[list[dict[str, Any]]], reports: Sequence[Path]) -> None:
    first = [(row["id"], row["reference"]) for row in rows[0]]
    for other, report in zip(rows[1:], reports[1:], strict=True):
        if [(row["id"], row["reference"]) for row in other] != first:
            raise DataError(f"{report} and {reports[0]} are not of the same utterances: evaluate both on one split")


def _compare(systems: list[dict[str, Any]], names: list[str], rows: list[list[dict[str, Any]]]) -> Comparison:
    plan = resamples([row["speaker"] for row in rows[0]])

    def difference(a: int, b: int, what: str) -> Difference:
        edits_a, edits_b = ([row[f"{what}_edits"] for row in rows[index]] for index in (a, b))
        return paired_difference(plan, edits_a, edits_b, [row[f"reference_{what}s"] for row in rows[a]])

    pairs = [
        Pair(names[a], names[b], difference(a, b, "word"), difference(a, b, "character"))
        for a, b in itertools.combinations(range(len(systems)), 2)
    ]
    return Comparison(systems, rows, pairs, plan.unit, plan.units)
