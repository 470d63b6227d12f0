"""Read a folder of recordings, each with its text in a .txt file of the same name."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from asr_lora.audio.decode import readable_suffixes
from asr_lora.folders.digests import fingerprint
from asr_lora.sources.columns import split_of_folders
from asr_lora.sources.interface import (
    BadRow,
    SourceAtPath,
    Utterance,
    files_digest,
    macos_files,
    safe_id,
)
from asr_lora.sources.lines import decoded_text

MAX_TEXT_BYTES = 1 << 16  # a longer text is no text of one utterance


@dataclass(frozen=True)
class AudioTextPairs(SourceAtPath):
    """A folder of recordings, each with its text in a .txt file of the same name beside it."""

    def digest(self) -> str:
        return fingerprint(files_digest((str(path.relative_to(self.home)), _stamp(path)) for path in walk(self.home)))

    def rows(self) -> Iterator[Utterance | BadRow]:
        suffixes = readable_suffixes()
        for path in walk(self.home):
            relative = path.relative_to(self.home)
            split = split_of_folders(relative.parts[:-1])
            if path.suffix.lower() == ".txt":
                if not any(path.with_suffix(suffix).is_file() for suffix in suffixes | {s.upper() for s in suffixes}):
                    yield BadRow(str(relative), "no audio beside the text", split)
            elif path.suffix.lower() in suffixes:
                yield _utterance(path, relative, split)
        yield from macos_files(self.home)


def _utterance(path: Path, relative: Path, split: str) -> Utterance | BadRow:
    if not path.with_suffix(".txt").is_file():  # a pipe would be waited for
        return BadRow(str(relative), "no text beside the audio", split)
    try:
        with path.with_suffix(".txt").open("rb") as handle:
            text = handle.read(MAX_TEXT_BYTES + 1)
        if len(text) > MAX_TEXT_BYTES:
            return BadRow(str(relative), "text is too long for one utterance", split)
        words = " ".join(decoded_text(text).split())
    except UnicodeDecodeError:
        return BadRow(str(relative), "text is not UTF-8", split)
    return Utterance(id=safe_id(str(relative.with_suffix(""))), recording=str(relative), text=words, split=split)


def walk(folder: Path) -> Iterator[Path]:
    """Yield all files under a folder that are not hidden, in the order of their names."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(place, name)


def _stamp(path: Path) -> int:
    facts = path.stat()
    return facts.st_size if path.suffix.lower() != ".txt" else facts.st_size ^ facts.st_mtime_ns


def holds_audio_text_pairs(folder: Path) -> bool:
    """Whether a folder has at least one recording with a text beside it."""
    suffixes = readable_suffixes()
    return any(path.suffix.lower() in suffixes and path.with_suffix(".txt").is_file() for path in walk(folder))
