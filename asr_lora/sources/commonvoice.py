"""Read releases of Common Voice, unpacked or in an archive. Tables of all versions are read by their column names."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from asr_lora.errors import AudioError, DataError
from asr_lora.folders.dataset_folder import SPLITS
from asr_lora.folders.digests import fingerprint, sha256_file
from asr_lora.folders.source_folder import ReleaseFolder
from asr_lora.sources.archive import MAX_RECORDING_BYTES, Member, is_archive, members
from asr_lora.sources.columns import shown_names, utterance_of
from asr_lora.sources.interface import (
    ADDED,
    SPLIT_HERE,
    BadRow,
    Recording,
    Utterance,
    WantedRecordings,
    files_digest,
    folder_listing,
    safe_id,
    sampled_digest,
)
from asr_lora.sources.lines import file_lines

SCRIPTED = ("client_id", "path", "sentence")  # columns of speaker, recording and text
SPONTANEOUS = ("client_id", "audio_file", "transcription")  # the same in Spontaneous Speech
SPEAKERS = "commonvoice"  # a client_id is the same person in every release
ESCAPED = re.compile(r'"(?=.*"")((?:[^"]|"")*)"')  # a whole field, as the first releases escaped quotation marks
MARK = re.compile(r"\[[^\[\]]{1,40}\]")  # such as [disfluency] in Spontaneous Speech
VALIDATED = "validated"

Line = tuple[int, bytes]  # number, from 1, and content


@dataclass(frozen=True)
class Tables:
    """The tables of a release to read.

    Attributes:
        splits: name of a table without its ending -> split of its rows.
        keep_marks: whether marks such as `[disfluency]` stay in the texts of Spontaneous Speech.
    """

    splits: dict[str, str] = field(default_factory=lambda: {split: split for split in SPLITS})
    keep_marks: bool = False

    @classmethod
    def of(cls, kind: str, *, keep_marks: bool = False) -> "Tables":
        """Choose the tables: the splits of a "release", all "validated" clips, or a "delta" over another release."""
        chosen = {"release": {split: split for split in SPLITS}, "validated": {VALIDATED: SPLIT_HERE}}
        return cls({**chosen, "delta": {VALIDATED: ADDED}}[kind], keep_marks)


@dataclass(frozen=True)
class ReleaseOnDisk:
    """One locale of a release, in an unpacked folder."""

    locale: Path
    tables: Tables = Tables()
    speaker_namespace: str = SPEAKERS

    @property
    def name(self) -> str:
        return f"{self.locale.parent.name}/{self.locale.name}"

    def digest(self) -> str:
        found = {path.name: sha256_file(path) for path in self._table_files() if path.is_file()}
        clips = files_digest(folder_listing(self._clips))
        return fingerprint(sorted(found.items()), clips, self.tables.splits, self.tables.keep_marks)

    def rows(self) -> Iterator[Utterance | BadRow]:
        for path in self._table_files():
            if fnmatch(path.name, ReleaseFolder.SPONTANEOUS):
                yield from read_spontaneous(path, self.tables)
            else:
                rows = read_table(self.locale, path.stem, self.tables.splits[path.stem])
                yield from _require_rows(rows, str(path))

    def recordings(self, wanted: WantedRecordings) -> Iterator[tuple[str, Recording]]:
        for name in wanted:
            yield name, self._clips / name

    @property
    def _clips(self) -> Path:
        spoken = self.locale / ReleaseFolder.AUDIOS
        return spoken if spoken.is_dir() else self.locale / ReleaseFolder.CLIPS

    def _table_files(self) -> list[Path]:
        if self._clips.name == ReleaseFolder.AUDIOS:
            return sorted(self.locale.glob(ReleaseFolder.SPONTANEOUS))
        return [self.locale / ReleaseFolder.table(name) for name in self.tables.splits]


@dataclass(frozen=True)
class ReleaseArchive:
    """One locale of a release, in an archive that is read as a stream and never unpacked to disk."""

    archive: Path
    language: str  # name of the locale's folder in the archive
    tables: Tables = Tables()
    speaker_namespace: str = SPEAKERS

    @property
    def name(self) -> str:
        return self.archive.name

    def digest(self) -> str:
        chosen = self.tables.splits, self.tables.keep_marks
        return fingerprint(sampled_digest(self.archive), self.language.lower(), *chosen)

    def rows(self) -> Iterator[Utterance | BadRow]:
        locales: set[str] = set()
        read: set[PurePosixPath] = set()  # locales whose tables were read
        seen: set[str] = set()  # tables that were read
        for member in members(self.archive):
            if member.path.parent.name in (ReleaseFolder.CLIPS, ReleaseFolder.AUDIOS):
                locales.add(str(member.path.parent.parent))
            table = self._table(member)
            if table is None:
                continue
            read.add(member.path.parent)
            seen.add(table)
            yield from _require_rows(self._read(table, member), f"{self.archive}: {member.path}")
        self._require(locales, read, seen)

    def recordings(self, wanted: WantedRecordings) -> Iterator[tuple[str, Recording]]:
        for member in members(self.archive):
            folder, name = member.path.parent, member.path.name
            if folder.name not in (ReleaseFolder.CLIPS, ReleaseFolder.AUDIOS) or not self._is_ours(folder.parent):
                continue
            if name in wanted:
                if member.size > MAX_RECORDING_BYTES:
                    yield name, AudioError("file is too large", f"{member.path} has {member.size} bytes")
                else:
                    yield name, member.read()

    def _is_ours(self, locale: PurePosixPath) -> bool:
        # Spontaneous Speech has the locale at the end of the name of the release.
        name = locale.name.lower()
        return name == self.language.lower() or bool(
            re.fullmatch(rf"sps-corpus-.*-{re.escape(self.language.lower())}", name)
        )

    def _table(self, member: Member) -> str | None:
        if not self._is_ours(member.path.parent):
            return None
        if fnmatch(member.path.name, ReleaseFolder.SPONTANEOUS):
            return member.path.name
        name = member.path.name.removesuffix(".tsv")
        return name if ReleaseFolder.table(name) == member.path.name and name in self.tables.splits else None

    def _read(self, table: str, member: Member) -> Iterator[Utterance | BadRow]:
        place = f"{self.archive}: {member.path}"
        if table.endswith(".tsv"):
            return _rows(member.lines(), table, place, SPONTANEOUS, tables=self.tables)
        return _rows(member.lines(), f"{table}.tsv", place, SCRIPTED, self.tables.splits[table])

    def _require(self, locales: set[str], read: set[PurePosixPath], seen: set[str]) -> None:
        if len(read) > 1:
            listed = ", ".join(sorted(map(str, read)))
            raise DataError(f"{self.archive} has {self.language!r} more than once ({listed}): name another archive")
        if not locales:
            raise DataError(
                f"{self.archive} has no {ReleaseFolder.CLIPS}/ folder in it, so it is no Common Voice release"
            )
        if not any(self._is_ours(PurePosixPath(locale)) for locale in locales):
            there = ", ".join(sorted({PurePosixPath(locale).name for locale in locales}))
            raise DataError(f"{self.archive} has no locale {self.language!r}; it has {there}. Name one with --locale")
        if not any(table.endswith(".tsv") for table in seen) and (lacking := set(self.tables.splits) - seen):
            raise DataError(_missing(f"{self.archive}: {ReleaseFolder.table(sorted(lacking)[0])}"))


def find_release(source: Path, language: str, tables: Tables) -> ReleaseOnDisk | ReleaseArchive:
    """Find one locale of a release, in a folder or in an archive.

    Raises:
        DataError: a folder does not have the locale. An archive without it raises the error when it is read.
    """
    if source.is_file() and is_archive(source):
        return ReleaseArchive(source, language, tables)
    return ReleaseOnDisk(find_locale(source, language), tables)


def find_locale(source: Path, language: str) -> Path:
    """Find the folder of a locale: `source` itself, or in a release, or in a folder of releases.

    Raises:
        DataError: there is none, or more than one. The message names the locales that there are.
    """
    if not source.is_dir():
        kind = "no folder and no .tar.gz, .tgz or .tar archive" if source.is_file() else "not there"
        raise DataError(f"{source} is {kind}. Name a Common Voice release, such as cv-corpus-25.0-.../ or its archive")
    locales = _locales(source)
    if source in locales:
        return source  # the user named the folder of the locale
    wanted = language.lower()
    named = [place for place in locales if re.fullmatch(rf"(sps-corpus-.*-)?{re.escape(wanted)}", place.name.lower())]
    if len(named) == 1:
        return named[0]
    if named:
        raise DataError(f"{source} has {language!r} more than once ({', '.join(map(str, named))}): name one of them")
    if locales:
        there = ", ".join(sorted({place.name for place in locales}))
        raise DataError(f"{source} has no locale {language!r}; it has {there}. Name one with --locale")
    raise DataError(f"{source} has no {ReleaseFolder.CLIPS}/ folder in it, so it is no Common Voice release")


def holds_release(source: Path) -> bool:
    """Whether a folder is or holds a release."""
    return any(is_locale(place) for place in _locales(source))


def _locales(source: Path) -> list[Path]:
    places = [source, *sorted(path for path in source.glob("*/") if path.is_dir()), *sorted(source.glob("*/*/"))]
    return [place for place in places if _holds_clips(place)]


def _holds_clips(place: Path) -> bool:
    return any((place / name).is_dir() for name in (ReleaseFolder.CLIPS, ReleaseFolder.AUDIOS))


def is_locale(place: Path) -> bool:
    """Whether a folder is one locale of a release."""
    if not _holds_clips(place):
        return False
    tables = [ReleaseFolder.table(name) for name in (*SPLITS, VALIDATED)]
    return any((place / name).exists() for name in tables) or any(place.glob(ReleaseFolder.SPONTANEOUS))


def read_table(locale: Path, table: str, split: str | None = None) -> Iterator[Utterance | BadRow]:
    """Read a table of an unpacked release. Its rows are of `split`, or of the split that the table is named for.

    The tables are written without quoting, so a quotation mark is text. Further columns are ignored.

    Raises:
        DataError: the table is missing, is empty or does not have a column.
    """
    path = locale / ReleaseFolder.table(table)
    if not path.is_file():
        raise DataError(_missing(str(path)))
    yield from _rows(file_lines(path), path.name, str(path), SCRIPTED, table if split is None else split)


def read_spontaneous(path: Path, tables: Tables | None = None) -> Iterator[Utterance | BadRow]:
    """Read the table of a Spontaneous Speech release, without marks such as [disfluency] unless `tables` keeps them.

    Raises:
        DataError: the table is empty or does not have a column.
    """
    yield from _rows(file_lines(path), path.name, str(path), SPONTANEOUS, tables=tables or Tables())


def _require_rows(rows: Iterable[Utterance | BadRow], table: str) -> Iterator[Utterance | BadRow]:
    row = None
    for row in rows:
        yield row
    if row is None:
        raise DataError(
            f"{table} has a header and no rows: name a release that has {PurePosixPath(table).stem}, or make splits of "
            "all validated clips with --from validated"
        )


def _missing(table: str) -> str:
    return (
        f"{table} is missing: unpack the release again, or name another folder. For a delta release, name its base too "
        "(prepare BASE --delta DELTA). Without splits, use --from validated"
    )


def _rows(
    lines: Iterable[Line],
    table: str,
    place: str,
    columns: tuple[str, str, str],
    split: str = "",
    tables: Tables = Tables(),
) -> Iterator[Utterance | BadRow]:
    """Read the rows of a table with name `table`. Error messages call it `place`."""
    lines = iter(lines)
    header = _fields(next(lines, (1, b""))[1])
    if not header:
        raise DataError(f"{place} is empty: unpack the release again, or name another folder")
    if lacking := [name for name in columns if name not in header]:
        raise DataError(
            f"{place} has no column {', '.join(lacking)}; its first line is not a Common Voice header: "
            f"{shown_names(header)}"
        )
    for number, line in lines:
        if not line.strip():
            continue
        where = f"{table}:{number}"
        try:
            values = line.decode("utf-8").rstrip("\r\n").split("\t")
        except UnicodeDecodeError:
            yield BadRow(where, "row is not UTF-8", split)
            continue
        row = dict(zip(header, values, strict=False))
        row[columns[2]] = _unescaped(row.get(columns[2], ""))
        recording = _recording_name(row.get(columns[1], ""))
        if len(values) > len(header):  # a tab in the sentence, of which a part would be another column
            yield BadRow(where, "row has more fields than the header", split)
        elif len(values) < len(header) or recording in ("", ".", ".."):
            yield BadRow(where, "row is cut short", split)
        elif columns is SPONTANEOUS:
            yield _spontaneous(row, recording, tables)
        else:
            yield utterance_of(row, name=_stem(recording), recording=recording, text=row[columns[2]], split=split)


def _unescaped(text: str) -> str:
    """Return a text without the escapes of CSV, where the whole field is escaped; any other quotation mark is text."""
    found = ESCAPED.fullmatch(text.strip())
    return found[1].replace('""', '"') if found else text


def _fields(line: bytes) -> list[str]:
    text = line.decode("utf-8-sig", errors="replace").rstrip("\r\n")
    return [name.strip() for name in text.split("\t")] if text.strip() else []


def _recording_name(path: str) -> str:
    name = path.strip().replace("\\", "/").rsplit("/", 1)[-1]  # never outside the clips folder
    return name if "." in name or not name else f"{name}.mp3"  # releases 1 to 3 leave the ending out


def _stem(recording: str) -> str:
    stem = recording.rsplit(".", 1)[0]
    plain = stem.isprintable() and stem == stem.strip() and "#" not in stem  # as a line of a list of ids
    return stem if plain else safe_id(stem)


def _spontaneous(row: dict[str, str], recording: str, tables: Tables) -> Utterance | BadRow:
    as_released, split = tables.splits == Tables().splits, row.get("split", "").strip()
    if as_released and split not in SPLITS:
        return BadRow(_stem(recording), "in no split", "")
    text = row["transcription"] if tables.keep_marks else MARK.sub(" ", row["transcription"])
    split = split if as_released else next(iter(tables.splits.values()))
    return utterance_of(row, name=_stem(recording), recording=recording, text=text, split=split)
