"""Compute every number of a report or comparison again, and compare with what is recorded; check page and tables."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from asr_lora.errors import ConfigError, DataError
from asr_lora.evaluation.comparison import read_comparison
from asr_lora.evaluation.comparison_record import comparison_record
from asr_lora.evaluation.report import read_rows, score_report
from asr_lora.folders.digests import file_facts
from asr_lora.folders.measurements import ComparisonRecord, Measured
from asr_lora.folders.report_folder import ComparisonFolder, ReportFolder
from asr_lora.metrics.hotword_recall import Hotword
from asr_lora.metrics.normalize import Normaliser, find_normaliser

TOLERANCE = 1e-9  # relative, of a number: sums may be in another order
DRAWN = {"wer_interval", "low", "high", "probability_of_improvement"}  # keys whose values depend on bootstrap draws
SHOWN = 20


@dataclass(frozen=True)
class Rerun:
    """The result of a rerun."""

    numbers: int = 0  # values that agree
    differences: tuple[str, ...] = ()  # a sentence for each value that does not
    notes: tuple[str, ...] = ()  # a sentence for each part that could not be computed again

    @staticmethod
    def together(parts: "Sequence[Rerun]") -> "Rerun":
        return Rerun(
            sum(part.numbers for part in parts),
            tuple(sentence for part in parts for sentence in part.differences),
            tuple(sentence for part in parts for sentence in part.notes),
        )


def rerun(folder: Path) -> Rerun:
    """Compute every number of a comparison or a report again from its hypotheses, and write nothing.

    Raises:
        ConfigError: the folder holds neither.
        DataError: a report or its hypotheses are missing or cannot be read.
    """
    if ReportFolder(folder).complete:
        return _rerun_report(ReportFolder(folder))
    if not ComparisonFolder(folder).complete:
        raise ConfigError(f"{folder} holds no report and no comparison: name one that evaluate or compare has made")
    recorded = ComparisonFolder(folder).read()
    reports = [_found(folder, path) for path in recorded.reports]
    regression_sets = [_found(folder, path) for path in recorded.guard_reports]
    parts = [_rerun_report(ReportFolder(path)) for path in (*reports, *regression_sets)]
    body = recorded.to_json()
    hotwords = recorded.terms[0] if recorded.terms else {}
    if hotwords and "each" not in hotwords:
        parts.append(
            Rerun(notes=(f"{folder}: recall of hotwords was not computed again, as their words are withheld",))
        )
        del body["terms"]
    if recorded.contests is None:
        body.pop("verdict")  # an older version stated the same results in other words
    normaliser = find_normaliser(recorded.normaliser, recorded.systems[0].decoding.language)
    comparison = read_comparison(
        reports,
        normaliser=recorded.normaliser,
        hotwords=_recorded_hotwords(hotwords, normaliser),
        regression_sets=regression_sets,
        transcripts=recorded.transcripts,
    )
    again = comparison_record(comparison, {"reports": recorded.reports}).to_json()
    parts += [disagreements(folder, body, again), _edited(ComparisonFolder(folder), recorded)]
    return Rerun.together(parts)


def _edited(folder: ComparisonFolder, recorded: ComparisonRecord) -> Rerun:
    """Find page and tables that are no longer as `compare` wrote them."""
    if not recorded.files:
        note = f"{folder.root}: an earlier version recorded no digests of page and tables, so they are not checked"
        return Rerun(notes=(note,))
    found = []
    for path in folder.rendered:
        if not path.is_file():
            found.append(f"{path} is missing")
        elif path.name not in recorded.files or file_facts(path) != recorded.files[path.name]:
            found.append(f"{path} has been changed since compare wrote it (its SHA-256 differs)")
    return Rerun(len(folder.rendered) - len(found), tuple(found))


def _rerun_report(folder: ReportFolder) -> Rerun:
    recorded, rows = folder.read(), read_rows(folder)
    language = recorded.decoding.language
    normaliser = find_normaliser(recorded.normaliser, language)
    hotwords = _recorded_hotwords(recorded.analysis.get("terms") or {}, normaliser)
    counted, again = score_report(rows, language, normaliser, hotwords)
    utterances = disagreements(folder.hypotheses, {"": rows}, {"": counted})
    numbers = {**again.fields(), "scores": again.scores.to_json()}
    return Rerun.together([utterances, disagreements(folder.root, recorded.to_json(), numbers)])


def _recorded_hotwords(recall: Measured, normaliser: Normaliser) -> list[Hotword] | None:
    return [Hotword(row["term"], normaliser.clean(row["term"]).strip()) for row in recall.get("each", ())] or None


def _found(folder: Path, report: str) -> Path:
    """Find a report by the path that a comparison records: from here, from the folder or from one above it.

    Raises:
        DataError: it is at none of these places.
    """
    for place in (Path(), folder.resolve(), *folder.resolve().parents):
        if (place / report).is_dir():
            return place / report
    raise DataError(f"{folder} was made from {report}, which is not there: run this where that path leads to it")


def disagreements(place: Path, recorded: Mapping[str, object], again: Mapping[str, object]) -> Rerun:
    """Compare what is recorded with what was computed again, value by value.

    Keys that were not computed again (machine, time, settings) are left alone, and so are keys that an older version
    did not record. Before `scoring` 2, intervals were drawn in another way: they are not compared, and a note says so.
    """
    older = "scoring" in again and recorded.get("scoring") != again["scoring"]
    numbers, found, notes = 0, [], []
    if older:
        notes.append(f"{place}: its intervals were drawn by an earlier version and are not compared")
    shared = {key: recorded[key] for key in again if key in recorded and key != "scoring"}
    for path, old, new in _values(shared, again, ""):
        if older and (DRAWN & set(re.split(r"[.\[]", path)) or "95 % interval" in str(old)):
            continue
        if _same(old, new):
            numbers += 1
        else:
            found.append(f"{place}: {path} is recorded as {_shown(old)}, and computed again it is {_shown(new)}")
    if len(found) > SHOWN:
        found[SHOWN:] = [f"{place}: and {len(found) - SHOWN} more values"]
    return Rerun(numbers, tuple(found), tuple(notes))


def _values(old: object, new: object, path: str) -> Iterator[tuple[str, object, object]]:
    """Yield pairs of values at the same path, down to the keys that are recorded."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in old.items():
            yield from _values(value, new.get(key, _MISSING), f"{path}.{key}" if path else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _values(one, other, f"{path}[{number}]")
    else:
        yield path.lstrip("."), old, new


_MISSING = object()


def _same(old: object, new: object) -> bool:
    if isinstance(old, int | float) and isinstance(new, int | float):
        return math.isclose(old, new, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(old == new)


def _shown(value: object) -> str:
    if value is _MISSING:
        return "nothing"
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
