"""What a source of speech is: rows of text, and the recordings that they speak of. `prepare` works from that alone."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from asr_lora.errors import AudioError
from asr_lora.folders.digests import fingerprint

SPLIT_HERE = ""  # the source has no splits: `prepare` makes them
ADDED = "added"  # goes to train, unless its speaker or its sentence is in dev or test
GENDERS = {"male": "male", "male_masculine": "male", "m": "male", "female": "female", "female_feminine": "female",
           "f": "female"}  # fmt: skip
SAMPLED_BLOCKS, SAMPLED_BYTES = 64, 1 << 16  # of a large file, enough to tell it from another

Recording = Path | bytes | AudioError  # the last where the source itself cannot give it


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance of a source, not yet decoded."""

    id: str
    recording: str  # its recording, as the source names it
    text: str  # as spoken and cased
    speaker: str = ""  # as the source names them: never written to disk as it is; "" where it is not known
    split: str = SPLIT_HERE  # train, dev or test, SPLIT_HERE or ADDED
    gender: str = ""
    age: str = ""
    accent: str = ""
    domain: str = ""
    start: float = 0.0  # seconds into the recording
    seconds: float | None = None  # from there on; None: to its end


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no utterance."""

    id: str  # or its place, such as train.tsv:17
    reason: str
    split: str = SPLIT_HERE


class WantedRecordings(Protocol):
    """Names of the recordings that are still to be read: in the order of the rows, or asked one by one."""

    def __iter__(self) -> Iterator[str]: ...
    def __contains__(self, recording: object) -> bool: ...


class Source(Protocol):
    """A source of speech."""

    @property
    def name(self) -> str:
        """For manifests: says what it is, without a path of this machine."""

    @property
    def speaker_namespace(self) -> str:
        """Whose names the speakers' names are: two sources that agree in this name the same speaker_namespace."""

    def digest(self) -> str:
        """A digest found without reading every recording; equal ones mean that nothing has changed."""

    def rows(self) -> Iterator[Utterance | BadRow]:
        """Every row, in an order that is always the same."""

    def recordings(self, wanted: WantedRecordings) -> Iterator[tuple[str, Recording]]:
        """The wanted recordings by name, in whatever order the source can give them, always the same."""


@dataclass(frozen=True)
class WeightedSource:
    """A source, and how much of it a dataset takes.

    Attributes:
        family: sources of one family make up one corpus: a release and its deltas.
        weight: share of its train utterances that the dataset takes, above 0 and at most 1.
    """

    source: Source
    family: int
    weight: float = 1.0


def sampled_digest(path: Path) -> str:
    """A digest of a file's length and of blocks spread over it: as good as all of it for data that was not forged."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as handle:
        for place in sorted({size * block // (SAMPLED_BLOCKS - 1) for block in range(SAMPLED_BLOCKS)}):
            handle.seek(max(0, min(place, size - SAMPLED_BYTES)))
            digest.update(handle.read(SAMPLED_BYTES))
    return digest.hexdigest()


def files_digest(names: Iterable[tuple[str, int]]) -> str:
    """A digest of names and sizes of files in any order: a sum, so that a million of them need no memory."""
    total = 0
    for name, size in names:
        total += int.from_bytes(hashlib.sha256(f"{name}:{size}".encode(errors="surrogateescape")).digest())
    return fingerprint(total)


def folder_listing(folder: Path) -> Iterator[tuple[str, int]]:
    """Names and sizes of the files directly in a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name, entry.stat().st_size


def safe_id(name: str) -> str:
    """An id that can be a file's name, from any text; texts that would become the same keep apart by a digest."""
    plain = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)
    if plain == name.replace("/", "_") and len(plain) <= 100 and not plain.startswith("."):
        return plain
    return f"{plain[:80].lstrip('.')}-{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:8]}"
