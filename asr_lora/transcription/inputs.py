"""Find the files that a user names as INPUT (files, folders, patterns, standard input), and name their transcripts."""

import glob
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from asr_lora.audio.ffmpeg import media_suffixes
from asr_lora.errors import AudioError, ConfigError

STDIN = "-"


@dataclass(frozen=True)
class Input:
    """One file to transcribe."""

    file: Path
    name: Path  # path of its outputs below the output folder, without their ending
    route: str | None = None  # name of the adapter that the user chose for it, as in talk.wav:cs

    @property
    def stdin(self) -> bool:
        return str(self.file) == STDIN


def find_inputs(named: Sequence[str | Path], *, written: bool, routes: Collection[str] = ()) -> list[Input]:
    """Find the files that are named, that match a pattern, or that lie in a folder and have an audio ending, sorted.

    A file in a folder keeps its relative path, so that two recordings of one name in two sub-folders do not collide.

    Args:
        written: whether transcripts are written, so that no two may have the same name.
        routes: names of adapters that may follow a colon.

    Raises:
        ConfigError: no file is named or found, or two files would have the same transcript.
    """
    found: list[Input] = []
    for place in named:
        path, _, route = str(place).rpartition(":")
        if path and route in routes and not os.path.exists(place):
            found += [replace(entry, route=route) for entry in _expand(path)]
        else:
            found += _expand(str(place))
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


def _expand(place: str) -> list[Input]:
    path = Path(place)
    if place == STDIN:
        return [Input(path, Path("stdin"))]
    if os.path.isdir(place):  # Path.is_dir raises where a name is too long
        known = media_suffixes()
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in known and file.is_file())
        if not files:
            raise ConfigError(f"{path} has no audio files that can be read (such as .wav, .flac, .ogg, .mp3)")
        return [Input(file, file.relative_to(path).parent / _stem(file)) for file in files]
    if not os.path.exists(place) and glob.has_magic(place):
        matches = [match for match in sorted(glob.glob(place, recursive=True)) if not Path(match).is_dir()]
        if not matches:
            raise ConfigError(f"no file matches {place}")
        return [Input(Path(match), Path(_stem(Path(match)))) for match in matches]
    return [Input(path, Path(_stem(path)))]


def _stem(file: Path) -> str:
    """The name of a file without its ending; all of it where only dots would be left, as of `..wav`."""
    return next((name for name in (file.stem, file.name) if name.strip(".")), "recording")


@contextmanager
def open_input(entry: Input) -> Iterator[Path]:
    """Give the path of a file; standard input is copied to a temporary file first, since most formats need to seek.

    Raises:
        AudioError: standard input is empty, a terminal or another device, which may never end.
    """
    if not entry.stdin:
        yield entry.file
        return
    if sys.stdin.isatty() or _is_device(sys.stdin):
        raise AudioError("not a file", "standard input is a terminal or a device: pipe audio into it: < recording.wav")
    with tempfile.NamedTemporaryFile(prefix="stdin-") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        if not file.tell():
            raise AudioError("empty file", "standard input is empty: pipe audio into it, such as < recording.wav")
        file.flush()
        yield Path(file.name)


def _is_device(stream: TextIO) -> bool:
    """Whether a stream comes from a device such as /dev/zero; /dev/null is empty."""
    try:
        state = os.fstat(stream.fileno())
    except OSError:  # no file of the system
        return False
    return stat.S_ISBLK(state.st_mode) or (stat.S_ISCHR(state.st_mode) and state.st_rdev != os.stat(os.devnull).st_rdev)
