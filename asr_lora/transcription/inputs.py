"""What a user names as INPUT (files, folders, patterns, standard input) -> files and names of their transcripts."""

import glob
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from asr_lora.audio.ffmpeg import media_suffixes
from asr_lora.errors import AudioError, ConfigError

STDIN = "-"


@dataclass(frozen=True)
class Input:
    """One file to transcribe."""

    file: Path
    name: Path  # of its outputs without their ending, below the folder where they go
    route: str | None = None  # that its name asks for, as in talk.wav:cs

    @property
    def stdin(self) -> bool:
        return str(self.file) == STDIN


def find_inputs(named: Sequence[str | Path], *, written: bool, routes: Collection[str] = ()) -> list[Input]:
    """Return the files named, those that patterns match, and under each folder all that has an ending of audio, sorted.

    What is in a folder keeps its place there, so that recordings of one name in two of its folders do not meet.

    Args:
        written: whether transcripts will be, so that no two may have one name.
        routes: names that may follow a colon.

    Raises:
        ConfigError: nothing is named or found, or two files would have one transcript.
    """
    found: list[Input] = []
    for place in named:
        path, _, route = str(place).rpartition(":")
        if path and route in routes and not Path(place).exists():
            found += [replace(entry, route=route) for entry in _of_one(path)]
        else:
            found += _of_one(str(place))
    if not found:
        raise ConfigError("name at least one audio file or folder")
    by_name: dict[Path, Input] = {}
    unique = {str(entry.file): entry for entry in found}
    for entry in unique.values():
        if written and (other := by_name.setdefault(entry.name, entry)) is not entry:
            raise ConfigError(
                f"{other.file} and {entry.file} would write one file: transcribe them to different folders"
            )
    return list(unique.values())


def _of_one(place: str) -> list[Input]:
    path = Path(place)
    if place == STDIN:
        return [Input(path, Path("stdin"))]
    if path.is_dir():
        known = media_suffixes()
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in known and file.is_file())
        if not files:
            raise ConfigError(f"{path} has no audio files that can be read (such as .wav, .flac, .ogg, .mp3)")
        return [Input(file, file.relative_to(path).with_suffix("")) for file in files]
    if not path.exists() and glob.has_magic(place):
        matches = [match for match in sorted(glob.glob(place, recursive=True)) if not Path(match).is_dir()]
        if not matches:
            raise ConfigError(f"no file matches {place}")
        return [Input(Path(match), Path(Path(match).stem)) for match in matches]
    return [Input(path, Path(path.stem))]


@contextmanager
def opened(entry: Input) -> Iterator[Path]:
    """The file itself; standard input is first written to one that is gone afterwards, since most formats need to seek.

    Raises:
        AudioError: standard input is empty.
    """
    if not entry.stdin:
        yield entry.file
        return
    with tempfile.NamedTemporaryFile(prefix="stdin-") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        if not file.tell():
            raise AudioError("empty file", "standard input is empty: pipe audio into it, such as < recording.wav")
        file.flush()
        yield Path(file.name)
