"""Find the columns of tables by their usual names, and make utterances of their rows."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from asr_lora.errors import DataError
from asr_lora.sources.interface import GENDERS, OTHER, SPLIT_HERE, Utterance

AUDIO_COLUMNS = ("audio_filepath", "audio", "file_name", "path", "audio_path", "wav", "file", "filename", "wav_path",
                 "wav_filename", "audio_file", "wav_file", "file_path", "filepath")  # fmt: skip
TEXT_COLUMNS = ("text", "sentence", "transcription", "transcript", "raw_transcription", "normalized_text", "wrd",
                "words")  # fmt: skip
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id", "spk", "spk_id", "speaker_name")
ID_COLUMNS = ("id", "utt_id", "utterance_id", "utt")
ACCENT_COLUMNS = ("accents", "accent")
DOMAIN_COLUMNS = ("domain", "sentence_domain")
UTTERANCE_COLUMNS = (*ID_COLUMNS, *TEXT_COLUMNS, *SPEAKER_COLUMNS, "gender", "age", *ACCENT_COLUMNS, *DOMAIN_COLUMNS)
SPLIT_NAMES = {"train": "train", "training": "train", "dev": "dev", "validation": "dev", "valid": "dev", "val": "dev",
               "test": "test", "testing": "test", "eval": "test", "evaluation": "test"}  # fmt: skip
SHOWN_LETTERS = 300  # of a list of names in a message

Row = dict[str, Any]  # a row of a table that others have written: column -> value


def find_text(row: Mapping[str, Any], text_column: str | None) -> str | None:
    """Return the text of a row from `text_column`, or from the first usual column that has one; None without any."""
    text = first(row, (plain_name(text_column),) if text_column else TEXT_COLUMNS)
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


def plain_name(column: object) -> str:
    """Return the name of a column as it is looked up: without blanks around it, in lower case."""
    return str(column).strip().lower()


def require_columns(place: object, columns: Iterable[object], text_column: str | None, *, audio: bool = True) -> None:
    """Check that a table has columns of audio and of text, since without them every row would be left out.

    Raises:
        DataError: it does not, or has one of them twice. The message shows the columns that there are.
    """
    listed = [plain_name(column) for column in columns]
    texts = (plain_name(text_column),) if text_column else TEXT_COLUMNS
    for kind, known in (("audio", AUDIO_COLUMNS), ("text", texts)) if audio else (("text", texts),):
        if not set(known) & set(listed):
            hint = ". Name its column with --text-column" if kind == "text" and not text_column else ""
            raise DataError(f"{place} has no column of {kind} ({', '.join(known)}); it has {shown_names(listed)}{hint}")
        if twice := [name for name in known if listed.count(name) > 1]:
            raise DataError(f"{place} has the column {twice[0]} twice: give one of them another name")


def shown_names(names: Iterable[object]) -> str:
    """List names that others wrote in a message: not too many, and without characters that a terminal would obey."""
    listed = ", ".join(str(name) for name in names)
    plain = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in listed)
    return f"{plain[:SHOWN_LETTERS]}..." if len(plain) > SHOWN_LETTERS else plain or "nothing"


def split_of(name: str) -> str:
    """Return the split in the name of a file or folder, such as dev for validation-00000-of-00002.parquet.

    Where a name has several, dev goes before test and test before train: ESPnet's train_dev is taken from train to be
    dev, and Kaldi's test_dev93 is a dev.
    """
    words = {word.rstrip("0123456789") for word in re.split(r"[^a-z0-9]+", name.lower())}
    found = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    return next((split for split in ("dev", "test", "train") if split in found), SPLIT_HERE)


def split_of_folders(parts: Iterable[str]) -> str:
    """Return the split that the folders of a path name: that of the first folder which names one."""
    return next((split for part in parts if (split := split_of(part))), SPLIT_HERE)


def splits_of_files(named: Sequence[str]) -> list[str]:
    """Return the splits of files by those in their names: OTHER for one without, where others have one."""
    return [split or OTHER for split in named] if any(named) else [SPLIT_HERE] * len(named)
