"""Segments -> cues that can be read: lines of bounded length, durations within limits, no two on the screen at once."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from asr_lora.errors import ConfigError
from asr_lora.transcription.segments import Segment, Word


@dataclass(frozen=True)
class Rules:
    """What a cue may be; the defaults are those of common subtitling guides."""

    line_length: int = 42  # characters; those of Chinese, Japanese and Korean are as wide as two
    lines: int = 2
    shortest: float = 1.0  # seconds; less only where the next cue leaves no more
    longest: float = 7.0  # seconds
    gap: float = 0.08  # seconds between two cues
    pace: float = 17.0  # characters a second that can be read: a faster cue stays longer, where there is room

    def __post_init__(self) -> None:
        if self.line_length < 8 or self.lines < 1:
            raise ConfigError("--line-length must be 8 or more, and --lines 1 or more")


@dataclass(frozen=True)
class Cue:
    """What stands on the screen, and when."""

    start: float  # seconds
    end: float  # seconds
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


SENTENCE = re.compile(r"""[.!?…。！？؟।][)\]"'”’»]*$""")
CLAUSE = re.compile(r"""[,;:،、，；：–—][)\]"'”’»]*$""")
MILLISECOND = 0.001


def cues(segments: Iterable[Segment], rules: Rules = Rules()) -> Iterator[Cue]:
    """Cut segments into cues, each as soon as the next is known.

    A segment that is too long for a cue is cut after a sentence, else a clause, else in its longest pause, at the times
    of its words or, where nobody asked for these, in proportion to its letters. Cues that are too short for their place
    are joined with the next where both fit. Starts and ends are whole milliseconds.
    """
    before: list[Word] | None = None
    free = 0.0  # when the screen is free
    for piece in _pieces(segments, rules):
        if before is not None:
            if _rushed(before, piece, rules) and _fits([*before, *piece], rules):
                before = [*before, *piece]
                continue
            cue = _cue(before, piece[0].start, free, rules)
            yield cue
            free = cue.end + rules.gap
        before = piece
    if before is not None:
        yield _cue(before, None, free, rules)


def _pieces(segments: Iterable[Segment], rules: Rules) -> Iterator[list[Word]]:
    for segment in segments:
        rest = _units(segment, rules)
        while rest:
            count = _first_piece(rest, rules)
            yield rest[:count]
            rest = rest[count:]


def _units(segment: Segment, rules: Rules) -> list[Word]:
    """What may not be cut: words with their times, a blank before them where there is one; a long one in parts."""
    words = segment.words or _spread(segment)
    units = []
    for word in words:
        blank, text = " " if word.text[:1].isspace() else "", plain(word.text)
        parts = _parts(text, rules.line_length)
        share = (word.end - word.start) / max(1, len(parts))
        for number, part in enumerate(parts):
            start = word.start + number * share
            units.append(Word(start, start + share, (blank if number == 0 else "") + part))
    return units


def _spread(segment: Segment) -> list[Word]:
    """The words of a segment, its time shared out by their letters."""
    texts = [f" {text}" for text in plain(segment.text).split(" ") if text]
    rate = (segment.end - segment.start) / max(1, sum(map(len, texts)))
    words, letters = [], 0
    for text in texts:
        start = segment.start + letters * rate
        letters += len(text)
        words.append(Word(start, segment.start + letters * rate, text))
    return words


def _parts(text: str, most: int) -> list[str]:
    """Cut a text without blanks where a line may end: an address when it is wider than one, Chinese before any sign.

    Punctuation stays with what it follows, and marks with what they stand on.
    """
    parts, part, taken = [], "", 0
    for sign in text:
        wide = width(sign)
        free = part and unicodedata.east_asian_width(part[-1]) in "WF" and sign.isalnum()
        if part and wide and (free or taken + wide > most):
            parts.append(part)
            part, taken = "", 0
        part, taken = part + sign, taken + wide
    return [*parts, part] if part else parts


def _first_piece(units: Sequence[Word], rules: Rules) -> int:
    """How many units the first cue takes: the most that fit, or fewer where that ends a sentence, clause or breath."""
    most = 1
    while most < len(units) and _fits(units[: most + 1], rules):
        most += 1
    if most == len(units):
        return most
    least = (most + 1) // 2  # a cue is not cut to less than half of what fits
    for ends in (SENTENCE, CLAUSE):
        for count in range(most, least - 1, -1):
            if ends.search(units[count - 1].text):
                return count
    pauses = [units[count].start - units[count - 1].end for count in range(least, most + 1)]
    longest = max(pauses)
    return most if longest < 0.2 else least + pauses.index(longest)


def _fits(units: Sequence[Word], rules: Rules) -> bool:
    return units[-1].end - units[0].start <= rules.longest and len(_wrap(units, rules.line_length)) <= rules.lines


def _rushed(units: Sequence[Word], following: Sequence[Word], rules: Rules) -> bool:
    return following[0].start - rules.gap - units[0].start < rules.shortest


def _cue(units: Sequence[Word], following: float | None, free: float, rules: Rules) -> Cue:
    lines = balanced(units, rules)
    start = max(units[0].start, free)
    wanted = max(rules.shortest, sum(map(width, lines)) / rules.pace)
    end = min(max(units[-1].end, start + wanted), start + rules.longest)
    if following is not None:
        end = min(end, following - rules.gap)
    start = round(start, 3)
    return Cue(start, max(round(end, 3), round(start + MILLISECOND, 3)), lines)


def balanced(units: Sequence[Word], rules: Rules) -> tuple[str, ...]:
    """Lines of about equal width, as few as can be."""
    fewest = _wrap(units, rules.line_length)
    low, high = 1, rules.line_length
    while low < high:
        middle = (low + high) // 2
        lines = _wrap(units, middle)
        if len(lines) <= len(fewest) and max(map(width, lines), default=0) <= middle:
            high = middle
        else:
            low = middle + 1
    return tuple(_wrap(units, high))


def _wrap(units: Sequence[Word], most: int) -> list[str]:
    """Fill lines one after another; a unit wider than a line has one of its own."""
    lines: list[str] = []
    for unit in units:
        if lines and width(lines[-1] + unit.text) <= most:
            lines[-1] += unit.text
        else:
            lines.append(unit.text.strip())
    return lines


def width(text: str) -> int:
    """Columns that a text takes: none for marks and joiners, two for what is as wide as it is high."""
    return sum(
        0 if unicodedata.combining(sign) or unicodedata.category(sign) in ("Mn", "Me", "Cf") else
        2 if unicodedata.east_asian_width(sign) in "WF" else 1
        for sign in text
    )  # fmt: skip


def plain(text: str) -> str:
    """A text on one line, without control characters, which end cues or files in some formats."""
    return " ".join("".join(" " if unicodedata.category(sign) == "Cc" else sign for sign in text).split())
