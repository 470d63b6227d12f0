"""Recall of named terms: of the names and words that a user lists, how many are heard where they are spoken."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asr_lora.errors import ConfigError, DataError
from asr_lora.metrics.intervals import Sums, rate_of
from asr_lora.metrics.normalize import Normaliser
from asr_lora.metrics.wer import Scored


@dataclass(frozen=True)
class Hotword:
    """A term as the user wrote it, and after the normaliser."""

    written: str
    clean: str


def read_hotwords(path: Path, normaliser: Normaliser) -> list[Hotword]:
    """Read one term a line, UTF-8; empty lines and those that begin with # are comments.

    Raises:
        ConfigError: there is no term in the file, or nothing is left of one after the normaliser.
        DataError: the file is missing or cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise DataError(f"the terms in {path} cannot be read ({error}): give a text file, one term a line") from error
    found: dict[str, Hotword] = {}
    for number, line in enumerate(lines, 1):
        written = line.strip()
        if not written or written.startswith("#"):
            continue
        clean = normaliser.clean(written).strip()
        if not clean:
            raise ConfigError(f"{path}, line {number}: nothing is left of {written!r} after {normaliser.label}")
        found.setdefault(clean, Hotword(written, clean))
    if not found:
        raise ConfigError(f"{path} holds no terms: write one a line")
    return list(found.values())


def occurrences(text: str, term: str, *, characters: bool) -> int:
    """How often a term stands in a text: as whole words, or anywhere where a script puts no blanks between words."""
    if characters:
        return text.replace(" ", "").count(term.replace(" ", ""))
    words, wanted = text.split(), term.split()
    return sum(words[start : start + len(wanted)] == wanted for start in range(len(words) - len(wanted) + 1))


@dataclass(frozen=True)
class HotwordCounts:
    """Occurrences of each term in each utterance, all (terms, utterances)."""

    spoken: np.ndarray
    heard: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """Occurrences that are both spoken and heard in an utterance."""
        return np.asarray(np.minimum(self.spoken, self.heard))


def count_hotwords(terms: Sequence[Hotword], scored: Scored, *, characters: bool) -> HotwordCounts:
    spoken, heard = (
        np.asarray([[occurrences(text, term.clean, characters=characters) for text in texts] for term in terms])
        for texts in (scored.references, scored.hypotheses)
    )
    return HotwordCounts(spoken, heard)


def hotword_recall(terms: Sequence[Hotword], counts: HotwordCounts, found: Sums, spoken: Sums) -> dict[str, Any]:
    """Recall over all terms with its interval, and the counts of each; `found` and `spoken` are summed over terms."""
    heard = int(counts.heard.sum())
    return {
        "terms": len(terms),
        "spoken": int(spoken.total),
        "found": int(found.total),
        "heard": heard,
        "recall": asdict(rate_of(found, spoken)) if spoken.total else None,
        "precision": int(found.total) / heard if heard else None,
        "each": [
            {
                "term": term.written,
                "spoken": int(counts.spoken[place].sum()),
                "found": int(counts.found[place].sum()),
                "heard": int(counts.heard[place].sum()),
            }
            for place, term in enumerate(terms)
        ],
    }
