"""The job: two or more reports of the same utterances -> one table, one verdict, one page; or all of it once more."""

import itertools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from asr_lora.errors import ConfigError, DataError
from asr_lora.evaluation.comparison import Comparison, Pair, combined_name, comparison_facts
from asr_lora.evaluation.report import (
    breakdown_facts,
    counted_rows,
    counts_of,
    leading,
    rate_columns,
    read_rows,
    report_facts,
    score_facts,
    score_rows,
)
from asr_lora.evaluation.rerun import Rerun, disagreements
from asr_lora.folders.atomic import write_text
from asr_lora.folders.dataset_folder import DatasetFolder
from asr_lora.folders.digests import fingerprint, sha256_file
from asr_lora.folders.report_folder import AnalysisFolder, ComparisonFolder, ReportFolder
from asr_lora.metrics.breakdown import find_groups, group_columns, group_facts
from asr_lora.metrics.combine import MARK, combine, contests
from asr_lora.metrics.hotword_recall import Hotword, HotwordCounts, count_hotwords, hotword_recall, read_hotwords
from asr_lora.metrics.intervals import Difference, Resamples, difference_of, resamples
from asr_lora.metrics.mapsswe import MatchedPairs, matched_pairs
from asr_lora.metrics.normalize import Normaliser, find_normaliser
from asr_lora.metrics.wer import Scored, align_characters
from asr_lora.pages.analysis_page import drawn_spectra
from asr_lora.pages.comparison_page import render_markdown, render_page
from asr_lora.pages.tables import numbers_csv
from asr_lora.pages.utterances import Sounds, shown_places

AUDIO_CLIPS = 60
AUDIO_BYTES = 9_000_000  # of FLAC in a page, a third more as base64: 12 MB in all


def compare(
    reports: Sequence[Path],
    *,
    out: Path,
    transcripts: bool = True,
    normaliser: str | None = None,
    terms: Path | None = None,
    guards: Sequence[Path] = (),
    price_per_hour: float | None = None,
    audio: Path | None = None,
    analysis: Path | None = None,
) -> ComparisonFolder:
    """Compare every pair of systems with a paired bootstrap; write a page, and the same as Markdown, CSV and JSON.

    All is counted anew from the hypotheses. Systems named NAME#1, NAME#2 are combined to mean and spread as well.

    Args:
        reports: report folders; the first is what the others are held against.
        transcripts: whether page and comparison.json may show words, not only numbers.
        normaliser: by name or label; that of the reports when not given.
        terms: file of named terms, one a line, whose recall is wanted.
        guards: reports of the same systems, by name, on other datasets.
        price_per_hour: of the machine that trained, in whatever currency, for a column of costs.
        audio: the dataset that the reports are of, where the page shall carry the sound of utterances that it shows.
        analysis: folder that `analyze` made, whose spectra the page shall show.

    Raises:
        ConfigError: fewer than two reports, or two with the same name; `out` holds something else; a guard is of none
            of the systems; audio without transcripts.
        DataError: a report is incomplete, or theirs are not the same utterances, normaliser and decoding; the dataset
            of the audio is not what the reports are of; the analysis is incomplete.
    """
    if audio and not transcripts:
        raise ConfigError("--with-audio plays utterances that --without-transcripts does not show: leave one out")
    comparison = read_comparison(reports, normaliser=normaliser, terms=terms, guards=guards)
    folder = ComparisonFolder(out)
    folder.require_ours(folder.complete or folder.markdown.is_file())
    sounds = _sounds(comparison, audio) if audio else {}
    spectra = drawn_spectra(AnalysisFolder(analysis).read()) if analysis else []
    facts = comparison_facts(comparison, transcripts=transcripts)
    options = {
        "--normaliser": normaliser, "--terms": terms, "--price-per-hour": price_per_hour, "--with-audio": audio,
        "--analysis": analysis,
    }  # fmt: skip
    commands = _commands(reports, guards, options, transcripts, out)
    page = render_page(
        comparison, facts, commands=commands, price_per_hour=price_per_hour, sounds=sounds, figures=spectra
    )  # fmt: skip
    write_text(folder.page, page)
    write_text(folder.markdown, render_markdown(comparison, price_per_hour=price_per_hour))
    write_text(folder.csv, numbers_csv(comparison, price_per_hour))
    prints = [system["fingerprint"] for system in comparison.systems]
    asked = (
        normaliser, [str(path) for path in guards], terms and sha256_file(terms), price_per_hour,
        audio and str(audio), analysis and str(analysis),
    )  # fmt: skip
    folder.write(
        {
            "fingerprint": fingerprint(prints, comparison.names, transcripts, *(asked if any(asked) else ())),
            "reports": [str(path) for path in reports],
            "guard_reports": [str(path) for path in guards],
            "transcripts": transcripts,
            "price_per_hour": price_per_hour,
            "commands": commands,
            **facts,
        }
    )
    return folder


def _commands(
    reports: Sequence[Path], guards: Sequence[Path], options: Mapping[str, object], transcripts: bool, out: Path
) -> list[str]:
    """The command that makes this comparison once more, and the one that checks it."""
    words: list[object] = ["asr-lora", "compare", *reports, *(word for path in guards for word in ("--guard", path))]
    words += [word for option, value in options.items() if value is not None for word in (option, value)]
    words += [*([] if transcripts else ["--without-transcripts"]), "--out", out]
    return [shlex.join(map(str, words)), shlex.join(["asr-lora", "compare", "--rerun", str(out)])]


def _sounds(comparison: Comparison, audio: Path) -> Sounds:
    """FLAC of the utterances that the page shows, the first of them as far as they fit.

    Raises:
        DataError: the dataset is not what the reports are of.
    """
    from asr_lora.dataset.reading import read_split

    wanted = comparison.systems[0]["dataset"]
    found = DatasetFolder(audio).read().splits.get(wanted["split"])
    if found is None or found.sha256 != wanted["sha256"]:
        raise DataError(
            f"--with-audio {audio} is not what the reports are of ({wanted['split']}, {wanted['sha256'][:16]}): "
            f"name the dataset they were evaluated on{': ' + wanted['folder'] if 'folder' in wanted else ''}"
        )
    split = read_split(audio, wanted["split"])
    places = {clip: index for index, clip in enumerate(split.ids)}
    sounds: Sounds = {}
    for place in shown_places(comparison)[:AUDIO_CLIPS]:
        clip = str(comparison.rows[0][place]["id"])
        flac = split.rows[places[clip]]["audio"]["bytes"]
        if sum(map(len, sounds.values())) + len(flac) <= AUDIO_BYTES:
            sounds[clip] = flac
    return sounds


def read_comparison(
    reports: Sequence[Path],
    *,
    normaliser: str | None = None,
    terms: Path | Sequence[Hotword] | None = None,
    guards: Sequence[Path] = (),
) -> Comparison:
    """Hold every pair of reports against each other, and write nothing.

    Raises:
        ConfigError: fewer than two reports, or two with the same name; a guard is of none of the systems.
        DataError: a report is incomplete, or theirs are not the same utterances, normaliser and decoding.
    """
    if len(reports) < 2:
        raise ConfigError("a comparison needs two reports or more: asr-lora compare REPORT REPORT --out FOLDER")
    folders = [ReportFolder(path) for path in reports]
    systems = [folder.read() for folder in folders]
    names = [system["system"]["name"] for system in systems]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"two reports have one name ({', '.join(names)}): evaluate again with --name, such as {names[0]}#2 for "
            "another seed"
        )
    _same_conditions(systems, reports, ("decoding",) if normaliser else ("normaliser", "decoding"))
    rows = [read_rows(folder) for folder in folders]
    _same_utterances(rows, reports)
    how = find_normaliser(normaliser or systems[0]["normaliser"], systems[0]["decoding"]["language"])
    wanted = read_hotwords(terms, how) if isinstance(terms, Path) else terms
    comparison = _compare(systems, names, rows, how, wanted)
    return replace(comparison, guards=_guards(names, guards, normaliser)) if guards else comparison


def _same_conditions(systems: list[dict[str, Any]], reports: Sequence[Path], fields: Sequence[str]) -> None:
    for field in fields:
        first = _condition(systems[0], field)
        for system, report in zip(systems[1:], reports[1:], strict=True):
            if (other := _condition(system, field)) != first:
                mending = " or name one with --normaliser" if field == "normaliser" else ""
                raise DataError(
                    f"{report} and {reports[0]} differ in {field} ({other} and {first}): "
                    f"evaluate both in the same way{mending}"
                )


def _condition(system: dict[str, Any], field: str) -> Any:
    """A condition of a report; one from before tokens were borrowed borrowed none."""
    return {"language_token": None, **system[field]} if field == "decoding" else system[field]


def _same_utterances(rows: list[list[dict[str, Any]]], reports: Sequence[Path]) -> None:
    first = [(row["id"], row["reference"]) for row in rows[0]]
    for other, report in zip(rows[1:], reports[1:], strict=True):
        if [(row["id"], row["reference"]) for row in other] != first:
            raise DataError(f"{report} and {reports[0]} are not of the same utterances: evaluate both on one split")


def _compare(
    systems: list[dict[str, Any]],
    names: list[str],
    rows: list[list[dict[str, Any]]],
    normaliser: Normaliser,
    terms: Sequence[Hotword] | None,
) -> Comparison:
    scored = [score_rows(own, normaliser) for own in rows]
    lead, plan = leading(rows[0]), resamples([row["speaker"] for row in rows[0]])
    groups, counts = find_groups(rows[0]), [counts_of(one, lead) for one in scored]
    counted = [count_hotwords(terms, one, characters=lead == "cer") for one in scored] if terms else []
    sums = plan.draw(rate_columns(scored) | group_columns(groups, counts) | _hotword_columns(counted))

    def difference(a: int, b: int, rate: str) -> Difference:
        (edits_a, lengths_a), (edits_b, lengths_b) = (
            (sums[rate, place, "edits"], sums[rate, place, "lengths"]) for place in (a, b)
        )
        return difference_of(edits_a, edits_b, lengths_a, lengths_b)

    pairs = [
        Pair(
            names[a],
            names[b],
            difference(a, b, "wer"),
            difference(a, b, "cer"),
            lead,
            _test(scored[a], scored[b], lead),
        )
        for a, b in itertools.combinations(range(len(systems)), 2)
    ]
    return Comparison(
        [
            {**system, "normaliser": normaliser.label, "scores": _scores(system, scored, lead, plan, sums, place)}
            for place, system in enumerate(systems)
        ],
        [counted_rows(own, one) for own, one in zip(rows, scored, strict=True)],
        pairs,
        plan.unit,
        plan.units,
        scored,
        lead,
        breakdown_facts(rows[0], scored, lead, group_facts(groups, len(systems), sums)),
        combine(names, sums),
        _contests(names, sums, lead),
        [
            hotword_recall(terms, own, sums["terms", place, "found"], sums["terms", place, "spoken"])
            for place, own in enumerate(counted)
        ]
        if terms
        else [],
    )


def _contests(names: list[str], sums: dict[Any, Any], lead: str) -> list[Pair]:
    """Pairs of what stands for itself where several seeds are combined."""

    def called(places: Sequence[int]) -> str:
        if len(places) == 1:
            return names[places[0]]
        return combined_name({"name": names[places[0]].rpartition(MARK)[0], "systems": places})

    return [Pair(called(a), called(b), wer, cer, lead) for a, b, wer, cer in contests(names, sums)]


def _scores(
    system: dict[str, Any], scored: list[Scored], lead: str, plan: Resamples, sums: dict[Any, Any], place: int
) -> dict[str, Any]:
    """Scores counted anew; beside them what the report says of other normalisers."""
    kept = ("raw_wer", "raw_cer", "normalised", "not_scored")
    return {
        **score_facts(scored[place], lead, plan, sums, place),
        **{key: system["scores"][key] for key in kept if key in system["scores"]},
    }


def _hotword_columns(counted: Sequence[HotwordCounts]) -> dict[tuple[Any, ...], Any]:
    return {
        ("terms", place, what): getattr(own, what).sum(axis=0)
        for place, own in enumerate(counted)
        for what in ("found", "spoken")
    }


def _test(a: Scored, b: Scored, lead: str) -> MatchedPairs | None:
    """The matched-pairs test in units of the leading rate; None where a normaliser made the references unlike."""
    if a.references != b.references:
        return None
    if lead == "cer":
        return matched_pairs(*(align_characters(one.references, one.hypotheses) for one in (a, b)))
    return matched_pairs(a.alignments, b.alignments)


def _guards(names: Sequence[str], guards: Sequence[Path], normaliser: str | None) -> list[Comparison]:
    """One comparison for each dataset that the guards' reports are of, the systems in the order of the names."""
    bodies = {path: ReportFolder(path).read() for path in guards}
    for path, body in bodies.items():
        if body["system"]["name"] not in names:
            raise ConfigError(
                f"guard {path} is of {body['system']['name']}, none of the systems compared ({', '.join(names)}): "
                "evaluate it with the name of one, by --name"
            )
    datasets: dict[str, list[Path]] = {}
    for path in sorted(guards, key=lambda path: names.index(bodies[path]["system"]["name"])):
        datasets.setdefault(bodies[path]["dataset"]["sha256"], []).append(path)
    return [read_comparison(paths, normaliser=normaliser) for paths in datasets.values()]


def rerun(folder: Path) -> Rerun:
    """Make every number of a comparison or a report again from its hypotheses, and write nothing.

    Raises:
        ConfigError: the folder holds neither.
        DataError: a report or its hypotheses are missing or cannot be read.
    """
    if ReportFolder(folder).complete:
        return _rerun_report(ReportFolder(folder))
    if not ComparisonFolder(folder).complete:
        raise ConfigError(f"{folder} holds no report and no comparison: name one that evaluate or compare has made")
    recorded = ComparisonFolder(folder).read()
    reports = [_found(folder, path) for path in recorded["reports"]]
    guards = [_found(folder, path) for path in recorded.get("guard_reports", ())]
    parts = [_rerun_report(ReportFolder(path)) for path in (*reports, *guards)]
    terms = recorded.get("terms") or [{}]
    if terms[0] and "each" not in terms[0]:
        parts.append(Rerun(notes=(f"{folder}: named terms were not made again, as it was written without words",)))
        del recorded["terms"]
    if "contests" not in recorded:
        recorded.pop("verdict", None)  # of an earlier version, which put the same findings in other words
    language = recorded["systems"][0]["decoding"]["language"]
    comparison = read_comparison(
        reports,
        normaliser=recorded["normaliser"],
        terms=_recorded_hotwords(terms[0], find_normaliser(recorded["normaliser"], language)),
        guards=guards,
    )
    facts = comparison_facts(comparison, transcripts=recorded.get("transcripts", False))
    parts.append(disagreements(folder, recorded, facts))
    return Rerun.together(parts)


def _rerun_report(folder: ReportFolder) -> Rerun:
    recorded, rows = folder.read(), read_rows(folder)
    language = recorded["decoding"]["language"]
    how = find_normaliser(recorded["normaliser"], language)
    terms = _recorded_hotwords(recorded.get("analysis", {}).get("terms", {}), how)
    counted, facts = report_facts(rows, language, how, terms)
    utterances = disagreements(folder.hypotheses, {"": rows}, {"": counted})
    return Rerun.together([utterances, disagreements(folder.root, recorded, facts)])


def _recorded_hotwords(facts: dict[str, Any], normaliser: Normaliser) -> list[Hotword] | None:
    each = facts.get("each", ())
    return [Hotword(row["term"], normaliser.clean(row["term"]).strip()) for row in each] or None


def _found(folder: Path, report: str) -> Path:
    """A report by the path that a comparison has of it: from here, or from the folder or one above it.

    Raises:
        DataError: it is at none of these.
    """
    for place in (Path(), folder.resolve(), *folder.resolve().parents):
        if (place / report).is_dir():
            return place / report
    raise DataError(f"{folder} was made from {report}, which is not there: run this where that path leads to it")
