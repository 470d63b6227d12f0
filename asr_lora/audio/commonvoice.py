"""A Common Voice release on disk -> utterances. Every header generation is read by the names of its columns."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from asr_lora.artifacts import ReleaseFolder
from asr_lora.errors import DataError

REQUIRED = ("client_id", "path", "sentence")
GENDERS = {"male": "male", "male_masculine": "male", "female": "female", "female_feminine": "female"}


@dataclass(frozen=True)
class Utterance:
    """One clip of a release, not yet decoded."""

    id: str
    clip: Path
    text: str  # as spoken and cased
    speaker: str  # the release's client_id: never written to disk as it is
    gender: str = ""
    age: str = ""
    accent: str = ""
    domain: str = ""


@dataclass(frozen=True)
class BadRow:
    """A row that is no utterance."""

    id: str
    reason: str


def find_locale(source: Path, language: str) -> Path:
    """Find the folder of one locale: `source` itself, or inside a release, or inside a folder of releases.

    Raises:
        DataError: no such folder; the locales that are there are named.
    """
    if not source.is_dir():
        kind = "an archive: unpack it first, for example with tar -xzf" if source.is_file() else "not there"
        raise DataError(f"{source} is {kind}. SOURCE is an unpacked Common Voice release, such as cv-corpus-25.0-.../")
    places = [source, *sorted(path for path in source.glob("*/") if path.is_dir()), *sorted(source.glob("*/*/"))]
    locales = [place for place in places if (place / ReleaseFolder.CLIPS).is_dir()]
    if source in locales:
        return source  # the user named the folder itself, whatever it is called
    named = [place for place in locales if place.name.lower() == language.lower()]
    if len(named) == 1:
        return named[0]
    if named:
        raise DataError(f"{source} holds {language!r} more than once ({', '.join(map(str, named))}): name one of them")
    if locales:
        there = ", ".join(sorted({place.name for place in locales}))
        raise DataError(f"{source} has no locale {language!r}; it has {there}. Name one with --locale")
    raise DataError(f"{source} has no {ReleaseFolder.CLIPS}/ folder in it, so it is no Common Voice release")


def read_table(locale: Path, split: str) -> Iterator[Utterance | BadRow]:
    """Read one split's TSV.

    The TSVs are written without quoting, so a stray quotation mark is text. A row that is cut short or is not UTF-8
    comes back as a BadRow; extra columns are ignored.

    Raises:
        DataError: the table is missing, empty, or lacks a column.
    """
    path = locale / ReleaseFolder.table(split)
    remedy = f"unpack the release again, or name another folder (looked in {locale})"
    if not path.is_file():
        raise DataError(f"{path} is missing: {remedy}")
    with path.open("rb") as handle:
        header = _fields(handle.readline())
        if not header:
            raise DataError(f"{path} is empty: {remedy}")
        lacking = [name for name in REQUIRED if name not in header]
        if lacking:
            raise DataError(f"{path} has no column {', '.join(lacking)}; its first line is not a Common Voice header")
        for number, line in enumerate(handle, 2):
            if line.strip():
                yield _utterance(locale, header, line, f"{split}.tsv:{number}")


def _fields(line: bytes) -> list[str]:
    text = line.decode("utf-8-sig", errors="replace").rstrip("\r\n")
    return text.split("\t") if text.strip() else []


def _utterance(locale: Path, header: list[str], line: bytes, place: str) -> Utterance | BadRow:
    try:
        values = line.decode("utf-8").rstrip("\r\n").split("\t")
    except UnicodeDecodeError:
        return BadRow(place, "row is not UTF-8")
    row = dict(zip(header, values, strict=False))
    if any(name not in row for name in REQUIRED) or not row["path"].strip():
        return BadRow(place, "row is cut short")
    name = row["path"].strip().replace("\\", "/").rsplit("/", 1)[-1]  # never out of the clips folder
    if "." not in name:
        name += ".mp3"  # releases 1 to 3 leave it out
    return Utterance(
        id=name.rsplit(".", 1)[0],
        clip=locale / ReleaseFolder.CLIPS / name,
        text=" ".join(row["sentence"].split()),
        speaker=row["client_id"],
        gender=GENDERS.get(row.get("gender", ""), ""),
        age=row.get("age", ""),
        accent=row.get("accents", row.get("accent", "")),
        domain=row.get("sentence_domain", ""),
    )
