"""Read the lines of text files that others wrote: UTF-8 or UTF-16, packed or not, with any line ends and lengths."""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

from asr_lora.errors import DataError

MAX_LINE_BYTES = 1 << 20
NO_TEXT = b"\xff"  # in place of a longer line; it is no UTF-8, so readers reject it
SNIFFED_BYTES = 1 << 16  # of the beginning of a file, which show its encoding and its line ends
MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
MAX_GROWTH, FREE_BYTES = 200, 1 << 30  # manifests are packed to a thirtieth, a bomb to a thousandth


def numbered_lines(readline: Callable[[int], bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield lines with their numbers from 1. A line longer than MAX_LINE_BYTES becomes NO_TEXT."""
    number = 0
    while line := readline(MAX_LINE_BYTES):
        number += 1
        if len(line) >= MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            line = NO_TEXT
        yield number, line


def file_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a text file as UTF-8, with their numbers from 1.

    A file may be packed by gzip. UTF-16 and UTF-32 are recognised, and a file that has no line feeds ends its lines by
    carriage returns, as Excel for the Mac wrote them.

    Raises:
        DataError: the packed file is damaged, or expands to far more than any manifest does.
    """
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not packed:
            yield from numbered_lines(_utf8_lines(file))
            return
        most, total = max(path.stat().st_size * MAX_GROWTH, FREE_BYTES), 0
        readline: Callable[[int], bytes]

        def counted(size: int) -> bytes:
            nonlocal total
            line = readline(size)
            total += len(line)
            if total > most:
                raise DataError(f"{path} expands to more than {most >> 20} MB, as no manifest does: refused")
            return line

        try:
            readline = _utf8_lines(cast(IO[bytes], gzip.GzipFile(fileobj=file)))
            yield from numbered_lines(counted)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{path} is truncated or damaged ({error}): make or download it again") from error


def _utf8_lines(stream: IO[bytes]) -> Callable[[int], bytes]:
    """Return the `readline` of a stream, whose lines are UTF-8 and end in line feeds whatever wrote them."""
    start = stream.read(SNIFFED_BYTES)
    stream.seek(0)
    encoding = _wide_encoding(start)
    content = start.decode(encoding or "latin-1", errors="replace")
    end = "\r" if "\r" in content and "\n" not in content else "\n"
    if encoding is None and end == "\n":
        return stream.readline
    # Latin-1 gives every byte back as it was, so the reader of the row still decides whether it is UTF-8.
    text = io.TextIOWrapper(stream, encoding or "latin-1", errors="replace", newline=end)

    def readline(size: int) -> bytes:
        line = text.readline(size)
        line = f"{line[:-1]}\n" if line.endswith(end) else line
        return line.encode("utf-8" if encoding else "latin-1")

    return readline


def _wide_encoding(start: bytes) -> str | None:
    """Return the encoding of a text of two or four bytes a character by its mark, or by its zeros; None for others."""
    for mark, encoding in MARKS.items():
        if start.startswith(mark):
            return encoding
    half = len(start) // 2
    for encoding, zeros in (("utf-16-le", start[1::2]), ("utf-16-be", start[0::2])):
        if half > 8 and zeros.count(0) > 0.4 * half and start.count(0) < 0.6 * len(start):
            return encoding
    return None


def decoded_text(content: bytes) -> str:
    """Return a short text in UTF-8, with or without its mark, or in UTF-16.

    Raises:
        UnicodeDecodeError: it is in another encoding.
    """
    return content.decode(_wide_encoding(content) or "utf-8-sig")
