"""Make the record of a comparison that comparison.json holds."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from asr_lora.evaluation.comparison import Comparison, Pair
from asr_lora.evaluation.report import SCORING
from asr_lora.folders.measurements import ComparedSystem, ComparisonRecord, Measured
from asr_lora.metrics.combine import Family, FamilyRate
from asr_lora.metrics.hotword_recall import HotwordRecall
from asr_lora.metrics.intervals import REPLICATES


def comparison_record(comparison: Comparison, made_from: Mapping[str, Any]) -> ComparisonRecord:
    """Return everything that comparison.json states; it holds words only where the comparison has transcripts.

    Args:
        comparison: the systems and their results.
        made_from: fields of the record that state what was compared and how, such as the reports.
    """
    first = comparison.systems[0]
    words: dict[str, Any] = {}
    if comparison.transcripts:
        words["words"] = [asdict(own) for own in comparison.words]
        words["changed_words"] = [{"a": own.a, "b": own.b, **asdict(own.words)} for own in comparison.changed]
    return ComparisonRecord(
        **made_from,
        systems=[
            ComparedSystem(system=own.system, scores=own.scores, rtfx=own.rtfx, decoding=own.decoding)
            for own in comparison.systems
        ],
        dataset=first.dataset,
        normaliser=first.normaliser,
        scoring=SCORING,
        lead=comparison.lead,
        bootstrap={"unit": comparison.unit, "units": comparison.units, "replicates": REPLICATES},
        pairs=[_pair(comparison, pair) for pair in comparison.pairs],
        combined=[_family(family) for family in comparison.combined],
        contests=[_pair(comparison, pair) for pair in comparison.contests],
        breakdown=asdict(comparison.breakdown),
        hallucination=[asdict(own) for own in comparison.hallucination],
        terms=[_hotwords(own) for own in comparison.hotwords],
        guards=[_regression_set(own) for own in comparison.regression_sets],
        verdict=str(comparison.verdict),
        **words,
    )


def _pair(comparison: Comparison, pair: Pair) -> Measured:
    rows = comparison.rows[0]
    return {
        "a": pair.a,
        "b": pair.b,
        "wer": pair.wer.to_json(),
        "cer": pair.cer.to_json(),
        "mapsswe": {**asdict(pair.test), "verdict": pair.test.verdict} if pair.test else None,
        "utterances": len(rows),
        "speakers": len({row["speaker"] for row in rows}),
        "seconds": comparison.systems[0].dataset.seconds,
        "verdict": pair.verdict,
        "sentence": str(pair.sentence),
    }


def _family(family: Family) -> Measured:
    return {"name": family.name, "systems": family.systems, "wer": _rate(family.wer), "cer": _rate(family.cer)}


def _rate(own: FamilyRate) -> Measured:
    found = own.difference
    return {**asdict(own), "difference": {**found.to_json(), "verdict": found.verdict} if found else None}


def _hotwords(recall: HotwordRecall) -> Measured:
    return {key: value for key, value in asdict(recall).items() if key != "each" or value is not None}


def _regression_set(comparison: Comparison) -> Measured:
    first = comparison.systems[0]
    return {
        "dataset": first.dataset.to_json(),
        "normaliser": first.normaliser,
        "lead": comparison.lead,
        "systems": [{"name": own.system.name, "scores": own.scores.to_json()} for own in comparison.systems],
        "pairs": [_pair(comparison, pair) for pair in comparison.pairs],
    }
