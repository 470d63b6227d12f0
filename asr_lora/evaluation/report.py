"""Hypotheses of one system -> everything that its report states of them. Hypotheses alone suffice to make it again."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from asr_lora.errors import ConfigError, DataError
from asr_lora.folders.atomic import read_jsonl
from asr_lora.folders.report_folder import ReportFolder
from asr_lora.metrics.breakdown import RULE, Counts, find_groups, group_columns, group_facts, speaker_facts
from asr_lora.metrics.confusions import confusions
from asr_lora.metrics.hallucination import hallucination
from asr_lora.metrics.hotword_recall import Hotword, count_hotwords, hotword_recall
from asr_lora.metrics.intervals import REPLICATES, Resamples, Sums, rate_of, resamples
from asr_lora.metrics.normalize import LABELS, Normaliser, characters_lead, find_normaliser
from asr_lora.metrics.wer import Errors, Scored, score

SCORING = 2  # what a report states and how its intervals are drawn; change it with every change of these
PERSON = ("gender", "age", "accent", "domain")  # of a row, beside what is transcribed
NEEDED = {"id": str, "speaker": str, "seconds": int | float, "reference": str, "hypothesis": str}

Row = dict[str, Any]
Columns = dict[tuple[Any, ...], np.ndarray]


def read_rows(folder: ReportFolder) -> list[Row]:
    """Read the hypotheses of a report, ordered by id.

    Raises:
        DataError: the file is missing, holds no utterances, one of them twice, or lacks what scoring needs.
    """
    rows = read_jsonl(folder.hypotheses)
    for number, row in enumerate(rows, 1):
        for key, kind in NEEDED.items():
            if not isinstance(row.get(key), kind):
                raise DataError(f"{folder.hypotheses}, line {number}: no {key!r} in it. {folder.remedy}")
    if not rows:
        raise DataError(f"{folder.hypotheses} holds no utterances. {folder.remedy}")
    if len({row["id"] for row in rows}) < len(rows):
        raise DataError(f"{folder.hypotheses} holds an utterance twice. {folder.remedy}")
    return sorted(rows, key=lambda row: str(row["id"]))


def score_rows(rows: Sequence[Row], normaliser: Normaliser) -> Scored:
    return score([row["reference"] for row in rows], [row["hypothesis"] for row in rows], normaliser)


def counted_rows(rows: Sequence[Row], scored: Scored) -> list[Row]:
    """Add what was counted to every row."""
    return [
        {
            **row,
            "word_edits": word.edits,
            "reference_words": word.reference,
            "character_edits": character.edits,
            "reference_characters": character.reference,
        }
        for row, word, character in zip(rows, scored.words, scored.characters, strict=True)
    ]


def leading(rows: Sequence[Row]) -> str:
    """Which rate leads: "cer" where most of what was spoken is written without blanks between words."""
    return "cer" if characters_lead([row["reference"] for row in rows]) else "wer"


def counts_of(scored: Scored, lead: str) -> Counts:
    """Edits and lengths behind the leading rate."""
    errors = scored.characters if lead == "cer" else scored.words
    return Counts(_column(errors, "edits"), _column(errors, "reference"))


def _column(errors: Sequence[Errors], what: str) -> np.ndarray:
    return np.asarray([getattr(one, what) for one in errors])


def rate_columns(systems: Sequence[Scored]) -> Columns:
    """What a bootstrap has to sum for WER and CER of all systems."""
    return {
        (rate, place, what): _column(errors, attribute)
        for place, scored in enumerate(systems)
        for rate, errors in (("wer", scored.words), ("cer", scored.characters))
        for what, attribute in (("edits", "edits"), ("lengths", "reference"))
    }


def report_facts(
    rows: Sequence[Row], language: str, normaliser: Normaliser, terms: Sequence[Hotword] | None = None
) -> tuple[list[Row], dict[str, Any]]:
    """Score hypotheses; return the rows with their counts, and what report.json says of them.

    Args:
        rows: hypotheses as `read_rows` has them.
        language: code of what is spoken, which the normalisers depend on.
        normaliser: of the scores that lead; the others are given beside it.
        terms: named terms whose recall is wanted.
    """
    scored, lead = score_rows(rows, normaliser), leading(rows)
    plan, groups = resamples([row["speaker"] for row in rows]), find_groups(rows)
    counted = count_hotwords(terms, scored, characters=lead == "cer") if terms else None
    columns = rate_columns([scored]) | group_columns(groups, [counts_of(scored, lead)])
    if counted:
        columns |= {("terms", "found"): counted.found.sum(axis=0), ("terms", "spoken"): counted.spoken.sum(axis=0)}
    sums = plan.draw(columns)
    analysis = {
        "breakdown": breakdown_facts(rows, [scored], lead, group_facts(groups, 1, sums)),
        "words": confusions(scored.alignments),
        "hallucination": hallucination(scored, characters=lead == "cer"),
    }
    if terms and counted:
        analysis["terms"] = hotword_recall(terms, counted, sums["terms", "found"], sums["terms", "spoken"])
    facts = {
        "normaliser": normaliser.label,
        "scoring": SCORING,
        "scores": {**score_facts(scored, lead, plan, sums, 0), **all_normalisers(rows, language, scored)},
        "analysis": analysis,
    }
    return counted_rows(rows, scored), facts


def score_facts(
    scored: Scored, lead: str, plan: Resamples, sums: Mapping[tuple[Any, ...], Sums], place: int
) -> dict[str, Any]:
    """Rates, counts and intervals of one of the systems that `sums` were drawn for."""
    rates = scored.rates
    wer, cer = (rate_of(sums[rate, place, "edits"], sums[rate, place, "lengths"]) for rate in ("wer", "cer"))
    return {
        "lead": lead,
        **asdict(rates),
        "word_edits": rates.substitutions + rates.insertions + rates.deletions,
        "wer_interval": [wer.low, wer.high],
        "cer_interval": [cer.low, cer.high],
        "resampled": plan.unit,
        "units": plan.units,
        "replicates": REPLICATES,
    }


def breakdown_facts(rows: Sequence[Row], systems: Sequence[Scored], lead: str, by: dict[str, Any]) -> dict[str, Any]:
    """Rates by group and by speaker, with the rule that withholds some; `by` is what `group_facts` made."""
    return {
        "rate": lead,
        "rule": RULE,
        "by": by,
        "not_recorded": [field for field in PERSON if field not in by],
        "speaker": speaker_facts(rows, [counts_of(scored, lead) for scored in systems]),
    }


def all_normalisers(rows: Sequence[Row], language: str, known: Scored | None = None) -> dict[str, Any]:
    """Rates after every normaliser, as written included, and why where there are none.

    Args:
        rows: hypotheses.
        language: code of what is spoken.
        known: what is scored already, and need not be again.
    """
    found: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name, label in LABELS.items():
        try:
            scored = known if known and known.normaliser == label else score_rows(rows, find_normaliser(name, language))
        except ConfigError as error:
            missing[label] = str(error)
            continue
        found[label] = asdict(scored.rates)
    raw = found[LABELS["none"]]
    return {"raw_wer": raw["wer"], "raw_cer": raw["cer"], "normalised": found, "not_scored": missing}
