"""Define a source of speech: its rows of text, and the recordings that belong to them."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from asr_lora.errors import AudioError, DataError
from asr_lora.folders.digests import fingerprint

SPLIT_HERE = ""  # split of an utterance that `prepare` gives one
OTHER = "other"  # split of a file that is none of train, dev and test, in a source that has these
NO_SPLIT = "split is none of train, dev and test"
ADDED = "added"  # split of an utterance that goes to train, unless its speaker or sentence is in dev or test
GENDERS = {"male": "male", "male_masculine": "male", "m": "male", "female": "female", "female_feminine": "female",
           "f": "female"}  # fmt: skip
SAMPLED_BLOCKS, SAMPLED_BYTES = 64, 1 << 16  # blocks of a large file that its digest covers

Recording = Path | bytes | AudioError  # an AudioError where the source cannot provide the recording


@dataclass(frozen=True, slots=True)
class Utterance:
    """One labelled stretch of speech in a source, before it is decoded."""

    id: str
    recording: str  # name of its recording in the source
    text: str  # the transcript, as the source has it
    speaker: str = ""  # name in the source, which is never written to a dataset; "" where it is not known
    split: str = SPLIT_HERE  # train, dev or test, SPLIT_HERE or ADDED
    gender: str = ""
    age: str = ""
    accent: str = ""
    domain: str = ""
    start: float = 0.0  # seconds into the recording
    seconds: float | None = None  # None: to the end of the recording


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row of a source that cannot be used."""

    id: str  # or the place of the row, such as train.tsv:17
    reason: str
    split: str = SPLIT_HERE


class WantedRecordings(Protocol):
    """Names of the recordings that are still to be read, in the order of the rows."""

    def __iter__(self) -> Iterator[str]: ...
    def __contains__(self, recording: object) -> bool: ...


class Source(Protocol):
    """A source of speech, from which `prepare` reads rows and recordings."""

    @property
    def name(self) -> str:
        """Name for manifests, without a path of this machine."""

    @property
    def speaker_namespace(self) -> str:
        """Two sources with the same namespace mean the same person by the same speaker name."""

    def digest(self) -> str:
        """Return a digest that changes when the source changes, without reading every recording."""

    def rows(self) -> Iterator[Utterance | BadRow]:
        """Yield all rows, always in the same order."""

    def recordings(self, wanted: WantedRecordings) -> Iterator[tuple[str, Recording]]:
        """Yield the wanted recordings with their names, in an order that suits the source and is always the same."""


@dataclass(frozen=True)
class SourceAtPath(ABC):
    """A source that is a file or folder of this machine, whose speakers are in no other source."""

    home: Path

    @property
    def name(self) -> str:
        return self.home.name

    @property
    def speaker_namespace(self) -> str:
        return self.digest()

    @abstractmethod
    def digest(self) -> str:
        """See `Source.digest`."""

    def recordings(self, wanted: WantedRecordings) -> Iterator[tuple[str, Recording]]:
        """Yield the paths of recordings, whose names start from the source's folder."""
        for recording in wanted:
            yield recording, self.home / recording


@dataclass(frozen=True)
class WeightedSource:
    """A source, and how much of it a dataset takes.

    Attributes:
        corpus: number of the corpus that the source belongs to. A release and its deltas are one corpus.
        weight: share of its train utterances that the dataset takes, above 0 and at most 1.
    """

    source: Source
    corpus: int
    weight: float = 1.0


def sampled_digest(path: Path) -> str:
    """Return a digest of a file's length and of blocks spread over it, which is enough where nobody forges files.

    Raises:
        DataError: it is a pipe or a device, which would be waited for.
    """
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is no file: make or download it again")
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as handle:
        for place in sorted({size * block // (SAMPLED_BLOCKS - 1) for block in range(SAMPLED_BLOCKS)}):
            handle.seek(max(0, min(place, size - SAMPLED_BYTES)))
            digest.update(handle.read(SAMPLED_BYTES))
    return digest.hexdigest()


def files_digest(names: Iterable[tuple[str, int]]) -> str:
    """Return a digest of names and sizes of files in any order. It is a sum, so a million files need no memory."""
    total = 0
    for name, size in names:
        total += int.from_bytes(hashlib.sha256(f"{name}:{size}".encode(errors="surrogateescape")).digest())
    return fingerprint(total)


def folder_listing(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield names and sizes of the files directly in a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name, entry.stat().st_size


def macos_files(home: Path) -> Iterator[BadRow]:
    """Yield the files in which macOS keeps what other file systems cannot hold. They bear the names of recordings."""
    if home.is_dir():
        for path in sorted(home.rglob("._*")):
            yield BadRow(str(path.relative_to(home)), "a file of macOS, which holds no speech")


def safe_id(name: str) -> str:
    """Make an id of any text that can be a file name. A digest keeps texts apart that would give the same id."""
    plain = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)
    if plain == name.replace("/", "_") and len(plain) <= 100 and not plain.startswith("."):
        return plain
    return f"{plain[:80].lstrip('.')}-{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:8]}"
