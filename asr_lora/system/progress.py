"""The only door to the terminal: messages, results, and the stages of a workflow with the command that repeats each."""

import codecs
import io
import re
import shlex
import sys

from asr_lora.text import printable


class Stages:
    """Number the stages of a workflow and record their commands."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.commands: list[str] = []

    def begin(self, *words: object) -> None:
        command = shlex.join(["asr-lora", *map(str, words)])
        self.commands.append(command)
        say(f"[{len(self.commands)}/{self.total}] {command}")


def say(message: str) -> None:
    """Print a message to standard error, in one line; results go to standard output."""
    print(printable(without_bytes(re.sub(r"\s*\n\s*", " ", message))), file=sys.stderr, flush=True)


def show(*results: object, sep: str = " ", end: str = "\n") -> None:
    """Print results to standard output; characters that a terminal would obey are escaped."""
    text = printable(sep.join(map(str, results)))
    print(without_bytes(text) if sys.stdout and sys.stdout.isatty() else text, end=end, flush=True)


def without_bytes(text: str) -> str:
    """Escape the bytes of file names that are not UTF-8; a pipe gets them as they are, to find the files."""
    return text.encode(errors="backslashreplace").decode()


def accept_any_text() -> None:
    """Let standard output and error take characters that their encoding lacks; they are escaped as in JSON."""
    codecs.register_error("asr_lora", _escaped)
    for stream in (sys.stdout, sys.stderr):  # None: it is closed
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="asr_lora")


def _escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """Encode one character; in UTF-8, where no terminal obeys a lone byte, the byte of a file's name stays a byte."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if error.encoding == "utf-8" and "\udc80" <= character <= "\udcff":
        return bytes([ord(character) - 0xDC00]), error.start + 1
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4)), error.start + 1
