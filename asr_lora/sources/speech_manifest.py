"""Read manifests: JSONL, CSV and TSV files that list recordings with their texts."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from asr_lora.audio.decode import readable_suffixes
from asr_lora.folders.dataset_folder import SPLITS
from asr_lora.folders.digests import fingerprint, sha256_file
from asr_lora.sources.columns import (
    AUDIO_COLUMNS,
    ID_COLUMNS,
    SPLIT_NAMES,
    as_seconds,
    find_text,
    first,
    split_of,
    split_of_folders,
    splits_of_files,
    utterance_of,
)
from asr_lora.sources.interface import (
    NO_SPLIT,
    OTHER,
    SPLIT_HERE,
    BadRow,
    Recording,
    SourceAtPath,
    Utterance,
    WantedRecordings,
    macos_files,
    safe_id,
)
from asr_lora.sources.table_rows import ENDINGS, ending_of, looks_like_manifest, table_rows

ORDER = (*SPLITS, OTHER, SPLIT_HERE)
METADATA = "metadata"  # stem of the table of an audiofolder of Hugging Face
WHOLE_TABLES = (METADATA, "manifest")  # stems of a table that lists a whole folder
PLACEHOLDER = re.compile(r"^(\{[^{}]*\}|\$\w+)/")  # SpeechBrain's for the folder of the corpus
RECORDING_FOLDERS = ("", "wavs/", "wav/", "clips/", "audio/")  # where a table that gives no paths has its recordings


@dataclass(frozen=True)
class Manifest(SourceAtPath):
    """Tables that list recordings with their texts: JSON, CSV, TSV, or LJSpeech's pipe table.

    Attributes:
        files: split and file; the split is SPLIT_HERE where the rows name their split, or have none.
        text_column: column of the text; None: the first of TEXT_COLUMNS.
    """

    files: tuple[tuple[str, Path], ...] = ()
    text_column: str | None = None

    def digest(self) -> str:
        return fingerprint([(split, sha256_file(path)) for split, path in self.files], self.text_column)

    def rows(self) -> Iterator[Utterance | BadRow]:
        folder = self._folder
        for split, path in self.files:
            for row in read_manifest(path, SPLIT_HERE if split == OTHER else split, self.text_column, home=folder):
                yield BadRow(row.id, NO_SPLIT) if split == OTHER else row
        yield from macos_files(self.home)

    def recordings(self, wanted: WantedRecordings) -> Iterator[tuple[str, Recording]]:
        for recording in wanted:
            yield recording, self._folder / recording

    @property
    def _folder(self) -> Path:
        return self.home if self.home.is_dir() else self.home.parent


def read_manifest(
    path: Path, split: str = SPLIT_HERE, text_column: str | None = None, *, home: Path | None = None
) -> Iterator[Utterance | BadRow]:
    """Read a manifest; the ending of its name tells the format. TSV files are read without quoting.

    Paths start from the folder of the manifest. `offset` and `duration`, or `audio.start_time` and `audio.end_time`,
    cut an utterance out of a recording. A `duration` without `offset` only describes the file.

    Args:
        home: folder from which the names of recordings start in what is yielded; default: the manifest's own.

    Raises:
        DataError: the file cannot be read, or has no column of audio or text.
    """
    places = RecordingPlaces(path, home or path.parent)
    for place, row in table_rows(path, text_column):
        if isinstance(row, str):
            yield BadRow(place, row, split)
        else:
            yield _utterance(row, place, places, split, text_column)


class RecordingPlaces:
    """Finds the recordings that a manifest names, and gives them names that start from the folder of the source."""

    def __init__(self, manifest: Path, home: Path) -> None:
        self.folder, self.home = manifest.parent, home
        self.by_folder = manifest.name.lower().startswith(f"{METADATA}.")  # audiofolder: folders name the splits
        self.ending = ""  # of a name that has none of a recording, as in LJSpeech's table
        self.inside = ""  # the folder below the manifest's in which such recordings were found last

    def find(self, name: str) -> str:
        """Return the path of a recording from the folder of the source."""
        name = PLACEHOLDER.sub("", name)
        if "\\" in name and not os.path.isfile(self.folder / name):
            name = name.replace("\\", "/")  # written on Windows
        if PurePosixPath(name).suffix.lower() not in readable_suffixes():
            name = self._bare(name)
        if self.folder == self.home or PurePosixPath(name).is_absolute():
            return name
        return str(self.folder.relative_to(self.home) / name)

    def _bare(self, name: str) -> str:
        """Add the folder and the ending of a recording that a table names by its id alone."""
        for inside in (self.inside, *RECORDING_FOLDERS):
            for ending in (self.ending, ".wav", ".flac", ".mp3", ""):
                if os.path.isfile(self.folder / f"{inside}{name}{ending}"):
                    self.inside, self.ending = inside, ending
                    return f"{inside}{name}{ending}"
        return name

    def split(self, recording: str) -> str:
        """Return the split that the folders of a recording name, where they do that."""
        inside = self.by_folder and not PurePosixPath(recording).is_absolute()
        return split_of_folders(PurePosixPath(recording).parent.parts) if inside else SPLIT_HERE


def _utterance(
    row: Mapping[str, Any], place: str, places: RecordingPlaces, split: str, text_column: str | None
) -> Utterance | BadRow:
    audio, text = first(row, AUDIO_COLUMNS), find_text(row, text_column)
    stretch: Mapping[str, Any] = audio if isinstance(audio, dict) else {}
    name = first(stretch, ("path", "file")) if stretch else audio
    named = str(row.get("split", "")).strip().lower()
    split = split or SPLIT_NAMES.get(named, SPLIT_HERE)
    if not isinstance(name, str) or not name.strip():
        return BadRow(place, "row names no audio", split)
    if text is None:
        return BadRow(place, "row has no text", split)
    if named and not split:
        return BadRow(place, "in no split", split)
    if stretch.get("stop") is not None or row.get("stop") not in (None, ""):
        return BadRow(place, "cut by samples, whose rate is not known", split)  # SpeechBrain's start and stop
    try:
        start, seconds = _times(row, stretch)
    except (TypeError, ValueError, OverflowError):
        return BadRow(place, "times are not in order", split)
    given = first(row, ID_COLUMNS)
    recording = places.find(name.strip())
    cut = "" if seconds is None and not start else f"-{start:.3f}"
    named = safe_id(str(given)) if given not in (None, "") else f"{_file_id(recording, places.home)}{cut}"
    split = split or places.split(recording)
    return utterance_of(row, name=named, recording=recording, text=text, split=split, start=start, seconds=seconds)


def _file_id(name: str, home: Path) -> str:
    """Make an id of a path. It does not show folders outside the manifest's own."""
    try:
        inside = (home / name).relative_to(home)
    except ValueError:
        return f"{safe_id(Path(name).stem)}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"
    return safe_id(str(inside.parent / inside.stem))


def _times(row: Mapping[str, Any], audio: Mapping[str, Any]) -> tuple[float, float | None]:
    """Return start and length in seconds; no length means to the end of the recording.

    Raises:
        TypeError, ValueError, OverflowError: a time is no number, is negative, or the length is zero.
    """
    start, end, length = audio.get("start_time"), audio.get("end_time"), None
    if start is None and end is None and row.get("offset") not in (None, ""):
        start, length = row["offset"], row.get("duration")
    begin = as_seconds(start) if start not in (None, "") else 0.0
    if length in (None, "") and end not in (None, ""):
        length = as_seconds(end) - begin
    if length in (None, ""):
        return begin, None
    return begin, as_seconds(length, least=1e-6)


def find_manifest(place: Path, text_column: str | None) -> Manifest | None:
    """Find a manifest at a path, or manifests in a folder: by split, such as train.jsonl and test.jsonl, or of all."""
    if place.is_file():
        listed = ending_of(place) in (*ENDINGS, ".txt")
        return Manifest(place, ((SPLIT_HERE, place),), text_column) if listed else None
    files = _tables(place.iterdir())
    named = [path for path in files if split_of(path.name)]
    if not named:
        if whole := [path for path in files if path.name.lower().split(".")[0] in WHOLE_TABLES]:
            return Manifest(place, tuple((SPLIT_HERE, path) for path in whole), text_column)
        nested = _tables(path for level in ("*/", "*/*/") for path in place.glob(f"{level}{METADATA}.*"))
        if nested:  # an audiofolder, with a table in the folder of each split
            splits = splits_of_files([split_of_folders(path.relative_to(place).parts[:-1]) for path in nested])
            return Manifest(place, tuple(zip(splits, nested, strict=True)), text_column)
        if len(files) == 1:
            return Manifest(place, ((SPLIT_HERE, files[0]),), text_column)
    listed_files = [path for path in files if path in named or looks_like_manifest(path)]
    splits = splits_of_files([split_of(path.name) for path in listed_files])
    found = sorted(zip(splits, listed_files, strict=True), key=lambda each: (ORDER.index(each[0]), each[1].name))
    return Manifest(place, tuple(found), text_column) if found else None


def _tables(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if ending_of(path) in ENDINGS and path.name[0] != "." and path.is_file())
