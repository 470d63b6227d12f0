"""The one door to sound: decode any recording to float32 samples, one channel, 16 kHz.

libsndfile decodes what it can; ffmpeg, where it is installed, the rest, also where libsndfile fails on the way. Whoever
is asked gives all of a recording or an error, and no part of it without a word.
"""

import io
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import soundfile

from asr_lora.audio.ffmpeg import ffmpeg_blocks
from asr_lora.audio.samples import SAMPLE_RATE, SCALED, SILENCE_PEAK, Notice, full_scale
from asr_lora.audio.sndfile import (
    MISSING_SECONDS,
    readable_suffixes,
    require_complete,
    sndfile_blocks,
    stated_seconds,
)
from asr_lora.audio.streams import Layout, Stream, copy_stream, layout_of
from asr_lora.errors import AudioError

__all__ = [
    "SAMPLE_RATE", "SILENCE_PEAK", "AudioBlocks", "decode", "decode_blocks", "encode_flac", "media_seconds",
    "readable_suffixes",
]  # fmt: skip

Check = Callable[[], None]  # is called while work is done; an exception that it raises ends the work
MOST_NESTED = 2  # a stream in a joined file may have a header to mend
LOUDEST = 1.6  # times full scale, 4 dB: lossy codecs overshoot so far, and what they overshoot is clipped


def _nothing(*_: object) -> None:
    pass


def decode(
    source: Path | bytes,
    *,
    max_seconds: float | None = None,
    start: float = 0.0,
    seconds: float | None = None,
    notice: Notice = _nothing,
) -> np.ndarray:
    """Decode a recording, or a stretch of it.

    Args:
        source: a path, or the content of a file.
        max_seconds: longest audio accepted.
        start: where the stretch begins, in seconds.
        seconds: length of the stretch. None decodes to the end.
        notice: is told where samples were scaled or a channel was left out.

    Returns:
        Samples, shape (samples,), float32 in about [-1, 1], mono, 16 kHz.

    Raises:
        AudioError: the file is missing, empty or not audio, decodes to no samples, or is longer than `max_seconds`; or
            the stretch ends more than 0.1 s past the end of the recording. The length is checked while decoding, so
            that a small file that decodes to hours costs no memory.
    """
    blocks, samples = [], 0
    for block in decode_blocks(source, start=start, seconds=seconds, notice=notice):
        blocks.append(block)
        samples += len(block)
        if max_seconds is not None and samples > max_seconds * SAMPLE_RATE:
            raise AudioError("too long", f"{source_name(source)} is longer than {max_seconds:g} s")
    if not samples:
        raise AudioError("no audio", f"{source_name(source)} decodes to no samples")
    if seconds is not None and samples / SAMPLE_RATE < seconds - MISSING_SECONDS:
        raise AudioError("stretch ends past its recording", f"{source_name(source)} ends {samples / SAMPLE_RATE:.2f} s "
                         f"after {start:.2f} s, and {seconds:.2f} s of it are listed")  # fmt: skip
    waveform = np.concatenate(blocks)
    if (peak := float(max(waveform.max(), -waveform.min()))) > LOUDEST:
        notice(SCALED)
        waveform /= np.float32(full_scale(peak, integers=False))
    return waveform


def decode_blocks(
    source: Path | bytes,
    *,
    start: float = 0.0,
    seconds: float | None = None,
    check: Check = _nothing,
    notice: Notice = _nothing,
) -> Generator[np.ndarray]:
    """Decode and resample block by block, so that memory stays bounded whatever the length, rate and channels.

    Yields:
        Samples, shape (samples,), float32, mono, 16 kHz, at most about 30 s at a time.

    Raises:
        AudioError: the file is missing, empty, damaged or not audio, or needs ffmpeg, which is not installed.
    """
    name = source_name(source)
    with _opened(source) as file:
        yield from _file_blocks(file, name, start, seconds, check, notice)


@contextmanager
def _opened(source: Path | bytes) -> Iterator[IO[bytes]]:
    """Open a regular file, or a file in memory with the content.

    libsndfile would read a BytesIO through callbacks into Python, which swallow Ctrl-C. A pipe or a device may never
    end, and to open it may wait for ever.

    Raises:
        AudioError: the file is missing, empty, unreadable, or no regular file.
    """
    if isinstance(source, bytes):
        if not source:
            raise AudioError("empty file", "the audio is empty")
        memory = hasattr(os, "memfd_create")  # Linux
        with os.fdopen(os.memfd_create("audio"), "w+b") if memory else tempfile.TemporaryFile() as content:
            content.write(source)
            content.flush()
            yield content
        return
    try:
        mode = source.stat().st_mode
        regular = stat.S_ISREG(mode)
        handle = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC) if regular else None
    except (FileNotFoundError, NotADirectoryError) as error:
        raise AudioError("missing", f"{source} does not exist") from error
    except OSError as error:  # the name is too long, or it may not be read
        raise AudioError("unreadable", f"{source} cannot be opened ({error.strerror})") from error
    if handle is None:
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise AudioError("not a file", f"{source} is {kind} and no file: write the audio to a file first")
    with os.fdopen(handle, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise AudioError("empty file", f"{source} is empty")
        yield file


def _file_blocks(
    file: IO[bytes], name: str, start: float, seconds: float | None, check: Check, notice: Notice, nested: int = 0
) -> Iterator[np.ndarray]:
    layout = layout_of(file, name)
    if not layout.streams or nested == MOST_NESTED:
        yield from _single(file, name, start, seconds, check, notice, layout)
        return
    yield from _cut(_stream_blocks(file, name, layout.streams, check, notice, nested), start, seconds)


def _stream_blocks(
    file: IO[bytes], name: str, streams: Iterable[Stream], check: Check, notice: Notice, nested: int
) -> Generator[np.ndarray]:
    """Decode the streams of a file one after another, each from a file of its own without a name."""
    for stream in streams:
        with tempfile.TemporaryFile(prefix="asr_lora-") as own:
            for _ in copy_stream(file, stream, own):
                check()
            yield from _file_blocks(own, name, 0.0, None, check, notice, nested + 1)


def _cut(blocks: Generator[np.ndarray], start: float, seconds: float | None) -> Generator[np.ndarray]:
    """Yield the samples of a stretch, and close what decodes them: an exception's traceback would keep ffmpeg alive."""
    skip = round(start * SAMPLE_RATE)
    left = math.inf if seconds is None else max(1, round(seconds * SAMPLE_RATE))
    with closing(blocks):
        for block in blocks:
            piece = block[skip : skip + int(min(left, len(block)))]
            skip = max(0, skip - len(block))
            left -= len(piece)
            if len(piece):
                yield piece
            if left <= 0:
                return


def _single(
    file: IO[bytes], name: str, start: float, seconds: float | None, check: Check, notice: Notice, layout: Layout
) -> Iterator[np.ndarray]:
    """Decode a single stream with libsndfile, and go on with ffmpeg where libsndfile does not."""
    came, more = 0, 0
    try:
        known = layout.length_stated
        for block in sndfile_blocks(file, name, notice, start=start, seconds=seconds, length_stated=known):
            came += len(block)
            yield block
        return
    except AudioError as error:
        if error.reason not in ("not audio", "incomplete"):
            raise
        refused = error
    if refused.reason == "incomplete" and not shutil.which("ffmpeg"):
        raise refused
    begin = start if layout.timed else 0.0
    blocks = ffmpeg_blocks(file, name, refused, check, notice, start=begin)
    rest = None if seconds is None else seconds - came / SAMPLE_RATE
    with closing(_cut(blocks, start - begin + came / SAMPLE_RATE, rest)) as wanted:
        for block in wanted:
            more += len(block)
            yield block
    if layout.length_stated and seconds is None:
        require_complete(name, start + (came + more) / SAMPLE_RATE, stated_seconds(file))


class AudioBlocks:
    """Decode a file with `decode_blocks`, and count the seconds that have been decoded, and their highest peak.

    Raises, while it is iterated:
        AudioError: as for `decode_blocks`, or the file decodes to no samples or to more than `max_seconds`.
    """

    def __init__(
        self, source: Path, *, name: str = "", max_seconds: float = math.inf, check: Check | None = None
    ) -> None:
        """Open nothing yet; `name` is used in error messages, and an exception that `check` raises ends decoding."""
        self.name = name or str(source)
        self.max_seconds = max_seconds
        self.check = check or _nothing
        self.notices: dict[str, None] = {}  # what decoding changed, in the order in which it was noticed
        self.blocks = decode_blocks(source, check=self.check, notice=self._note)
        self.seconds = 0.0
        self.peak = 0.0

    def _note(self, notice: str) -> None:
        self.notices[notice] = None

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in self.blocks:
            self.check()
            self.seconds += len(block) / SAMPLE_RATE
            self.peak = max(self.peak, float(np.abs(block).max(initial=0.0)))
            if self.seconds > self.max_seconds:
                raise AudioError("too long", f"{self.name} is longer than {self.max_seconds:g} s")
            yield block
        if not self.seconds:
            raise AudioError("no audio", f"{self.name} decodes to no samples")

    def close(self) -> None:
        """Close the file, which an exception's traceback would keep open."""
        self.blocks.close()


def media_seconds(source: Path) -> float | None:
    """Length that the header of a file states; None where it states none, or libsndfile cannot read the file."""
    try:
        with _opened(source) as file:
            return stated_seconds(file)
    except AudioError:
        return None


def encode_flac(waveform: np.ndarray) -> bytes:
    """Encode samples, shape (samples,), 16 kHz mono, as 16-bit FLAC."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(waveform, -1.0, 1.0), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def source_name(source: Path | bytes) -> str:
    """How an error message names the audio."""
    return f"audio of {len(source)} bytes" if isinstance(source, bytes) else str(source)
