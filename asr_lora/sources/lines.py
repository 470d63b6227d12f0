"""Read the lines of a table with a limit on their length, so that no line fills memory."""

from collections.abc import Callable, Iterator

MAX_LINE_BYTES = 1 << 20
NO_TEXT = b"\xff"  # in place of a longer line; it is no UTF-8, so readers reject it


def numbered_lines(readline: Callable[[int], bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield lines with their numbers from 1. A line longer than MAX_LINE_BYTES becomes NO_TEXT."""
    number = 0
    while line := readline(MAX_LINE_BYTES):
        number += 1
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            line = NO_TEXT
        yield number, line
