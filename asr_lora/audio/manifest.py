"""Lists of recordings with their texts -> utterances: JSONL, CSV and TSV, Kaldi folders, audio beside text files."""

import csv
import hashlib
import json
import math
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from asr_lora.artifacts import SPLITS, KaldiFolder, fingerprint, sha256_file
from asr_lora.audio.decode import readable_suffixes
from asr_lora.audio.lines import numbered_lines
from asr_lora.audio.source import (
    GENDERS,
    SPLIT_HERE,
    BadRow,
    Recording,
    Utterance,
    Wanted,
    files_digest,
    safe_id,
)
from asr_lora.errors import DataError

AUDIO_COLUMNS = ("audio_filepath", "audio", "file_name", "path", "audio_path", "wav", "file", "filename", "wav_path")
TEXT_COLUMNS = ("text", "sentence", "transcription", "transcript", "raw_transcription", "normalized_text")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id", "spk", "spk_id")
ID_COLUMNS = ("id", "utt_id", "utterance_id", "utt")
ENDINGS = (".jsonl", ".json", ".csv", ".tsv")
SPLIT_NAMES = {"train": "train", "training": "train", "dev": "dev", "validation": "dev", "valid": "dev", "val": "dev",
               "test": "test", "testing": "test"}  # fmt: skip
MAX_TEXT_BYTES = 1 << 16  # of a text file beside its recording


@dataclass(frozen=True)
class Manifest:
    """One or several files that list recordings: JSON a line (NeMo, Whisper fine-tuning), CSV or TSV with a header.

    Attributes:
        files: split -> file; SPLIT_HERE where the file has rows of every split or of none.
        text_column: where the text stands; the first of TEXT_COLUMNS that is there when not given.
    """

    home: Path
    files: dict[str, Path] = field(default_factory=dict)
    text_column: str | None = None

    @property
    def name(self) -> str:
        return self.home.name

    @property
    def people(self) -> str:
        return self.digest()

    def digest(self) -> str:
        return fingerprint([(split, sha256_file(path)) for split, path in self.files.items()], self.text_column)

    def rows(self) -> Iterator[Utterance | BadRow]:
        for split, path in self.files.items():
            yield from read_manifest(path, split, self.text_column)

    def recordings(self, wanted: Wanted) -> Iterator[tuple[str, Recording]]:
        folder = self.home if self.home.is_dir() else self.home.parent
        for clip in wanted:
            yield clip, folder / clip


def read_manifest(path: Path, split: str = SPLIT_HERE, text_column: str | None = None) -> Iterator[Utterance | BadRow]:
    """Read a manifest by the ending of its name.

    Paths in it are taken from its own folder. `offset` and `duration`, `audio.start_time` and `audio.end_time` cut a
    stretch out of a recording; a `duration` without an `offset` only describes the file. TSVs are read without quoting.

    Raises:
        DataError: it cannot be read, or lacks a column.
    """
    reader = _json_rows if path.suffix.lower() in (".jsonl", ".json") else _table_rows
    for place, row in reader(path):
        if isinstance(row, str):
            yield BadRow(place, row, split)
        else:
            yield _utterance(row, place, path.parent, split, text_column)


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    with path.open("rb") as handle:
        for number, line in numbered_lines(handle.readline):
            place = f"{path.name}:{number}"
            if not line.strip():
                continue
            if number == 1 and line.lstrip(b"\xef\xbb\xbf \t").startswith(b"["):
                raise DataError(f"{path} is a JSON list: write one object a line, for example with jq -c '.[]'")
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError:
                yield place, "row is not UTF-8"
            except (ValueError, RecursionError):
                yield place, "row is not JSON"
            else:
                yield place, row if isinstance(row, dict) else "row is not JSON"


def _table_rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    tabs = path.suffix.lower() == ".tsv"
    with path.open("rb") as handle:
        lines = (line.decode("utf-8-sig", errors="replace") for _, line in numbered_lines(handle.readline))
        plain: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
        # Strict, as a quote that is never closed would swallow the rest.
        reader = csv.reader(lines, **plain) if tabs else csv.reader(lines, strict=True)
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
            raise DataError(f"{path}, line {reader.line_num}: {error}; mend its quotation marks") from error


def _require_audio(path: Path, header: list[str]) -> None:
    """A row without text is left out and counted; without a column for audio every row would be."""
    if not set(AUDIO_COLUMNS) & set(header):
        listed = ", ".join(header)[:200]
        raise DataError(f"{path} has no column for audio ({', '.join(AUDIO_COLUMNS)}); it has {listed}")


def _utterance(
    row: Mapping[str, Any], place: str, home: Path, split: str, text_column: str | None
) -> Utterance | BadRow:
    audio = first(row, AUDIO_COLUMNS)
    stretch: Mapping[str, Any] = audio if isinstance(audio, dict) else {}
    name, text = stretch.get("path") if stretch else audio, first(row, (text_column,) if text_column else TEXT_COLUMNS)
    named = str(row.get("split", "")).strip().lower()
    split = split or SPLIT_NAMES.get(named, SPLIT_HERE)
    if not isinstance(name, str) or not name.strip():
        return BadRow(place, "row names no audio", split)
    if not isinstance(text, str):
        return BadRow(place, "row has no text", split)
    if named and not split:
        return BadRow(place, "in no split", split)
    try:
        start, seconds = _times(row, stretch)
    except (TypeError, ValueError, OverflowError):
        return BadRow(place, "times are not in order", split)
    given = first(row, ID_COLUMNS)
    cut = "" if seconds is None and not start else f"-{start:.3f}"
    return Utterance(
        id=safe_id(str(given)) if given not in (None, "") else f"{_file_id(name, home)}{cut}",
        clip=name,
        text=" ".join(text.split()),
        speaker=_plain(first(row, SPEAKER_COLUMNS)),
        split=split,
        gender=GENDERS.get(str(row.get("gender", "")).lower(), ""),
        age=_plain(row.get("age")),
        accent=_plain(row.get("accent", row.get("accents"))),
        domain=_plain(row.get("domain", row.get("sentence_domain"))),
        start=start,
        seconds=seconds,
    )


def _file_id(name: str, home: Path) -> str:
    """An id from a file's path, of which what lies outside the manifest's folder is not told."""
    try:
        inside = (home / name).relative_to(home)
    except ValueError:
        return f"{safe_id(Path(name).stem)}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"
    return safe_id(str(inside.parent / inside.stem))


def _plain(value: object) -> str:
    return str(value) if isinstance(value, str | int | float) else ""


def first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The value of the first of `names` that a row has; None where it has none of them."""
    return next((row[name] for name in names if name in row and row[name] is not None), None)


def _times(row: Mapping[str, Any], audio: Mapping[str, Any]) -> tuple[float, float | None]:
    """Start and length in seconds; no length where it is the whole recording from there on.

    Raises:
        TypeError, ValueError: they are no numbers, negative, or empty.
    """
    start, end, length = audio.get("start_time"), audio.get("end_time"), None
    if start is None and end is None and row.get("offset") not in (None, ""):
        start, length = row["offset"], row.get("duration")
    begin = _seconds(start) if start not in (None, "") else 0.0
    if length in (None, "") and end not in (None, ""):
        length = _seconds(end) - begin
    if length in (None, ""):
        return begin, None
    return begin, _seconds(length, least=1e-6)


def _seconds(value: Any, least: float = 0.0) -> float:
    number = float(value)
    if isinstance(value, bool) or not math.isfinite(number) or number < least:
        raise ValueError(f"{value!r} is no time")
    return number


@dataclass(frozen=True)
class AudioBesideText:
    """A folder of recordings, each with its text in a .txt file of the same name beside it."""

    home: Path

    @property
    def name(self) -> str:
        return self.home.name

    @property
    def people(self) -> str:
        return self.digest()

    def digest(self) -> str:
        return fingerprint(files_digest((str(path.relative_to(self.home)), _stamp(path)) for path in _walk(self.home)))

    def rows(self) -> Iterator[Utterance | BadRow]:
        suffixes = readable_suffixes()
        for path in _walk(self.home):
            relative = path.relative_to(self.home)
            split = SPLIT_NAMES.get(relative.parts[0].lower(), SPLIT_HERE) if len(relative.parts) > 1 else SPLIT_HERE
            if path.suffix.lower() == ".txt":
                if not any(path.with_suffix(suffix).is_file() for suffix in suffixes | {s.upper() for s in suffixes}):
                    yield BadRow(str(relative), "no audio beside the text", split)
            elif path.suffix.lower() in suffixes:
                yield _beside(path, relative, split)

    def recordings(self, wanted: Wanted) -> Iterator[tuple[str, Recording]]:
        for clip in wanted:
            yield clip, self.home / clip


def _beside(path: Path, relative: Path, split: str) -> Utterance | BadRow:
    beside = path.with_suffix(".txt")
    try:
        with beside.open("rb") as handle:
            text = handle.read(MAX_TEXT_BYTES + 1)
        if len(text) > MAX_TEXT_BYTES:
            return BadRow(str(relative), "text is too long for one utterance", split)
        words = " ".join(text.decode("utf-8-sig").split())
    except (FileNotFoundError, IsADirectoryError):
        return BadRow(str(relative), "no text beside the audio", split)
    except UnicodeDecodeError:
        return BadRow(str(relative), "text is not UTF-8", split)
    return Utterance(id=safe_id(str(relative.with_suffix(""))), clip=str(relative), text=words, split=split)


def _walk(folder: Path) -> Iterator[Path]:
    """All files under a folder, in the order of their names; hidden ones are passed over."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(place, name)


def _stamp(path: Path) -> int:
    facts = path.stat()
    return facts.st_size if path.suffix.lower() != ".txt" else facts.st_size ^ facts.st_mtime_ns


def holds_audio_beside_text(folder: Path) -> bool:
    """Whether there is at least one recording with a text beside it."""
    suffixes = readable_suffixes()
    return any(path.suffix.lower() in suffixes and path.with_suffix(".txt").is_file() for path in _walk(folder))


@dataclass(frozen=True)
class Kaldi:
    """Data folders of Kaldi: wav.scp and text, perhaps segments, utt2spk and spk2gender.

    Attributes:
        folders: split -> folder; SPLIT_HERE where there is one only.
    """

    home: Path
    folders: dict[str, Path]

    @property
    def name(self) -> str:
        return self.home.name

    @property
    def people(self) -> str:
        return self.digest()

    def digest(self) -> str:
        names = [getattr(KaldiFolder, kind) for kind in ("RECORDINGS", "TEXT", "SEGMENTS", "SPEAKERS", "GENDERS")]
        files = [(split, name, folder / name) for split, folder in self.folders.items() for name in names]
        return fingerprint([(split, name, sha256_file(path)) for split, name, path in files if path.is_file()])

    def rows(self) -> Iterator[Utterance | BadRow]:
        for split, folder in self.folders.items():
            for row in read_kaldi(folder, split):
                place = folder.relative_to(self.home)
                yield replace(row, clip=str(place / row.clip)) if isinstance(row, Utterance) else row

    def recordings(self, wanted: Wanted) -> Iterator[tuple[str, Recording]]:
        for clip in wanted:
            yield clip, self.home / clip


def read_kaldi(folder: Path, split: str = SPLIT_HERE) -> Iterator[Utterance | BadRow]:
    """Read a Kaldi data folder. Recordings are named as in wav.scp, from the folder; a command is refused, never run.

    Raises:
        DataError: wav.scp or text is missing or is no such table, a file but text says two things of one key, or
            wav.scp holds a command.
    """
    names = {"wav": KaldiFolder.RECORDINGS, "text": KaldiFolder.TEXT, "segments": KaldiFolder.SEGMENTS,
             "spk": KaldiFolder.SPEAKERS, "gender": KaldiFolder.GENDERS}  # fmt: skip
    for kind in ("wav", "text"):
        if not (folder / names[kind]).is_file():
            raise DataError(f"{folder / names[kind]} is missing: a Kaldi folder has {names['wav']} and {names['text']}")
    with closing(sqlite3.connect("")) as join:  # on disk as soon as it is large
        for kind, name in names.items():
            join.execute(f"CREATE TABLE {kind} (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
            for place, key, value in _pairs(folder / name):
                if kind == "wav" and value.rstrip().endswith("|"):
                    raise DataError(f"{place}: a command is not run; write its audio to a file and name that")
                if join.execute(f"INSERT OR IGNORE INTO {kind} VALUES (?, ?)", (key, value)).rowcount:
                    continue
                if kind == "text":
                    yield BadRow(key, "clip is listed before", split)
                elif join.execute(f"SELECT value FROM {kind} WHERE key = ?", (key,)).fetchone() != (value,):
                    raise DataError(f"{place}: {key} stands there before, as something else; keep one of the lines")
        yield from _joined(join, split, (folder / names["segments"]).is_file())


def _joined(join: sqlite3.Connection, split: str, cut: bool) -> Iterator[Utterance | BadRow]:
    listed = "segments" if cut else "wav"
    rows = join.execute(
        f"SELECT t.key, t.value, s.value, k.value, g.value FROM text t LEFT JOIN {listed} s ON s.key = t.key "
        "LEFT JOIN spk k ON k.key = t.key LEFT JOIN gender g ON g.key = k.value ORDER BY t.key"
    )
    for key, text, value, speaker, gender in rows:
        start, seconds, recording = 0.0, None, value
        if value is None:
            yield BadRow(key, f"not in {KaldiFolder.SEGMENTS if cut else KaldiFolder.RECORDINGS}", split)
            continue
        if cut:
            try:
                name, begin, end = value.split()
                start = _seconds(begin)
                seconds = _seconds(float(end) - start, least=1e-6) if float(end) >= 0 else None  # -1: to the end
            except (ValueError, OverflowError):
                yield BadRow(key, "times are not in order", split)
                continue
            found = join.execute("SELECT value FROM wav WHERE key = ?", (name,)).fetchone()
            if found is None:
                yield BadRow(key, f"not in {KaldiFolder.RECORDINGS}", split)
                continue
            (recording,) = found
        yield Utterance(
            id=safe_id(key), clip=recording, text=" ".join(text.split()), speaker=speaker or "",
            split=split, gender=GENDERS.get(gender or "", ""), start=start, seconds=seconds,
        )  # fmt: skip
    listed_only = join.execute(f"SELECT key FROM {listed} WHERE key NOT IN (SELECT key FROM text) ORDER BY key")
    for (key,) in listed_only:
        yield BadRow(key, "no text", split)


def _pairs(path: Path) -> Iterator[tuple[str, str, str]]:
    """Place, first word and rest of each line; nothing where there is no such file."""
    if not path.is_file():
        return
    with path.open("rb") as handle:
        for number, line in numbered_lines(handle.readline):
            try:
                key, _, value = line.decode("utf-8").strip().partition(" ")
            except UnicodeDecodeError as error:
                raise DataError(f"{path}, line {number}: not UTF-8; mend the line") from error
            if "\t" in key:
                key, _, value = f"{key} {value}".strip().partition("\t")
            if key:
                yield f"{path}, line {number}", key, value.strip()


def find_manifest(place: Path, text_column: str | None) -> Manifest | None:
    """The manifest that a file is, or those by split that a folder holds, such as train.jsonl and test.jsonl."""
    if place.is_file():
        return Manifest(place, {SPLIT_HERE: place}, text_column) if place.suffix.lower() in ENDINGS else None
    files = [path for path in sorted(place.iterdir()) if path.is_file() and path.suffix.lower() in ENDINGS]
    named: dict[str, Path] = {}
    for path in files:
        split = split_of(path.name)
        if split in named:
            raise DataError(f"{place} has {named[split].name} and {path.name} for {split}: name one file as SOURCE")
        if split:
            named[split] = path
    if named:
        return Manifest(place, {split: named[split] for split in SPLITS if split in named}, text_column)
    single = [path for path in files if path.stem.lower() in ("metadata", "manifest")] or files
    return Manifest(place, {SPLIT_HERE: single[0]}, text_column) if len(single) == 1 else None


def find_kaldi(place: Path) -> Kaldi | None:
    """The Kaldi data that a folder is, or those by split that its folders are."""
    if (place / KaldiFolder.RECORDINGS).is_file():
        return Kaldi(place, {SPLIT_HERE: place})
    folders = {split_of(path.parent.name): path.parent for path in sorted(place.glob(f"*/{KaldiFolder.RECORDINGS}"))}
    folders.pop(SPLIT_HERE, None)
    return Kaldi(place, folders) if folders else None


def split_of(name: str) -> str:
    """The split that the name of a file or folder tells, such as validation-00000-of-00002.parquet."""
    words = re.split(r"[-_. ]", name.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), SPLIT_HERE)
