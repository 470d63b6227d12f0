"""A .tar.gz, .tgz or .tar from beginning to end, without unpacking to disk and without trusting what is in it."""

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from asr_lora.errors import DataError
from asr_lora.sources.lines import numbered_lines

MAX_MEMBERS = 20_000_000
MAX_CLIP_BYTES = 64 << 20  # of one recording, which is read into memory
MAX_TABLE_BYTES = 16 << 30  # of one table, which is read line by line
MAX_GROWTH, FREE_BYTES = 60, 1 << 30  # text packs to a tenth, recordings not at all; a bomb to a thousandth
ENDINGS = (".tar.gz", ".tgz", ".tar")


@dataclass(frozen=True)
class Member:
    """A plain file of an archive; it can be read until the next one is asked for."""

    archive: Path
    path: PurePosixPath
    size: int  # bytes
    stream: IO[bytes]

    def read(self) -> bytes:
        """The whole file.

        Raises:
            DataError: the archive is truncated or damaged here.
        """
        with _one_sentence(self.archive):
            data = self.stream.read()
            if len(data) != self.size:
                raise EOFError("it ends within a file")
            return data

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Its lines with their numbers.

        Raises:
            DataError: the archive is truncated or damaged here.
        """
        with _one_sentence(self.archive):
            yield from numbered_lines(self.stream.readline)


def is_archive(path: Path) -> bool:
    """Whether a file is named as an archive that is read here."""
    return path.name.lower().endswith(ENDINGS)


def members(archive: Path) -> Iterator[Member]:
    """The plain files of an archive in its own order; memory stays flat whatever their number.

    Raises:
        DataError: truncated, corrupt or no archive; a link, a device, a path out of the archive; more or larger files
            than any release has.
    """
    with _one_sentence(archive), archive.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        plain = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file
        size = archive.stat().st_size
        tape = Tape(plain, max(size * MAX_GROWTH, FREE_BYTES) if packed else size, archive)
        yield from _members(archive, tape)


@contextmanager
def _one_sentence(archive: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except (
        EOFError,
        gzip.BadGzipFile,
        zlib.error,
        tarfile.TarError,
        ValueError,
        OverflowError,
        RecursionError,
    ) as error:
        reason = "it ends too early" if "end-of-stream" in str(error) else error
        raise DataError(f"{archive} is truncated or damaged ({reason}): download it again") from error


class Tape(io.RawIOBase):
    """A stream that is read forwards only, up to a limit; knows the last block, which says how an archive ended."""

    def __init__(self, stream: BinaryIO, limit: int, archive: Path) -> None:
        self.stream, self.limit, self.archive = stream, limit, archive
        self.place, self.last = 0, b""

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= MAX_CLIP_BYTES:  # also what tarfile asks for: the length of a name may be forged
            raise ValueError("a size is out of range")
        data = self.stream.read(size)
        self.place, self.last = self.place + len(data), data[-tarfile.BLOCKSIZE :]
        if self.place > self.limit:
            raise DataError(f"{self.archive} expands to more than {self.limit >> 20} MB, as no release does: refused")
        return data

    def seek(self, place: int, whence: int = io.SEEK_SET, /) -> int:
        if whence != io.SEEK_SET or place < self.place:
            raise ValueError("a size is out of range")
        while self.place < place and self.read(min(place - self.place, 1 << 20)):
            pass
        return self.place

    def tell(self) -> int:
        return self.place


def _members(archive: Path, tape: Tape) -> Iterator[Member]:
    count = 0
    with tarfile.open(fileobj=cast(IO[bytes], tape), mode="r:") as tar:
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile would remember every one of them
            count += 1
            if count > MAX_MEMBERS:
                raise DataError(f"{archive} holds more than {MAX_MEMBERS} files, as no release does: refused")
            path = _safe_path(archive, info)
            if not info.isfile():
                continue
            if info.size > MAX_TABLE_BYTES:
                raise DataError(f"{archive}: {path} has {info.size >> 20} MB, as no file of a release does: refused")
            stream = tar.extractfile(info)
            if stream is None:
                raise EOFError(f"{path} cannot be read")
            yield Member(archive, path, info.size, stream)
            tape.seek(info.offset_data + info.size)
            if tape.place < info.offset_data + info.size:
                raise EOFError("it ends within a file")
    if not count:
        raise EOFError("nothing is in it")
    if len(tape.last) < tarfile.BLOCKSIZE or tape.last.strip(b"\0"):
        raise EOFError("it ends before its end")  # an archive's end is marked by empty blocks
    while tape.read(1 << 20):
        pass  # so that gzip compares its checksum


def _safe_path(archive: Path, info: tarfile.TarInfo) -> PurePosixPath:
    path = PurePosixPath(info.name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{archive} holds {info.name!r}, a path that leads out of it: refused")
    if not (info.isfile() or info.isdir()) or info.issparse():
        raise DataError(f"{archive} holds {info.name!r}, which is a link or a device: refused")
    if not path.parts and info.isfile():
        raise DataError(f"{archive} holds a file without a name: refused")
    return path
