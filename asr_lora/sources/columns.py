"""Find the columns of tables by their usual names, and make utterances of their rows."""

import math
import re
from collections.abc import Mapping
from typing import Any

from asr_lora.sources.interface import GENDERS, SPLIT_HERE, Utterance

TEXT_COLUMNS = ("text", "sentence", "transcription", "transcript", "raw_transcription", "normalized_text")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id", "spk", "spk_id")
ID_COLUMNS = ("id", "utt_id", "utterance_id", "utt")
ACCENT_COLUMNS = ("accents", "accent")
DOMAIN_COLUMNS = ("domain", "sentence_domain")
SPLIT_NAMES = {"train": "train", "training": "train", "dev": "dev", "validation": "dev", "valid": "dev", "val": "dev",
               "test": "test", "testing": "test"}  # fmt: skip


Row = dict[str, Any]  # a row of a table that others have written: column -> value


def find_text(row: Mapping[str, Any], text_column: str | None) -> str | None:
    """Return the text of a row from `text_column`, or from the first usual column that has one; None without any."""
    text = first(row, (text_column,) if text_column else TEXT_COLUMNS)
    return text if isinstance(text, str) else None


def utterance_of(row: Mapping[str, Any], *, name: str, recording: str, text: str, split: str, **cut: Any) -> Utterance:
    """Make the utterance of a row, with speaker, gender, age, accent and domain where the row has them.

    Args:
        name: id of the utterance.
        recording: name of its recording.
        cut: start and seconds, where the utterance is part of the recording.
    """
    return Utterance(
        id=name,
        recording=recording,
        text=" ".join(text.split()),
        speaker=_plain(first(row, SPEAKER_COLUMNS)),
        split=split,
        gender=GENDERS.get(str(row.get("gender", "")).lower(), ""),
        age=_plain(row.get("age")),
        accent=_plain(first(row, ACCENT_COLUMNS)),
        domain=_plain(first(row, DOMAIN_COLUMNS)),
        **cut,
    )


def _plain(value: object) -> str:
    return str(value) if isinstance(value, str | int | float) else ""


def first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Return the value of the first column of `names` that has one, or None."""
    return next((row[name] for name in names if name in row and row[name] is not None), None)


def as_seconds(value: Any, least: float = 0.0) -> float:
    """Return a time in seconds.

    Raises:
        TypeError, ValueError, OverflowError: the value is no finite number, or is below `least`.
    """
    number = float(value)
    if isinstance(value, bool) or not math.isfinite(number) or number < least:
        raise ValueError(f"{value!r} is no time")
    return number


def split_of(name: str) -> str:
    """Return the split in the name of a file or folder, such as dev for validation-00000-of-00002.parquet."""
    words = re.split(r"[-_. ]", name.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), SPLIT_HERE)
