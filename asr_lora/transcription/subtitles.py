"""Make readable subtitle cues of segments: short lines, durations within limits, and never two cues at once."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from asr_lora.errors import ConfigError
from asr_lora.transcription.segments import Segment, Word


@dataclass(frozen=True)
class SubtitleRules:
    """Limits of a cue; the defaults are those of common subtitling guides."""

    line_length: int = 42  # characters; a Chinese, Japanese or Korean character counts as two
    lines: int = 2  # in a cue
    shortest: float = 1.0  # seconds; a cue is shorter only where the next one begins sooner
    longest: float = 7.0  # seconds
    gap: float = 0.08  # seconds between two cues
    pace: float = 17.0  # characters per second that people can read: a faster cue stays longer, where there is time

    def __post_init__(self) -> None:
        if self.line_length < 8 or self.lines < 1:
            raise ConfigError("--line-length must be 8 or more, and --lines 1 or more")


@dataclass(frozen=True)
class Cue:
    """Lines of text that are on the screen together, with their times."""

    start: float  # seconds
    end: float  # seconds
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


SENTENCE = re.compile(r"""[.!?…。！？؟।][)\]"'”’»]*$""")
CLAUSE = re.compile(r"""[,;:،、，；：–—][)\]"'”’»]*$""")
MILLISECOND = 0.001


def make_cues(segments: Iterable[Segment], rules: SubtitleRules = SubtitleRules()) -> Iterator[Cue]:
    """Cut segments into cues, and yield each as soon as the next is known.

    A segment that is too long for a cue is cut after a sentence, else after a clause, else in its longest pause. Cuts
    are at the times of its words or, where these are unknown, in proportion to its letters. A cue that would be too
    short is joined with the next where both fit. Starts and ends are whole milliseconds.
    """
    pending: list[Word] | None = None
    free = 0.0  # when the previous cue has left the screen
    for piece in _pieces(segments, rules):
        if pending is not None:
            if _too_short(pending, piece, rules) and _fits([*pending, *piece], rules):
                pending = [*pending, *piece]
                continue
            cue = _cue(pending, piece[0].start, free, rules)
            yield cue
            free = cue.end + rules.gap
        pending = piece
    if pending is not None:
        yield _cue(pending, None, free, rules)


def _pieces(segments: Iterable[Segment], rules: SubtitleRules) -> Iterator[list[Word]]:
    for segment in segments:
        rest = _units(segment, rules)
        while rest:
            count = _first_piece(rest, rules)
            yield rest[:count]
            rest = rest[count:]


def _units(segment: Segment, rules: SubtitleRules) -> list[Word]:
    """The words of a segment, which are not cut, with the blanks before them; a word longer than a line, in parts."""
    words = segment.words or _timed_words(segment)
    units = []
    for word in words:
        blank, text = " " if word.text[:1].isspace() else "", single_line(word.text)
        parts = _parts(text, rules.line_length)
        share = (word.end - word.start) / max(1, len(parts))
        for number, part in enumerate(parts):
            start = word.start + number * share
            units.append(Word(start, start + share, (blank if number == 0 else "") + part))
    return units


def _timed_words(segment: Segment) -> list[Word]:
    """The words of a segment without times of words, timed in proportion to their letters."""
    texts = [f" {text}" for text in single_line(segment.text).split(" ") if text]
    rate = (segment.end - segment.start) / max(1, sum(map(len, texts)))
    words, letters = [], 0
    for text in texts:
        start = segment.start + letters * rate
        letters += len(text)
        words.append(Word(start, segment.start + letters * rate, text))
    return words


def _parts(text: str, line_length: int) -> list[str]:
    """Cut a text without blanks where a line may end: at a line's length, and in Chinese or Japanese before any letter.

    Punctuation stays with the character before it, and combining marks with their base character.
    """
    parts, part, columns = [], "", 0
    for character in text:
        width = display_width(character)
        free = part and unicodedata.east_asian_width(part[-1]) in "WF" and character.isalnum()
        if part and width and (free or columns + width > line_length):
            parts.append(part)
            part, columns = "", 0
        part, columns = part + character, columns + width
    return [*parts, part] if part else parts


def _first_piece(units: Sequence[Word], rules: SubtitleRules) -> int:
    """How many units the first cue takes: as many as fit, or fewer where that ends a sentence, a clause or a pause."""
    most = 1
    while most < len(units) and _fits(units[: most + 1], rules):
        most += 1
    if most == len(units):
        return most
    least = (most + 1) // 2  # a cue takes at least half of the units that fit
    for ends in (SENTENCE, CLAUSE):
        for count in range(most, least - 1, -1):
            if ends.search(units[count - 1].text):
                return count
    pauses = [units[count].start - units[count - 1].end for count in range(least, most + 1)]
    longest = max(pauses)
    return most if longest < 0.2 else least + pauses.index(longest)


def _fits(units: Sequence[Word], rules: SubtitleRules) -> bool:
    return units[-1].end - units[0].start <= rules.longest and len(_wrap(units, rules.line_length)) <= rules.lines


def _too_short(units: Sequence[Word], following: Sequence[Word], rules: SubtitleRules) -> bool:
    return following[0].start - rules.gap - units[0].start < rules.shortest


def _cue(units: Sequence[Word], following: float | None, free: float, rules: SubtitleRules) -> Cue:
    lines = _balanced_lines(units, rules)
    start = max(units[0].start, free)
    wanted = max(rules.shortest, sum(map(display_width, lines)) / rules.pace)
    end = min(max(units[-1].end, start + wanted), start + rules.longest)
    if following is not None:
        end = min(end, following - rules.gap)
    start = round(start, 3)
    return Cue(start, max(round(end, 3), round(start + MILLISECOND, 3)), lines)


def _balanced_lines(units: Sequence[Word], rules: SubtitleRules) -> tuple[str, ...]:
    """Lines of about equal width, as few as possible."""
    fewest = _wrap(units, rules.line_length)
    low, high = 1, rules.line_length
    while low < high:
        middle = (low + high) // 2
        lines = _wrap(units, middle)
        if len(lines) <= len(fewest) and max(map(display_width, lines), default=0) <= middle:
            high = middle
        else:
            low = middle + 1
    return tuple(_wrap(units, high))


def _wrap(units: Sequence[Word], line_length: int) -> list[str]:
    """Fill lines one after another; a unit wider than a line gets a line of its own."""
    lines: list[str] = []
    for unit in units:
        if lines and display_width(lines[-1] + unit.text) <= line_length:
            lines[-1] += unit.text
        else:
            lines.append(unit.text.strip())
    return lines


def display_width(text: str) -> int:
    """Columns that a text takes: 0 for combining marks and joiners, 2 for full-width characters, 1 for all others."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf") else
        2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )  # fmt: skip


def single_line(text: str) -> str:
    """A text on one line, without control characters, which would end cues or files in some formats."""
    return " ".join("".join(" " if unicodedata.category(char) == "Cc" else char for char in text).split())
