"""Common Voice, unpacked or an archive -> utterances. Every header generation is read by the names of its columns."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from asr_lora.errors import AudioError, DataError
from asr_lora.folders.dataset_folder import SPLITS
from asr_lora.folders.digests import fingerprint, sha256_file
from asr_lora.folders.source_folder import ReleaseFolder
from asr_lora.sources.archive import MAX_CLIP_BYTES, Member, is_archive, members
from asr_lora.sources.interface import (
    ADDED,
    GENDERS,
    SPLIT_HERE,
    BadRow,
    Recording,
    Utterance,
    WantedRecordings,
    files_digest,
    folder_listing,
    sampled_digest,
)
from asr_lora.sources.lines import numbered_lines

REQUIRED = ("client_id", "path", "sentence")
SPONTANEOUS_REQUIRED = ("client_id", "audio_file", "transcription")
PEOPLE = "commonvoice"  # a client_id is the same person in every release
MARK = re.compile(r"\[[^\[\]]{1,40}\]")  # such as [disfluency] in Spontaneous Speech
VALIDATED = "validated"

Line = tuple[int, bytes]  # its number, from 1, and what stands in it
Read = Callable[[dict[str, str], str, str], Utterance | BadRow]  # of a row, its place and its split


@dataclass(frozen=True)
class Tables:
    """Which tables of a release are read, and as what.

    Attributes:
        splits: name of a table, without its ending, -> split of its rows.
        keep_marks: whether `[disfluency]` and the like stay in the text of Spontaneous Speech.
    """

    splits: dict[str, str] = field(default_factory=lambda: {split: split for split in SPLITS})
    keep_marks: bool = False

    @classmethod
    def of(cls, kind: str, *, keep_marks: bool = False) -> "Tables":
        """What to read: the splits of a "release", "validated" to be split here, or a "delta" over another release."""
        chosen = {"release": {split: split for split in SPLITS}, "validated": {VALIDATED: SPLIT_HERE}}
        return cls({**chosen, "delta": {VALIDATED: ADDED}}[kind], keep_marks)


@dataclass(frozen=True)
class ReleaseOnDisk:
    """The unpacked folder of one locale."""

    locale: Path
    tables: Tables = Tables()
    speaker_namespace: str = PEOPLE

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
                continue
            split = self.tables.splits[path.stem]
            rows = 0
            for rows, row in enumerate(read_table(self.locale, path.stem, split), 1):  # noqa: B007
                yield row
            if not rows:
                raise DataError(no_rows(str(path)))

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
    """One locale of a release in its archive, which is read from beginning to end and never unpacked to disk."""

    archive: Path
    language: str  # name of the locale's folder in it
    tables: Tables = Tables()
    speaker_namespace: str = PEOPLE

    @property
    def name(self) -> str:
        return self.archive.name

    def digest(self) -> str:
        chosen = self.tables.splits, self.tables.keep_marks
        return fingerprint(sampled_digest(self.archive), self.language.lower(), *chosen)

    def rows(self) -> Iterator[Utterance | BadRow]:
        homes: set[str] = set()  # folders of locales
        ours: set[PurePosixPath] = set()  # those of them whose tables were read
        seen: set[str] = set()
        for member in members(self.archive):
            if member.path.parent.name in (ReleaseFolder.CLIPS, ReleaseFolder.AUDIOS):
                homes.add(str(member.path.parent.parent))
            table = self._table(member)
            if table is None:
                continue
            ours.add(member.path.parent)
            seen.add(table)
            rows = 0
            for rows, row in enumerate(self._read(table, member), 1):  # noqa: B007
                yield row
            if not rows:
                raise DataError(no_rows(f"{self.archive}: {member.path}"))
        self._require(homes, ours, seen)

    def recordings(self, wanted: WantedRecordings) -> Iterator[tuple[str, Recording]]:
        for member in members(self.archive):
            folder, name = member.path.parent, member.path.name
            if folder.name not in (ReleaseFolder.CLIPS, ReleaseFolder.AUDIOS) or not self._is_ours(folder.parent):
                continue
            if name in wanted:
                if member.size > MAX_CLIP_BYTES:
                    yield name, AudioError("file is too large", f"{member.path} has {member.size} bytes")
                else:
                    yield name, member.read()

    def _is_ours(self, home: PurePosixPath) -> bool:
        # Spontaneous Speech has its locale at the end of the release's own name.
        name = home.name.lower()
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
            return _rows(member.lines(), table, place, SPONTANEOUS_REQUIRED, _spoken(self.tables))
        return _rows(member.lines(), f"{table}.tsv", place, REQUIRED, _utterance, self.tables.splits[table])

    def _require(self, homes: set[str], ours: set[PurePosixPath], seen: set[str]) -> None:
        if len(ours) > 1:
            listed = ", ".join(sorted(map(str, ours)))
            raise DataError(f"{self.archive} holds {self.language!r} more than once ({listed}): take another archive")
        if not homes:
            raise DataError(
                f"{self.archive} has no {ReleaseFolder.CLIPS}/ folder in it, so it is no Common Voice release"
            )
        if not any(self._is_ours(PurePosixPath(home)) for home in homes):
            there = ", ".join(sorted({PurePosixPath(home).name for home in homes}))
            raise DataError(f"{self.archive} has no locale {self.language!r}; it has {there}. Name one with --locale")
        if not any(table.endswith(".tsv") for table in seen) and (lacking := set(self.tables.splits) - seen):
            raise DataError(_missing(f"{self.archive}: {ReleaseFolder.table(sorted(lacking)[0])}"))


def find_release(source: Path, language: str, tables: Tables) -> ReleaseOnDisk | ReleaseArchive:
    """Find one locale of a release, in a folder or in an archive.

    Raises:
        DataError: no such folder; the locales that are there are named. An archive tells when it is read.
    """
    if source.is_file() and is_archive(source):
        return ReleaseArchive(source, language, tables)
    return ReleaseOnDisk(find_locale(source, language), tables)


def find_locale(source: Path, language: str) -> Path:
    """Find the folder of one locale: `source` itself, or inside a release, or inside a folder of releases.

    Raises:
        DataError: no such folder; the locales that are there are named.
    """
    if not source.is_dir():
        kind = "no folder and no .tar.gz, .tgz or .tar archive" if source.is_file() else "not there"
        raise DataError(f"{source} is {kind}. Name a Common Voice release, such as cv-corpus-25.0-.../ or its archive")
    locales = _locales(source)
    if source in locales:
        return source  # the user named the folder itself, whatever it is called
    wanted = language.lower()
    named = [place for place in locales if re.fullmatch(rf"(sps-corpus-.*-)?{re.escape(wanted)}", place.name.lower())]
    if len(named) == 1:
        return named[0]
    if named:
        raise DataError(f"{source} holds {language!r} more than once ({', '.join(map(str, named))}): name one of them")
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
    """Read one TSV of an unpacked release, as rows of `split` (of the table's own name when not given).

    The TSVs are written without quoting, so a stray quotation mark is text. A row that is cut short or is not UTF-8
    comes back as a BadRow; extra columns are ignored.

    Raises:
        DataError: the table is missing, empty, or lacks a column.
    """
    path = locale / ReleaseFolder.table(table)
    if not path.is_file():
        raise DataError(_missing(str(path)))
    with path.open("rb") as handle:
        lines = numbered_lines(handle.readline)
        yield from _rows(lines, path.name, str(path), REQUIRED, _utterance, table if split is None else split)


def read_spontaneous(path: Path, tables: Tables | None = None) -> Iterator[Utterance | BadRow]:
    """Read the TSV of a Spontaneous Speech release; marks such as [disfluency] are taken out unless they are to stay.

    Raises:
        DataError: the table is empty or lacks a column.
    """
    with path.open("rb") as handle:
        lines = numbered_lines(handle.readline)
        yield from _rows(lines, path.name, str(path), SPONTANEOUS_REQUIRED, _spoken(tables or Tables()))


def no_rows(table: str) -> str:
    """What to say of a table without rows."""
    name = PurePosixPath(table).stem
    return (
        f"{table} has a header and no rows: take a release that has {name}, or make splits of your own from all "
        "validated clips with --from validated"
    )


def _missing(table: str) -> str:
    return (
        f"{table} is missing: unpack the release again, or name another folder; a delta release is laid over its base "
        "(prepare BASE --delta DELTA), and --from validated needs no splits"
    )


def _rows(
    lines: Iterable[Line], table: str, place: str, required: tuple[str, ...], read: Read, split: str = ""
) -> Iterator[Utterance | BadRow]:
    """Read the rows of a table whose name is `table` and whose full place, for messages, is `place`."""
    lines = iter(lines)
    header = _fields(next(lines, (1, b""))[1])
    if not header:
        raise DataError(f"{place} is empty: unpack the release again, or name another folder")
    lacking = [name for name in required if name not in header]
    if lacking:
        raise DataError(f"{place} has no column {', '.join(lacking)}; its first line is not a Common Voice header")
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
        if any(name not in row for name in required) or not row[required[1]].strip():
            yield BadRow(where, "row is cut short", split)
        else:
            yield read(row, where, split)


def _fields(line: bytes) -> list[str]:
    text = line.decode("utf-8-sig", errors="replace").rstrip("\r\n")
    return text.split("\t") if text.strip() else []


def _clip_name(path: str) -> str:
    name = path.strip().replace("\\", "/").rsplit("/", 1)[-1]  # never out of the clips folder
    return name if "." in name else f"{name}.mp3"  # releases 1 to 3 leave it out


def _utterance(row: dict[str, str], where: str, split: str) -> Utterance | BadRow:
    name = _clip_name(row["path"])
    if name in (".", ".."):
        return BadRow(where, "row is cut short", split)
    return Utterance(
        id=name.rsplit(".", 1)[0],
        recording=name,
        text=" ".join(row["sentence"].split()),
        speaker=row["client_id"],
        split=split,
        gender=GENDERS.get(row.get("gender", ""), ""),
        age=row.get("age", ""),
        accent=row.get("accents", row.get("accent", "")),
        domain=row.get("sentence_domain", ""),
    )


def _spoken(tables: Tables) -> Read:
    as_released = tables.splits == Tables().splits

    def read(row: dict[str, str], where: str, _: str) -> Utterance | BadRow:
        name, split = _clip_name(row["audio_file"]), row.get("split", "").strip()
        if name in (".", ".."):
            return BadRow(where, "row is cut short", split)
        if as_released and split not in SPLITS:
            return BadRow(name.rsplit(".", 1)[0], "in no split", "")
        text = row["transcription"] if tables.keep_marks else MARK.sub(" ", row["transcription"])
        return Utterance(
            id=name.rsplit(".", 1)[0],
            recording=name,
            text=" ".join(text.split()),
            speaker=row["client_id"],
            split=split if as_released else next(iter(tables.splits.values())),
            gender=GENDERS.get(row.get("gender", ""), ""),
            age=row.get("age", ""),
            accent=row.get("accents", row.get("accent", "")),
        )

    return read
