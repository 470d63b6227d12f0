"""What others call the columns and splits of their tables, and the utterance that a row of one is."""

import math
import re
from collections.abc import Mapping
from typing import Any

from asr_lora.sources.interface import GENDERS, SPLIT_HERE, Utterance

TEXT_COLUMNS = ("text", "sentence", "transcription", "transcript", "raw_transcription", "normalized_text")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id", "spk", "spk_id")
ID_COLUMNS = ("id", "utt_id", "utterance_id", "utt")
ACCENT_COLUMNS = ("accent", "accents")
DOMAIN_COLUMNS = ("domain", "sentence_domain")
SPLIT_NAMES = {"train": "train", "training": "train", "dev": "dev", "validation": "dev", "valid": "dev", "val": "dev",
               "test": "test", "testing": "test"}  # fmt: skip


def find_text(row: Mapping[str, Any], text_column: str | None) -> str | None:
    """The text of a row, from the column that was named or else from the first that has one; None: it has none."""
    text = first(row, (text_column,) if text_column else TEXT_COLUMNS)
    return text if isinstance(text, str) else None


def utterance_of(row: Mapping[str, Any], *, name: str, recording: str, text: str, split: str, **cut: Any) -> Utterance:
    """The utterance that a row describes, with what the row says of who speaks, and of what.

    Args:
        name: its id.
        recording: its recording.
        cut: start and seconds, where it is a stretch of the recording.
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
    """The value of the first of `names` that a row has; None where it has none of them."""
    return next((row[name] for name in names if name in row and row[name] is not None), None)


def as_seconds(value: Any, least: float = 0.0) -> float:
    """A time in seconds.

    Raises:
        TypeError, ValueError, OverflowError: it is none, or below `least`.
    """
    number = float(value)
    if isinstance(value, bool) or not math.isfinite(number) or number < least:
        raise ValueError(f"{value!r} is no time")
    return number


def split_of(name: str) -> str:
    """The split that the name of a file or folder tells, such as validation-00000-of-00002.parquet."""
    words = re.split(r"[-_. ]", name.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), SPLIT_HERE)
