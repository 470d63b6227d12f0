"""Decode audio that libsndfile cannot read (m4a, mp4, webm, …) with the ffmpeg program, where it is installed."""

import math
import os
import resource
import select
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import soundfile

from asr_lora.audio.decode import BLOCK_SECONDS, SAMPLE_RATE, decode_blocks, readable_suffixes
from asr_lora.errors import AudioError

SUFFIXES = {
    ".3gp", ".aac", ".ac3", ".amr", ".asf", ".avi", ".flv", ".m4a", ".m4b", ".m4v", ".mka", ".mkv", ".mov", ".mp4",
    ".mpeg", ".mpg", ".mts", ".webm", ".wma", ".wmv",
}  # fmt: skip  # endings that are searched for in folders; a file that the user names is decoded whatever its ending
# Only containers that hold their own sound are allowed: a playlist could name any other file of this machine.
DEMUXERS = (
    "aac,ac3,aiff,amr,asf,avi,caf,eac3,flac,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,mpegts,ogg,wav,w64"
)
BLOCK_BYTES = int(BLOCK_SECONDS * SAMPLE_RATE) * 4
POLL_SECONDS = 0.2  # between two calls of `check`
MAX_IDLE_POLLS = 150  # without a sample, 30 s, after which ffmpeg is stopped
BOUNDS = {  # resources that ffmpeg may use, whatever a file makes it do
    resource.RLIMIT_AS: 2 * 2**30,  # bytes of memory
    resource.RLIMIT_FSIZE: 2**24,  # bytes of error messages
    resource.RLIMIT_CPU: 3600,  # seconds, in case this process dies and cannot stop it
}


def media_blocks(source: Path, *, check: Callable[[], None] | None = None) -> Generator[np.ndarray]:
    """Decode a file block by block, with libsndfile or, where that cannot read it, with ffmpeg.

    Args:
        check: is called while ffmpeg works; an exception that it raises stops ffmpeg.

    Yields:
        Samples, shape (samples,), float32, mono, 16 kHz, at most about 30 s at a time.

    Raises:
        AudioError: the file is missing, empty, damaged or not audio, or needs ffmpeg, which is not installed.
    """
    blocks = decode_blocks(source)
    try:
        first = next(blocks, None)
    except AudioError as error:
        if error.reason != "not audio":
            raise
        yield from _ffmpeg_blocks(source, error, check)
        return
    if first is not None:
        yield first
        yield from blocks


class AudioBlocks:
    """Decode a file with `media_blocks`, and count the seconds that have been decoded, and their highest peak.

    Raises, while it is iterated:
        AudioError: as for `media_blocks`, or the file decodes to no samples or to more than `max_seconds`.
    """

    def __init__(
        self, source: Path, *, name: str = "", max_seconds: float = math.inf, check: Callable[[], None] | None = None
    ) -> None:
        """Open nothing yet; `name` is used in error messages, and an exception that `check` raises ends decoding."""
        self.name = name or str(source)
        self.max_seconds = max_seconds
        self.check = check
        self.blocks = media_blocks(source, check=check)
        self.seconds = 0.0
        self.peak = 0.0

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in self.blocks:
            if self.check is not None:
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


def media_suffixes() -> set[str]:
    """Lower-case endings of the files that are searched for in folders."""
    return readable_suffixes() | (SUFFIXES if shutil.which("ffmpeg") else set())


def media_names() -> list[str]:
    """Names of the common formats that can be decoded on this machine."""
    return ["WAV", "FLAC", "OGG", "Opus", "MP3", *(["M4A", "MP4", "WebM"] if shutil.which("ffmpeg") else [])]


def media_seconds(source: Path) -> float | None:
    """Length that the header states; None where libsndfile cannot read the file, or its header states no length."""
    try:
        info = soundfile.info(str(source))
    except (OSError, RuntimeError, ValueError):
        return None
    return info.frames / info.samplerate if 0 < info.frames < 2**62 else None


def _ffmpeg_blocks(source: Path, refused: AudioError, check: Callable[[], None] | None) -> Iterator[np.ndarray]:
    program = shutil.which("ffmpeg")
    if program is None:
        raise AudioError(
            "no ffmpeg", f"{refused}; m4a, mp4, webm and the like need the ffmpeg program: apt install ffmpeg"
        ) from refused
    command = [
        program, "-nostdin", "-v", "error", "-protocol_whitelist", "file,pipe", "-format_whitelist", DEMUXERS,
        "-threads", "1", "-i", "file:/dev/stdin", "-map", "0:a:0", "-ac", "1", "-ar", str(SAMPLE_RATE),
        "-f", "f32le", "pipe:1",
    ]  # fmt: skip
    with source.open("rb") as file, tempfile.TemporaryFile() as log, _running(command, file, log) as process:
        rest = b""
        for written in _output(process, source, check):
            data = rest + written
            whole = len(data) // 4 * 4
            yield np.nan_to_num(np.frombuffer(data[:whole], "<f4").astype(np.float32))
            rest = data[whole:]
        if process.wait():
            log.seek(0)
            lines = log.read(10_000).decode("utf-8", "replace").strip().splitlines() or ["no error message"]
            raise AudioError("not audio", f"{source} cannot be decoded (ffmpeg: {lines[-1].strip()})")


def _output(process: "subprocess.Popen[bytes]", source: Path, check: Callable[[], None] | None) -> Iterator[bytes]:
    """Yield the output of a program in blocks.

    Raises:
        AudioError: the program writes nothing for 30 s.
    """
    assert process.stdout is not None
    output = select.poll()  # unlike select.select, it takes file descriptors above 1,023
    output.register(process.stdout, select.POLLIN)
    block, idle = bytearray(), 0
    while True:
        if check is not None:
            check()
        if not output.poll(1000 * POLL_SECONDS):
            idle += 1
            if idle == MAX_IDLE_POLLS:
                raise AudioError("not audio", f"{source} cannot be decoded (ffmpeg is stuck)")
            continue
        idle = 0
        data = os.read(process.stdout.fileno(), BLOCK_BYTES)
        block += data
        if block and (not data or len(block) >= BLOCK_BYTES):
            yield bytes(block)
            block.clear()
        if not data:
            return


@contextmanager
def _running(command: list[str], file: IO[bytes], log: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program within `BOUNDS`, and stop it when the context ends."""
    process = subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=log)
    try:
        if hasattr(resource, "prlimit"):  # Linux
            for what, most in BOUNDS.items():
                resource.prlimit(process.pid, what, (most, most))
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
