"""Read data folders of Kaldi."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from asr_lora.errors import DataError
from asr_lora.folders.digests import fingerprint, sha256_file
from asr_lora.folders.source_folder import KaldiFolder
from asr_lora.sources.columns import as_seconds, split_of, splits_of_files
from asr_lora.sources.interface import (
    GENDERS,
    NO_SPLIT,
    OTHER,
    SPLIT_HERE,
    BadRow,
    SourceAtPath,
    Utterance,
    macos_files,
    safe_id,
)
from asr_lora.sources.lines import file_lines


@dataclass(frozen=True)
class Kaldi(SourceAtPath):
    """Data folders of Kaldi, with wav.scp and text, and perhaps segments, utt2spk and spk2gender.

    Attributes:
        folders: split and folder; several folders of one split join. The split is SPLIT_HERE where none is named.
    """

    folders: tuple[tuple[str, Path], ...]

    def digest(self) -> str:
        names = [getattr(KaldiFolder, kind) for kind in ("RECORDINGS", "TEXT", "SEGMENTS", "SPEAKERS", "GENDERS")]
        files = [(split, name, folder / name) for split, folder in self.folders for name in names]
        twice = len({split for split, _ in self.folders}) < len(self.folders)
        listed = [
            (split, path.relative_to(self.home).as_posix() if twice else name, sha256_file(path))
            for split, name, path in files
            if path.is_file()
        ]
        return fingerprint(listed)

    def rows(self) -> Iterator[Utterance | BadRow]:
        for split, folder in self.folders:
            place = folder.relative_to(self.home)
            for row in read_kaldi(folder, SPLIT_HERE if split == OTHER else split):
                if split == OTHER:
                    yield BadRow(row.id, NO_SPLIT)
                else:
                    yield replace(row, recording=str(place / row.recording)) if isinstance(row, Utterance) else row
        yield from macos_files(self.home)


def read_kaldi(folder: Path, split: str = SPLIT_HERE) -> Iterator[Utterance | BadRow]:
    """Read a Kaldi data folder. Paths in wav.scp start from the folder. Commands in wav.scp are never run.

    Raises:
        DataError: wav.scp or text is missing, a line is not UTF-8, a file other than text has two values of one key,
            or wav.scp has a command.
    """
    names = {"wav": KaldiFolder.RECORDINGS, "text": KaldiFolder.TEXT, "segments": KaldiFolder.SEGMENTS,
             "spk": KaldiFolder.SPEAKERS, "gender": KaldiFolder.GENDERS}  # fmt: skip
    for kind in ("wav", "text"):
        if not (folder / names[kind]).is_file():
            raise DataError(f"{folder / names[kind]} is missing: a Kaldi folder has {names['wav']} and {names['text']}")
    with closing(sqlite3.connect("")) as join:  # SQLite moves it to disk where it is large
        for kind, name in names.items():
            join.execute(f"CREATE TABLE {kind} (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
            for place, key, value in _pairs(folder / name):
                if kind == "wav" and value.rstrip().endswith("|"):
                    raise DataError(f"{place}: commands are not run. Write the audio to a file, and name the file")
                if join.execute(f"INSERT OR IGNORE INTO {kind} VALUES (?, ?)", (key, value)).rowcount:
                    continue
                if kind == "text":
                    yield BadRow(key, "utterance is listed before", split)
                elif join.execute(f"SELECT value FROM {kind} WHERE key = ?", (key,)).fetchone() != (value,):
                    raise DataError(f"{place}: {key} has another value in an earlier line. Keep one of the two lines")
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
                start = as_seconds(begin)
                seconds = as_seconds(float(end) - start, least=1e-6) if float(end) >= 0 else None  # -1: to the end
            except (ValueError, OverflowError):
                yield BadRow(key, "times are not in order", split)
                continue
            found = join.execute("SELECT value FROM wav WHERE key = ?", (name,)).fetchone()
            if found is None:
                yield BadRow(key, f"not in {KaldiFolder.RECORDINGS}", split)
                continue
            (recording,) = found
        yield Utterance(
            id=safe_id(key), recording=recording, text=" ".join(text.split()), speaker=speaker or "",
            split=split, gender=GENDERS.get(gender or "", ""), start=start, seconds=seconds,
        )  # fmt: skip
    listed_only = join.execute(f"SELECT key FROM {listed} WHERE key NOT IN (SELECT key FROM text) ORDER BY key")
    for (key,) in listed_only:
        yield BadRow(key, "no text", split)


def _pairs(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield place, first word and rest of each line; nothing where the file does not exist."""
    if not path.is_file():
        return
    for number, line in file_lines(path):
        try:
            key, _, value = line.decode("utf-8-sig").strip().partition(" ")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, line {number}: the line is not UTF-8. Correct it") from error
        if "\t" in key:
            key, _, value = f"{key} {value}".strip().partition("\t")
        if key:
            yield f"{path}, line {number}", key, value.strip()


def find_kaldi(place: Path) -> Kaldi | None:
    """Find Kaldi data in a folder, or in its subfolders, whose names tell their splits."""
    if (place / KaldiFolder.RECORDINGS).is_file():
        return Kaldi(place, ((SPLIT_HERE, place),))
    folders = [path.parent for path in sorted(place.glob(f"*/{KaldiFolder.RECORDINGS}"))]
    splits = splits_of_files([split_of(folder.name) for folder in folders])
    return Kaldi(place, tuple(zip(splits, folders, strict=True))) if folders else None
