"""The job: compare two or more reports on the same utterances; write one page, one table and all numbers."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from asr_lora.errors import ConfigError, DataError
from asr_lora.evaluation.comparison import Comparison, read_comparison
from asr_lora.evaluation.comparison_record import comparison_record
from asr_lora.evaluation.comparison_view import comparison_view
from asr_lora.evaluation.shown_utterances import shown_places
from asr_lora.folders.atomic import write_text
from asr_lora.folders.dataset_folder import DatasetFolder
from asr_lora.folders.digests import file_facts, fingerprint, sha256_file
from asr_lora.folders.report_folder import AnalysisFolder, ComparisonFolder
from asr_lora.pages.analysis_page import spectrum_figures
from asr_lora.pages.comparison_page import render_markdown, render_page
from asr_lora.pages.tables import latex_csv
from asr_lora.system.locks import owning
from asr_lora.system.renamed import renamed_keywords

AUDIO_UTTERANCES = 60
AUDIO_BYTES = 9_000_000  # of FLAC in a page, a third more as base64: 12 MB in all


@renamed_keywords(terms="hotwords", guards="regression_sets")
@owning(lambda *_, out, **__: ComparisonFolder(out))
def compare(
    reports: Sequence[Path],
    *,
    out: Path,
    transcripts: bool = True,
    normaliser: str | None = None,
    hotwords: Path | None = None,
    regression_sets: Sequence[Path] = (),
    price_per_hour: float | None = None,
    audio: Path | None = None,
    analysis: Path | None = None,
) -> ComparisonFolder:
    """Compare every pair of systems with a paired bootstrap; write a page, and the same as Markdown, CSV and JSON.

    All errors are counted again from the hypotheses. Systems named NAME#1, NAME#2 are also combined to mean and spread.

    Args:
        reports: report folders; the systems of the others are compared with that of the first.
        out: folder for the comparison.
        transcripts: whether page and comparison.json may show words, not only numbers.
        normaliser: name or label; by default that of the reports.
        hotwords: file of names and words, one per line, whose recall is computed.
        regression_sets: reports of the same systems, by name, on other datasets.
        price_per_hour: price of the machine that trained, in any currency, for a column of costs.
        audio: the dataset of the reports, to put the audio of the utterances shown into the page.
        analysis: folder made by `analyze`, whose spectra the page shows.

    Raises:
        ConfigError: fewer than two reports, or two with the same name; `out` holds something else; a report on a
            regression set is of none of the systems; audio without transcripts.
        DataError: a report is incomplete, or the reports differ in utterances, normaliser or decoding; the dataset of
            the audio is not that of the reports; the analysis is incomplete.
    """
    if audio and not transcripts:
        raise ConfigError("--with-audio plays utterances that --without-transcripts does not show: leave one out")
    comparison = read_comparison(
        reports, normaliser=normaliser, hotwords=hotwords, regression_sets=regression_sets, transcripts=transcripts
    )
    folder = ComparisonFolder(out)
    folder.require_ours(folder.complete or folder.markdown.is_file())
    options = {
        "--normaliser": normaliser, "--hotwords": hotwords, "--price-per-hour": price_per_hour, "--with-audio": audio,
        "--analysis": analysis,
    }  # fmt: skip
    commands = _commands(reports, regression_sets, options, transcripts, out)
    view = comparison_view(
        comparison,
        commands=commands,
        price_per_hour=price_per_hour,
        sounds=_sounds(comparison, audio) if audio else None,
        figures=spectrum_figures(AnalysisFolder(analysis).read()) if analysis else (),
    )
    asked = (
        normaliser, [str(path) for path in regression_sets], hotwords and sha256_file(hotwords), price_per_hour,
        audio and str(audio), analysis and str(analysis),
    )  # fmt: skip
    prints = [system.fingerprint for system in comparison.systems]
    made_from: dict[str, object] = {
        "fingerprint": fingerprint(prints, comparison.names, transcripts, *(asked if any(asked) else ())),
        "reports": [str(path) for path in reports],
        "guard_reports": [str(path) for path in regression_sets],
        "transcripts": transcripts,
        "price_per_hour": price_per_hour,
        "commands": commands,
    }
    write_text(folder.page, render_page(view))
    write_text(folder.markdown, render_markdown(view))
    write_text(folder.csv, latex_csv(view.numbers))
    made_from["files"] = {path.name: file_facts(path) for path in folder.rendered}
    folder.write(comparison_record(comparison, made_from))
    return folder


def _commands(
    reports: Sequence[Path],
    regression_sets: Sequence[Path],
    options: Mapping[str, object],
    transcripts: bool,
    out: Path,
) -> list[str]:
    """Return the command that makes this comparison again, and the one that checks it."""
    words: list[object] = ["asr-lora", "compare", *reports]
    words += [word for path in regression_sets for word in ("--regression-set", path)]
    words += [word for option, value in options.items() if value is not None for word in (option, value)]
    words += [*([] if transcripts else ["--without-transcripts"]), "--out", out]
    return [shlex.join(map(str, words)), shlex.join(["asr-lora", "compare", "--rerun", str(out)])]


def _sounds(comparison: Comparison, audio: Path) -> dict[str, bytes]:
    """Read the FLAC of the utterances that the page shows, by id, the first ones as far as there is room.

    Raises:
        DataError: the dataset is not that of the reports.
    """
    from asr_lora.dataset.reading import read_split

    wanted = comparison.systems[0].dataset
    found = DatasetFolder(audio).read().splits.get(wanted.split)
    if found is None or found.sha256 != wanted.sha256:
        raise DataError(
            f"--with-audio {audio} is not the dataset of the reports ({wanted.split}, {wanted.sha256[:16]}): "
            f"name the dataset they were evaluated on{f': {wanted.folder}' if wanted.folder else ''}"
        )
    split = read_split(audio, wanted.split)
    places = {key: index for index, key in enumerate(split.ids)}
    sounds: dict[str, bytes] = {}
    for place in shown_places(comparison)[:AUDIO_UTTERANCES]:
        key = str(comparison.rows[0][place]["id"])
        flac = split.rows[places[key]]["audio"]["bytes"]
        if sum(map(len, sounds.values())) + len(flac) <= AUDIO_BYTES:
            sounds[key] = flac
    return sounds
