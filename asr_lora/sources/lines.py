"""Lines of a table, of which none is ever so long that it fills memory."""

from collections.abc import Callable, Iterator

MAX_LINE_BYTES = 1 << 20
NO_TEXT = b"\xff"  # no UTF-8, so that whoever reads it says so


def numbered_lines(readline: Callable[[int], bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers, from 1; one longer than a megabyte comes out as NO_TEXT."""
    number = 0
    while line := readline(MAX_LINE_BYTES):
        number += 1
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            line = NO_TEXT
        yield number, line
