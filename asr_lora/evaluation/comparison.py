"""Compare every pair of systems on the same utterances, with a paired bootstrap and the matched-pairs test."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from asr_lora.errors import ConfigError, DataError
from asr_lora.evaluation.report import (
    Row,
    counted_rows,
    counts_of,
    leading,
    rate_columns,
    read_rows,
    score_record,
    score_rows,
)
from asr_lora.folders.measurements import Difference, ReportRecord, ScoresRecord
from asr_lora.folders.report_folder import ReportFolder
from asr_lora.metrics.breakdown import Breakdown, break_down, find_groups, group_columns
from asr_lora.metrics.combine import Family, combine, contests
from asr_lora.metrics.confusions import ChangedWords, Confusions, changed_words, confusions
from asr_lora.metrics.hallucination import HallucinationSigns, hallucination_signs
from asr_lora.metrics.hotword_recall import Hotword, HotwordRecall, count_hotwords, hotword_recall, read_hotwords
from asr_lora.metrics.intervals import Resamples, Sums, difference_of, resamples
from asr_lora.metrics.mapsswe import MatchedPairs, matched_pairs
from asr_lora.metrics.normalize import Normaliser, find_normaliser
from asr_lora.metrics.wer import Scored, align_characters
from asr_lora.pages.tables import Number, Text, percent, text

Summed = Mapping[tuple[Any, ...], Sums]


@dataclass(frozen=True)
class Pair:
    """System B against system A on the same utterances."""

    a: str
    b: str
    wer: Difference
    cer: Difference
    lead: str = "wer"  # the rate that decides the verdict
    test: MatchedPairs | None = None  # of words, or of characters where CER leads; None: the references differ

    @property
    def leading(self) -> Difference:
        return self.cer if self.lead == "cer" else self.wer

    @property
    def verdict(self) -> str:
        """The verdict on B compared with A: "better", "worse" or "not distinguishable"."""
        return self.leading.verdict

    @property
    def sentence(self) -> Text:
        """The verdict in words, and a second sentence where the matched-pairs test does not agree."""
        found = self.leading
        if found.verdict == "not distinguishable":
            said = text(f"{self.b} and {self.a} are not distinguishable (", *_change(found.value, self.lead), ", ")
        else:
            points = percent(abs(found.value))
            said = text(f"{self.b} is {found.verdict} than {self.a} by ", points, f" points of {self.lead.upper()} (")
        said += text(*_interval(found.low, found.high), ").")
        if self.test is None or self.test.verdict == found.verdict:
            return said
        return said + text(" ", self._otherwise(self.test))

    def _otherwise(self, test: MatchedPairs) -> str:
        facts = f"MAPSSWE, {test.segments} segments, p = {test.p:.3f}"
        if test.verdict == "not distinguishable":
            return f"The matched-pairs test does not tell them apart ({facts})."
        return f"The matched-pairs test, which does not know of speakers, finds {self.b} {test.verdict} ({facts})."


@dataclass(frozen=True)
class WordChanges:
    """Words that system B has right more often than system A, and less often."""

    a: str
    b: str
    words: ChangedWords


@dataclass(frozen=True)
class Comparison:
    """Several systems on the same utterances; each is compared with the first system first."""

    systems: list[ReportRecord]  # with scores that are counted again here
    rows: list[list[Row]]  # hypotheses of each system, in the same order
    scored: list[Scored]  # of each system
    pairs: list[Pair]
    unit: str  # of the bootstrap: "speaker" or "utterance"
    units: int
    lead: str  # "wer" or "cer"
    breakdown: Breakdown
    hallucination: list[HallucinationSigns]  # of each system
    combined: list[Family]  # systems with several seeds or subsets
    contests: list[Pair]  # pairs of these families and of the systems outside them
    hotwords: list[HotwordRecall] = field(default_factory=list)  # of each system; empty: none were asked for
    words: list[Confusions] = field(default_factory=list)  # of each system; empty: without transcripts
    changed: list[WordChanges] = field(default_factory=list)  # against the first system; empty: without transcripts
    regression_sets: "list[Comparison]" = field(default_factory=list)  # the same systems on other datasets
    transcripts: bool = False  # whether words may be shown

    @property
    def names(self) -> list[str]:
        return [system.system.name for system in self.systems]

    @property
    def verdict(self) -> Text:
        """The best system against the first and against the next best; several seeds count by their mean."""
        pairs = {frozenset((pair.a, pair.b)): pair for pair in self.contests or self.pairs}
        first = (self.contests or self.pairs)[0].a
        rates = dict(zip(self.names, (system.scores.rate(self.lead) for system in self.systems), strict=True))
        rates |= {family.label: getattr(family, self.lead).mean for family in self.combined}
        compared = {name for pair in pairs for name in pair}
        best, second, *others = sorted((name for name in rates if name in compared), key=lambda name: rates[name])
        if best == first:
            said = pairs[frozenset((first, second))].sentence
            return text(f"None is better than {first}. ") + said if others else said
        said = pairs[frozenset((first, best))].sentence
        return said if second == first else said + _next_best(pairs[frozenset((best, second))], best, second)


def _change(value: float, lead: str) -> tuple[str | Number, ...]:
    return percent(value, "+.1f"), f" points of {lead.upper()}"


def _interval(low: float, high: float) -> tuple[str | Number, ...]:
    return "95 % interval ", percent(low, "+.1f"), " to ", percent(high, "+.1f")


def _next_best(pair: Pair, best: str, second: str) -> Text:
    """The best system against the next best, whichever of them is B in the pair."""
    found, sign = pair.leading, 1 if pair.b == best else -1
    interval = _interval(*sorted((sign * found.low, sign * found.high)))
    if found.verdict == "not distinguishable":
        change = _change(sign * found.value, pair.lead)
        return text(f" The next best, {second}, is not distinguishable from it (", *change, ", ", *interval, ").")
    points = percent(abs(found.value))
    return text(
        f" It is also better than the next best, {second}, by ", points, f" points of {pair.lead.upper()} (", *interval,
        ").",
    )  # fmt: skip


def read_comparison(
    reports: Sequence[Path],
    *,
    normaliser: str | None = None,
    hotwords: Path | Sequence[Hotword] | None = None,
    regression_sets: Sequence[Path] = (),
    transcripts: bool = False,
) -> Comparison:
    """Compare every pair of reports. All errors are counted again from the hypotheses, and nothing is written.

    Raises:
        ConfigError: fewer than two reports, or two with the same name; a report on a regression set is of none of the
            systems.
        DataError: a report is incomplete, or the reports differ in utterances, normaliser or decoding.
    """
    if len(reports) < 2:
        raise ConfigError("a comparison needs two reports or more: asr-lora compare REPORT REPORT --out FOLDER")
    folders = [ReportFolder(path) for path in reports]
    systems = [folder.read() for folder in folders]
    names = [system.system.name for system in systems]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"two reports have one name ({', '.join(names)}): evaluate again with --name, such as {names[0]}#2 for "
            "another seed"
        )
    if not normaliser:
        _require_same(
            "normaliser", [system.normaliser for system in systems], reports, " or name one with --normaliser"
        )
    _require_same("decoding", [system.decoding.model_dump() for system in systems], reports)
    rows = [read_rows(folder) for folder in folders]
    _require_same_utterances(rows, reports)
    how = find_normaliser(normaliser or systems[0].normaliser, systems[0].decoding.language)
    wanted = read_hotwords(hotwords, how) if isinstance(hotwords, Path) else hotwords
    comparison = _compare(systems, names, rows, how, wanted or [], transcripts)
    if regression_sets:
        return replace(comparison, regression_sets=_on_regression_sets(names, regression_sets, normaliser))
    return comparison


def _require_same(condition: str, values: Sequence[object], reports: Sequence[Path], remedy: str = "") -> None:
    for value, report in zip(values[1:], reports[1:], strict=True):
        if value != values[0]:
            raise DataError(
                f"{report} and {reports[0]} differ in {condition} ({value} and {values[0]}): "
                f"evaluate both in the same way{remedy}"
            )


def _require_same_utterances(rows: list[list[Row]], reports: Sequence[Path]) -> None:
    first = [(row["id"], row["reference"]) for row in rows[0]]
    for other, report in zip(rows[1:], reports[1:], strict=True):
        if [(row["id"], row["reference"]) for row in other] != first:
            raise DataError(f"{report} and {reports[0]} are not of the same utterances: evaluate both on one split")


def _compare(
    systems: list[ReportRecord],
    names: list[str],
    rows: list[list[Row]],
    normaliser: Normaliser,
    hotwords: Sequence[Hotword],
    transcripts: bool,
) -> Comparison:
    scored = [score_rows(own, normaliser) for own in rows]
    lead, plan = leading(rows[0]), resamples([row["speaker"] for row in rows[0]])
    groups, counts = find_groups(rows[0]), [counts_of(one, lead) for one in scored]
    occurred = [count_hotwords(hotwords, one, characters=lead == "cer") for one in scored] if hotwords else []
    hotword_columns = {
        ("terms", place, what): getattr(own, what).sum(axis=0)
        for place, own in enumerate(occurred)
        for what in ("found", "spoken")
    }
    sums = plan.draw(rate_columns(scored) | group_columns(groups, counts) | hotword_columns)
    recalls = [
        hotword_recall(hotwords, own, sums["terms", place, "found"], sums["terms", place, "spoken"])
        for place, own in enumerate(occurred)
    ]
    return Comparison(
        systems=[
            system.model_copy(
                update={
                    "normaliser": normaliser.label,
                    "scores": _scores_again(system.scores, scored[place], lead, plan, sums, place),
                }
            )
            for place, system in enumerate(systems)
        ],
        rows=[counted_rows(own, one) for own, one in zip(rows, scored, strict=True)],
        scored=scored,
        pairs=_pairs(names, scored, lead, sums),
        unit=plan.unit,
        units=plan.units,
        lead=lead,
        breakdown=break_down(rows[0], counts, lead, groups, sums),
        hallucination=[hallucination_signs(one, characters=lead == "cer") for one in scored],
        combined=combine(names, sums),
        contests=[Pair(*contest, lead) for contest in contests(names, sums)],
        hotwords=recalls if transcripts else [replace(own, each=None) for own in recalls],
        words=[confusions(one.alignments) for one in scored] if transcripts else [],
        changed=_changed(names, scored) if transcripts else [],
        transcripts=transcripts,
    )


def _pairs(names: Sequence[str], scored: Sequence[Scored], lead: str, sums: Summed) -> list[Pair]:
    def difference(a: int, b: int, rate: str) -> Difference:
        edits, lengths = ([sums[rate, place, what] for place in (a, b)] for what in ("edits", "lengths"))
        return difference_of(*edits, *lengths)

    return [
        Pair(
            names[a],
            names[b],
            difference(a, b, "wer"),
            difference(a, b, "cer"),
            lead,
            _test(scored[a], scored[b], lead),
        )
        for a, b in itertools.combinations(range(len(names)), 2)
    ]


def _scores_again(
    recorded: ScoresRecord, scored: Scored, lead: str, plan: Resamples, sums: Summed, place: int
) -> ScoresRecord:
    """Scores that are counted again, with the rates after other normalisers as the report has them."""
    others = recorded.model_dump(include={"raw_wer", "raw_cer", "normalised", "not_scored"}, exclude_unset=True)
    return score_record(scored, lead, plan, sums, place, others)


def _test(a: Scored, b: Scored, lead: str) -> MatchedPairs | None:
    """The matched-pairs test in units of the leading rate; None where a normaliser made the references differ."""
    if a.references != b.references:
        return None
    if lead == "cer":
        return matched_pairs(*(align_characters(one.references, one.hypotheses) for one in (a, b)))
    return matched_pairs(a.alignments, b.alignments)


def _changed(names: Sequence[str], scored: Sequence[Scored]) -> list[WordChanges]:
    first = scored[0]
    return [
        WordChanges(names[0], name, changed_words(first.alignments, other.alignments))
        for name, other in zip(names[1:], scored[1:], strict=True)
        if first.references == other.references
    ]


def _on_regression_sets(names: Sequence[str], reports: Sequence[Path], normaliser: str | None) -> list[Comparison]:
    """One comparison for each dataset that the reports are of, with the systems in the order of the names."""
    records = {path: ReportFolder(path).read() for path in reports}
    for path, record in records.items():
        if record.system.name not in names:
            raise ConfigError(
                f"regression set report {path} is of {record.system.name}, none of the systems compared "
                f"({', '.join(names)}): evaluate it with the name of one, by --name"
            )
    datasets: dict[str, list[Path]] = {}
    for path in sorted(reports, key=lambda path: names.index(records[path].system.name)):
        datasets.setdefault(records[path].dataset.sha256, []).append(path)
    return [read_comparison(paths, normaliser=normaliser) for paths in datasets.values()]
