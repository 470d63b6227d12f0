"""Read a .tar.gz, .tgz or .tar archive as a stream: nothing is unpacked to disk, and hostile archives are refused."""

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
MAX_RECORDING_BYTES = 64 << 20  # of one recording, which is read into memory
MAX_TABLE_BYTES = 16 << 30  # of one table, which is read line by line
MAX_GROWTH, FREE_BYTES = 60, 1 << 30  # text is compressed to a tenth, recordings not at all, a bomb to a thousandth
MAX_HEADER_BYTES, MAX_KEYS = 1 << 18, 100  # of one member's header; tar gives every key of a global one to each member
ENDINGS = (".tar.gz", ".tgz", ".tar")


@dataclass(frozen=True)
class Member:
    """A plain file of an archive. It can be read only until the next one is requested."""

    archive: Path
    path: PurePosixPath
    size: int  # bytes
    stream: IO[bytes]

    def read(self) -> bytes:
        """Return the content of the file.

        Raises:
            DataError: the archive is truncated or damaged.
        """
        with _as_data_error(self.archive):
            data = self.stream.read()
            if len(data) != self.size:
                raise EOFError("the archive ends within a file")
            return data

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield the lines of the file with their numbers.

        Raises:
            DataError: the archive is truncated or damaged.
        """
        with _as_data_error(self.archive):
            yield from numbered_lines(self.stream.readline)


def is_archive(path: Path) -> bool:
    """Whether the name of a file is that of an archive that `members` reads."""
    return path.name.lower().endswith(ENDINGS)


def members(archive: Path) -> Iterator[Member]:
    """Yield the plain files of an archive in its own order, with flat memory.

    Raises:
        DataError: the file is no archive, is truncated or damaged, has a link, a device, an absolute path or "..", or
            has more or larger files than any release.
    """
    with _as_data_error(archive), archive.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        plain = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file
        size = archive.stat().st_size
        stream = ForwardStream(plain, max(size * MAX_GROWTH, FREE_BYTES) if packed else size, archive)
        yield from _members(archive, stream)


@contextmanager
def _as_data_error(archive: Path) -> Iterator[None]:
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
        reason = "the file ends too early" if "end-of-stream" in str(error) else error
        raise DataError(f"{archive} is truncated or damaged ({reason}): download it again") from error


class ForwardStream(io.RawIOBase):
    """A stream that is read forwards, up to a limit. It keeps the last block, which shows whether the archive ended."""

    def __init__(self, stream: BinaryIO, limit: int, archive: Path) -> None:
        self.stream, self.limit, self.archive = stream, limit, archive
        self.place, self.last = 0, b""
        self.most = MAX_RECORDING_BYTES  # that are read at once

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= self.most:  # tarfile asks for the length of a name, which may be forged
            raise ValueError("a size is out of range")
        data = self.stream.read(size)
        self.place, self.last = self.place + len(data), data[-tarfile.BLOCKSIZE :]
        if self.place > self.limit:
            raise DataError(f"{self.archive} expands to more than {self.limit >> 20} MB, as no release does: refused")
        return data

    def seek(self, place: int, whence: int = io.SEEK_SET, /) -> int:
        if whence != io.SEEK_SET or place < self.place:
            raise ValueError("a size is out of range")
        while self.place < place and self.read(min(place - self.place, MAX_HEADER_BYTES)):
            pass
        return self.place

    def tell(self) -> int:
        return self.place


def _members(archive: Path, stream: ForwardStream) -> Iterator[Member]:
    count, stream.most = 0, MAX_HEADER_BYTES  # tarfile reads the first header when it opens
    with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r:") as tar:
        while (info := _next(tar, stream)) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # else tarfile keeps every one of them
            count += 1
            if count > MAX_MEMBERS:
                raise DataError(f"{archive} holds more than {MAX_MEMBERS} files, as no release does: refused")
            if len(info.pax_headers) > MAX_KEYS:
                raise DataError(f"{archive}: a header has {len(info.pax_headers):,} keys, as no release has: refused")
            path = _safe_path(archive, info)
            if not info.isfile():
                continue
            if info.size > MAX_TABLE_BYTES:
                raise DataError(f"{archive}: {path} has {info.size >> 20} MB, as no file of a release does: refused")
            file = tar.extractfile(info)
            if file is None:
                raise EOFError(f"{path} cannot be read")
            yield Member(archive, path, info.size, file)
            stream.seek(info.offset_data + info.size)
            if stream.place < info.offset_data + info.size:
                raise EOFError("the archive ends within a file")
    if not count:
        raise EOFError("it is empty")
    if len(stream.last) < tarfile.BLOCKSIZE or stream.last.strip(b"\0"):
        raise EOFError("its end is missing")  # an archive ends with empty blocks
    while stream.read(1 << 20):
        pass  # at the end, gzip compares its checksum


def _next(tar: tarfile.TarFile, stream: ForwardStream) -> tarfile.TarInfo | None:
    """Return the next member. Its header is read whole, so it may be large no more than a name needs."""
    stream.most = MAX_HEADER_BYTES
    try:
        return tar.next()
    finally:
        stream.most = MAX_RECORDING_BYTES


def _safe_path(archive: Path, info: tarfile.TarInfo) -> PurePosixPath:
    path = PurePosixPath(info.name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{archive} holds {info.name!r}, a path outside the archive: refused")
    if not (info.isfile() or info.isdir()) or info.issparse():
        raise DataError(f"{archive} holds {info.name!r}, which is a link or a device: refused")
    if not path.parts and info.isfile():
        raise DataError(f"{archive} holds a file without a name: refused")
    return path
