"""Score the hypotheses of one system: everything that its report states follows from the hypotheses alone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from asr_lora.errors import ConfigError, DataError
from asr_lora.folders.atomic import read_jsonl
from asr_lora.folders.measurements import Measured, ScoresRecord
from asr_lora.folders.report_folder import ReportFolder
from asr_lora.metrics.breakdown import Columns, Counts, break_down, find_groups, group_columns
from asr_lora.metrics.confusions import confusions
from asr_lora.metrics.hallucination import hallucination_signs
from asr_lora.metrics.hotword_recall import Hotword, count_hotwords, hotword_recall
from asr_lora.metrics.intervals import REPLICATES, Resamples, Sums, rate_of, resamples
from asr_lora.metrics.normalize import LABELS, Normaliser, find_normaliser, leading_rate
from asr_lora.metrics.wer import Errors, Scored, score

SCORING = 3  # what a report states and how its intervals are drawn; change it with every change of these
NEEDED = {"id": str, "speaker": str, "seconds": int | float, "reference": str, "hypothesis": str}

Row = dict[str, Any]  # a line of hypotheses.jsonl


@dataclass(frozen=True)
class ReportScores:
    """The part of report.json that follows from the hypotheses; the fields are its keys."""

    normaliser: str
    scoring: int
    scores: ScoresRecord
    analysis: Measured  # results behind the scores

    def fields(self) -> dict[str, Any]:
        """Return the fields of a ReportRecord."""
        return dict(vars(self))


def read_rows(folder: ReportFolder) -> list[Row]:
    """Read the hypotheses of a report, ordered by id.

    Raises:
        DataError: the file is missing or holds no utterances, holds one twice, or a line lacks a key.
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
    """Add the error counts to every row."""
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
    """Return the rate that leads: "cer" where most references are in a script without blanks between words."""
    return leading_rate([row["reference"] for row in rows])


def counts_of(scored: Scored, lead: str) -> Counts:
    """Return edits and lengths behind the leading rate."""
    errors = scored.characters if lead == "cer" else scored.words
    return Counts(_column(errors, "edits"), _column(errors, "reference"))


def _column(errors: Sequence[Errors], what: str) -> np.ndarray:
    return np.asarray([getattr(one, what) for one in errors])


def rate_columns(systems: Sequence[Scored]) -> Columns:
    """Return the columns that a bootstrap has to sum for WER and CER of all systems."""
    return {
        (rate, place, what): _column(errors, attribute)
        for place, scored in enumerate(systems)
        for rate, errors in (("wer", scored.words), ("cer", scored.characters))
        for what, attribute in (("edits", "edits"), ("lengths", "reference"))
    }


def score_report(
    rows: Sequence[Row], language: str, normaliser: Normaliser, hotwords: Sequence[Hotword] | None = None
) -> tuple[list[Row], ReportScores]:
    """Score hypotheses; return the rows with their counts, and everything that report.json states of them.

    Args:
        rows: hypotheses as `read_rows` returns them.
        language: code of the spoken language, which the normalisers depend on.
        normaliser: of the main scores; those after every other normaliser are stated beside them.
        hotwords: names and words whose recall is wanted.
    """
    scored, lead = score_rows(rows, normaliser), leading(rows)
    plan, groups, counts = resamples([row["speaker"] for row in rows]), find_groups(rows), [counts_of(scored, lead)]
    counted = count_hotwords(hotwords, scored, characters=lead == "cer") if hotwords else None
    columns = rate_columns([scored]) | group_columns(groups, counts)
    if counted:
        columns |= {("terms", "found"): counted.found.sum(axis=0), ("terms", "spoken"): counted.spoken.sum(axis=0)}
    sums = plan.draw(columns)
    recall = None
    if hotwords and counted:
        recall = hotword_recall(hotwords, counted, sums["terms", "found"], sums["terms", "spoken"])
    analysis = {
        "breakdown": asdict(break_down(rows, counts, lead, groups, sums)),
        "words": asdict(confusions(scored.alignments)),
        "hallucination": asdict(hallucination_signs(scored, characters=lead == "cer")),
        "terms": asdict(recall) if recall else None,  # None: no hotwords were asked for
    }
    scores = score_record(scored, lead, plan, sums, 0, all_normalisers(rows, language, scored))
    return counted_rows(rows, scored), ReportScores(normaliser.label, SCORING, scores, analysis)


def score_record(
    scored: Scored,
    lead: str,
    plan: Resamples,
    sums: Mapping[tuple[Any, ...], Sums],
    place: int,
    normalisers: Mapping[str, Any],
) -> ScoresRecord:
    """Rates, counts and intervals of the system at `place` among those that `sums` were drawn for.

    Args:
        normalisers: rates after the other normalisers, from `all_normalisers`.
    """
    rates = scored.rates
    wer, cer = (rate_of(sums[rate, place, "edits"], sums[rate, place, "lengths"]) for rate in ("wer", "cer"))
    return ScoresRecord(
        lead=lead,
        **asdict(rates),
        word_edits=rates.substitutions + rates.insertions + rates.deletions,
        wer_interval=(wer.low, wer.high),
        cer_interval=(cer.low, cer.high),
        resampled=plan.unit,
        units=plan.units,
        replicates=REPLICATES,
        **normalisers,
    )


def all_normalisers(rows: Sequence[Row], language: str, known: Scored) -> dict[str, Any]:
    """Return rates after every normaliser, and as written, and the reason where a normaliser cannot be used.

    Args:
        rows: hypotheses.
        language: code of the spoken language.
        known: scores after one of the normalisers, which need not be computed again.
    """
    found: dict[str, Measured] = {}
    missing: dict[str, str] = {}
    for name, label in LABELS.items():
        try:
            scored = known if known.normaliser == label else score_rows(rows, find_normaliser(name, language))
        except ConfigError as error:
            missing[label] = str(error)
            continue
        found[label] = asdict(scored.rates)
    raw = found[LABELS["none"]]
    return {"raw_wer": raw["wer"], "raw_cer": raw["cer"], "normalised": found, "not_scored": missing}
