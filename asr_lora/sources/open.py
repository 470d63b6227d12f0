"""Open the sources that a user names. What a source is, is recognised by its files."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from asr_lora.errors import ConfigError, DataError
from asr_lora.folders.source_folder import downloads_folder
from asr_lora.sources.archive import is_archive
from asr_lora.sources.audio_text_pairs import AudioTextPairs, holds_audio_text_pairs, walk
from asr_lora.sources.columns import shown_names
from asr_lora.sources.commonvoice import (
    ReleaseArchive,
    ReleaseOnDisk,
    Tables,
    find_locale,
    find_release,
    holds_release,
    is_locale,
)
from asr_lora.sources.download import fetch, mdc_dataset
from asr_lora.sources.interface import Source, WeightedSource
from asr_lora.sources.kaldi import find_kaldi
from asr_lora.sources.lhotse import find_lhotse
from asr_lora.sources.librispeech import LibriSpeech, holds_librispeech
from asr_lora.sources.lines import file_lines
from asr_lora.sources.parquet import HubDataset, ParquetFiles, find_parquet
from asr_lora.sources.speech_manifest import Manifest, find_manifest

RELEASE, VALIDATED, DELTA = "release", "validated", "delta"
KNOWN = (
    "a Common Voice release (folder or .tar.gz), a manifest (.jsonl, .json, .csv, .tsv) or a folder of manifests, such "
    "as those of NeMo, SpeechBrain, Coqui, lhotse, LJSpeech or a Hugging Face audiofolder, a Kaldi folder, a tree of "
    "LibriSpeech (*.trans.txt), a folder of parquet files or of save_to_disk, a folder of audio with .txt files of "
    "the same names, hf:NAME:CONFIG, or mdc:DATASET"
)
LOOKED_AT = 10_000  # files of a folder of an unknown kind


def open_sources(
    names: Sequence[str | Path],
    *,
    locale: str,
    deltas: Sequence[Path] = (),
    splits_from: str = RELEASE,
    keep_marks: bool = False,
    text_column: str | None = None,
) -> list[WeightedSource]:
    """Open sources, each perhaps with a weight, and deltas over the only source.

    Args:
        names: paths and names, such as "cv/", "hf:google/fleurs:nl_nl" or "talks.jsonl=0.5".
        locale: folder of the language in a Common Voice release.
        splits_from: "release", or "validated" for all validated clips of a release, of which prepare makes splits.

    Raises:
        ConfigError: a weight is not above 0 and at most 1, or an option does not fit the sources.
        DataError: a source does not exist, or is of an unknown kind.
    """
    if splits_from not in (RELEASE, VALIDATED):
        raise ConfigError(f"--from {splits_from}: write {RELEASE} or {VALIDATED}")
    opened = []
    for corpus, word in enumerate(names):
        name, weight = split_weight(word)
        tables = Tables.of(splits_from, keep_marks=keep_marks)
        source = open_source(name, locale=locale, tables=tables, text_column=text_column)
        if splits_from == VALIDATED and not isinstance(source, ReleaseOnDisk | ReleaseArchive):
            raise ConfigError(f"--from {VALIDATED} is for Common Voice releases, and {name} is none: leave it out")
        opened.append(WeightedSource(source, corpus, weight))
    if text_column and not any(isinstance(each.source, Manifest | ParquetFiles | HubDataset) for each in opened):
        raise ConfigError(
            f"--text-column {text_column} is for manifests, parquet files and hf: datasets, and no source is one: "
            "leave it out"
        )
    if not deltas:
        return opened
    if len(opened) != 1 or not isinstance(opened[0].source, ReleaseOnDisk | ReleaseArchive):
        raise ConfigError("--delta needs exactly one SOURCE, a Common Voice release: name only that release")
    kind = DELTA if splits_from == RELEASE else VALIDATED
    for delta in deltas:
        found = find_release(delta, locale, Tables.of(kind, keep_marks=keep_marks))
        opened.append(WeightedSource(found, 0, opened[0].weight))
    return opened


def open_source(word: str, *, locale: str, tables: Tables | None = None, text_column: str | None = None) -> Source:
    """Open one source, without a weight.

    Raises:
        ConfigError: the name after "hf:" is empty.
        DataError: the source does not exist, or is of an unknown kind.
    """
    tables = tables or Tables()
    if word.startswith("hf:"):
        repository, _, config = word.removeprefix("hf:").partition(":")
        if not repository.strip("/"):
            raise ConfigError(f"{word} names no dataset: write hf:OWNER/NAME, or hf:OWNER/NAME:CONFIG")
        return HubDataset(repository, config or None, text_column)
    dataset = mdc_dataset(word)
    path = fetch(dataset, downloads_folder()) if dataset else Path(word)
    if not path.exists():
        raise DataError(f"{word} is not there. SOURCE is {KNOWN}")
    if not path.is_file() and not path.is_dir():
        raise DataError(f"{word} is a pipe, a socket or a device and no file or folder. SOURCE is {KNOWN}")
    if (path.is_file() and is_archive(path)) or (path.is_dir() and holds_release(path)):
        return find_release(path, locale, tables)
    if path.suffix.lower() == ".tsv" and path.is_file() and is_locale(path.parent):
        raise DataError(f"{word} is one table of a Common Voice release: name the folder, {path.parent}")
    listed = (
        find_kaldi(path)
        or find_parquet(path, text_column)
        or (None if text_column else find_lhotse(path))
        or find_manifest(path, text_column)
    )
    if listed is not None:
        return listed
    if path.is_dir() and holds_librispeech(path):
        return LibriSpeech(path)
    if holds_audio_text_pairs(path):
        return AudioTextPairs(path)
    try:
        return ReleaseOnDisk(find_locale(path, locale), tables)
    except DataError as error:
        raise DataError(f"{error}. It holds {_contents(path)}. SOURCE is {KNOWN}") from error


def _contents(path: Path) -> str:
    """Say what a file or folder of an unknown kind holds."""
    if not path.is_dir():
        with suppress(OSError, DataError):
            for _, line in file_lines(path) if path.is_file() else ():
                return f"as its first line: {shown_names([line[:100].decode('utf-8', errors='replace').strip()])}"
        return "no lines"
    endings = Counter(f"*{each.suffix.lower()}" for each in islice(walk(path), LOOKED_AT))
    return shown_names(f"{count} {ending}" for ending, count in endings.most_common())


def split_weight(word: str | Path) -> tuple[str, float]:
    """Split "talks=0.5" into ("talks", 0.5). A name without a weight, or of an existing file, has the weight 1.

    Raises:
        ConfigError: the weight is not above 0 and at most 1.
    """
    if isinstance(word, Path):
        return str(word), 1.0
    name, equals, written = word.rpartition("=")
    if not equals or Path(word).exists():
        return word, 1.0
    try:
        weight = float(written)
    except ValueError:
        return word, 1.0
    if weight > 1:
        raise ConfigError(
            f"{word}: a weight above 1 would store utterances twice. Leave it at 1, and lower the other weights"
        )
    if not weight > 0:
        raise ConfigError(f"{word}: write a weight above 0 and at most 1, the share of the source's train that is used")
    return name, weight
