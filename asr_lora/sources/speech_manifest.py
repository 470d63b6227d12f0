"""Read manifests: JSONL, CSV and TSV files that list recordings with their texts."""

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asr_lora.errors import DataError
from asr_lora.folders.dataset_folder import SPLITS
from asr_lora.folders.digests import fingerprint, sha256_file
from asr_lora.sources.columns import ID_COLUMNS, SPLIT_NAMES, Row, as_seconds, find_text, first, split_of, utterance_of
from asr_lora.sources.interface import SPLIT_HERE, BadRow, Recording, Utterance, WantedRecordings, safe_id
from asr_lora.sources.lines import numbered_lines

AUDIO_COLUMNS = ("audio_filepath", "audio", "file_name", "path", "audio_path", "wav", "file", "filename", "wav_path")
ENDINGS = (".jsonl", ".json", ".csv", ".tsv")


@dataclass(frozen=True)
class Manifest:
    """Files with a JSON object a line (NeMo, Whisper fine-tuning), or CSV or TSV files with a header.

    Attributes:
        files: split -> file; the split is SPLIT_HERE where the rows name their split, or have none.
        text_column: column of the text; None: the first of TEXT_COLUMNS.
    """

    home: Path
    files: dict[str, Path] = field(default_factory=dict)
    text_column: str | None = None

    @property
    def name(self) -> str:
        return self.home.name

    @property
    def speaker_namespace(self) -> str:
        return self.digest()

    def digest(self) -> str:
        return fingerprint([(split, sha256_file(path)) for split, path in self.files.items()], self.text_column)

    def rows(self) -> Iterator[Utterance | BadRow]:
        for split, path in self.files.items():
            yield from read_manifest(path, split, self.text_column)

    def recordings(self, wanted: WantedRecordings) -> Iterator[tuple[str, Recording]]:
        folder = self.home if self.home.is_dir() else self.home.parent
        for recording in wanted:
            yield recording, folder / recording


def read_manifest(path: Path, split: str = SPLIT_HERE, text_column: str | None = None) -> Iterator[Utterance | BadRow]:
    """Read a manifest; the ending of its name tells the format. TSV files are read without quoting.

    Paths start from the folder of the manifest. `offset` and `duration`, or `audio.start_time` and `audio.end_time`,
    cut an utterance out of a recording. A `duration` without `offset` only describes the file.

    Raises:
        DataError: the file cannot be read, or has no column of audio.
    """
    reader = _json_rows if path.suffix.lower() in (".jsonl", ".json") else _table_rows
    for place, row in reader(path):
        if isinstance(row, str):
            yield BadRow(place, row, split)
        else:
            yield _utterance(row, place, path.parent, split, text_column)


def _json_rows(path: Path) -> Iterator[tuple[str, Row | str]]:
    with path.open("rb") as handle:
        for number, line in numbered_lines(handle.readline):
            place = f"{path.name}:{number}"
            if not line.strip():
                continue
            if number == 1 and line.lstrip(b"\xef\xbb\xbf \t").startswith(b"["):
                raise DataError(f"{path} is a JSON list: write one object a line, for example with: jq -c '.[]'")
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError:
                yield place, "row is not UTF-8"
            except (ValueError, RecursionError):
                yield place, "row is not JSON"
            else:
                yield place, row if isinstance(row, dict) else "row is not JSON"


def _table_rows(path: Path) -> Iterator[tuple[str, Row | str]]:
    with path.open("rb") as handle:
        lines = (line.decode("utf-8-sig", errors="replace") for _, line in numbered_lines(handle.readline))
        if path.suffix.lower() == ".tsv":
            reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        else:  # strict, since a quotation mark that is never closed would take in the rest of the file
            reader = csv.reader(lines, strict=True)
        try:
            header = next(reader, [])
            if not header:
                raise DataError(f"{path} is empty: write a header and rows")
            _require_audio(path, header)
            for values in reader:
                if values:
                    whole = len(values) >= len(header)
                    row = dict(zip(header, values, strict=False)) if whole else "row is cut short"
                    damaged = "row is not UTF-8" if any("\ufffd" in value for value in values) else row
                    yield f"{path.name}:{reader.line_num}", damaged
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: {error}. Correct the quotation marks") from error


def _require_audio(path: Path, header: list[str]) -> None:
    """Check that a column has audio, since without it every row would be left out."""
    if not set(AUDIO_COLUMNS) & set(header):
        listed = ", ".join(header)[:200]
        raise DataError(f"{path} has no column of audio ({', '.join(AUDIO_COLUMNS)}). It has {listed}")


def _utterance(
    row: Mapping[str, Any], place: str, home: Path, split: str, text_column: str | None
) -> Utterance | BadRow:
    audio, text = first(row, AUDIO_COLUMNS), find_text(row, text_column)
    stretch: Mapping[str, Any] = audio if isinstance(audio, dict) else {}
    name = stretch.get("path") if stretch else audio
    named = str(row.get("split", "")).strip().lower()
    split = split or SPLIT_NAMES.get(named, SPLIT_HERE)
    if not isinstance(name, str) or not name.strip():
        return BadRow(place, "row names no audio", split)
    if text is None:
        return BadRow(place, "row has no text", split)
    if named and not split:
        return BadRow(place, "in no split", split)
    try:
        start, seconds = _times(row, stretch)
    except (TypeError, ValueError, OverflowError):
        return BadRow(place, "times are not in order", split)
    given = first(row, ID_COLUMNS)
    cut = "" if seconds is None and not start else f"-{start:.3f}"
    named = safe_id(str(given)) if given not in (None, "") else f"{_file_id(name, home)}{cut}"
    return utterance_of(row, name=named, recording=name, text=text, split=split, start=start, seconds=seconds)


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
    """Find a manifest at a path, or manifests by split in a folder, such as train.jsonl and test.jsonl."""
    if place.is_file():
        return Manifest(place, {SPLIT_HERE: place}, text_column) if place.suffix.lower() in ENDINGS else None
    files = [path for path in sorted(place.iterdir()) if path.is_file() and path.suffix.lower() in ENDINGS]
    named: dict[str, Path] = {}
    for path in files:
        split = split_of(path.name)
        if split in named:
            raise DataError(
                f"{place} has two files for {split}, {named[split].name} and {path.name}: name one file as SOURCE"
            )
        if split:
            named[split] = path
    if named:
        return Manifest(place, {split: named[split] for split in SPLITS if split in named}, text_column)
    single = [path for path in files if path.stem.lower() in ("metadata", "manifest")] or files
    return Manifest(place, {SPLIT_HERE: single[0]}, text_column) if len(single) == 1 else None
