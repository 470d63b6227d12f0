"""What is heard, with its place in time."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """A word, or a character where a script puts no blanks between words."""

    start: float  # seconds from the beginning of the file
    end: float  # seconds
    text: str  # with the blank before it, so that the words of a segment joined are its text


@dataclass(frozen=True)
class Segment:
    """Text with its place in time."""

    start: float  # seconds from the beginning of the file
    end: float  # seconds
    text: str
    words: tuple[Word, ...] = ()  # empty: nobody asked for them
    language: str | None = None  # code of what it was taken for; None: English-only
    adapter: str | None = None  # name of the one among several that heard it; None: the base, or the only one
    log_probability: float | None = None  # mean over the tokens of its window
    no_speech: float | None = None  # chance that nobody speaks in its window
