"""Compute the recall of hotwords: how many of the names and words that a user lists are transcribed where spoken."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asr_lora.errors import ConfigError, DataError
from asr_lora.metrics.intervals import Interval, Sums, rate_of
from asr_lora.metrics.normalize import Normaliser
from asr_lora.metrics.wer import Scored


@dataclass(frozen=True)
class Hotword:
    """A hotword as the user wrote it, and after the normaliser."""

    written: str
    clean: str


@dataclass(frozen=True)
class HotwordCounts:
    """Occurrences of each hotword in each reference and each hypothesis, both (hotwords, utterances)."""

    spoken: np.ndarray
    transcribed: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """Occurrences that are both in the reference and in the hypothesis of an utterance."""
        return np.asarray(np.minimum(self.spoken, self.transcribed))


@dataclass(frozen=True)
class OneHotword:
    """Occurrences of one hotword over all utterances: in references, in both, in hypotheses."""

    term: str  # as the user wrote it
    spoken: int
    found: int
    heard: int


@dataclass(frozen=True)
class HotwordRecall:
    """Recall and precision over all hotwords, and the counts of each."""

    terms: int  # number of hotwords
    spoken: int
    found: int
    heard: int
    recall: Interval | None  # None: no hotword is in the references
    precision: float | None  # None: no hotword is in the hypotheses
    each: list[OneHotword] | None  # None: withheld, together with all other words


def read_hotwords(path: Path, normaliser: Normaliser) -> list[Hotword]:
    """Read one hotword a line, UTF-8. Empty lines and lines that begin with # are left out.

    Raises:
        ConfigError: the file holds no hotword, or the normaliser leaves nothing of one.
        DataError: the file is missing or cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise DataError(f"the hotwords in {path} cannot be read ({error}): give a text file, one a line") from error
    found: dict[str, Hotword] = {}
    for number, line in enumerate(lines, 1):
        written = line.strip()
        if not written or written.startswith("#"):
            continue
        clean = normaliser.clean(written).strip()
        if not clean:
            raise ConfigError(f"{path}, line {number}: the normaliser {normaliser.label} leaves nothing of {written!r}")
        found.setdefault(clean, Hotword(written, clean))
    if not found:
        raise ConfigError(f"{path} holds no hotwords: write one a line")
    return list(found.values())


def occurrences(text: str, hotword: str, *, characters: bool) -> int:
    """Count a hotword in a text: as whole words, or as a substring where a script puts no blanks between words."""
    if characters:
        return text.replace(" ", "").count(hotword.replace(" ", ""))
    words, wanted = text.split(), hotword.split()
    return sum(words[start : start + len(wanted)] == wanted for start in range(len(words) - len(wanted) + 1))


def count_hotwords(hotwords: Sequence[Hotword], scored: Scored, *, characters: bool) -> HotwordCounts:
    spoken, transcribed = (
        np.asarray([[occurrences(text, one.clean, characters=characters) for text in texts] for one in hotwords])
        for texts in (scored.references, scored.hypotheses)
    )
    return HotwordCounts(spoken, transcribed)


def hotword_recall(hotwords: Sequence[Hotword], counts: HotwordCounts, found: Sums, spoken: Sums) -> HotwordRecall:
    """Compute recall with its interval, and precision; `found` and `spoken` are summed over the hotwords."""
    spoken_each, found_each, transcribed_each = (
        occurrences_each.sum(axis=1).tolist() for occurrences_each in (counts.spoken, counts.found, counts.transcribed)
    )
    transcribed = sum(transcribed_each)
    written = [one.written for one in hotwords]
    return HotwordRecall(
        terms=len(hotwords),
        spoken=int(spoken.total),
        found=int(found.total),
        heard=transcribed,
        recall=rate_of(found, spoken) if spoken.total else None,
        precision=int(found.total) / transcribed if transcribed else None,
        each=[OneHotword(*row) for row in zip(written, spoken_each, found_each, transcribed_each, strict=True)],
    )
