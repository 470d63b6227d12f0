"""Audio that libsndfile does not read (m4a, mp4, webm, …) -> blocks, through the ffmpeg program where there is one."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
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
}  # fmt: skip  # looked for in folders; a file that is named is tried whatever its ending
# Containers that hold their own sound. A playlist could name any other file of this machine, and is none of them.
DEMUXERS = (
    "aac,ac3,aiff,amr,asf,avi,caf,eac3,flac,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,mpegts,ogg,wav,w64"
)
BLOCK_BYTES = int(BLOCK_SECONDS * SAMPLE_RATE) * 4


def media_blocks(source: Path) -> Iterator[np.ndarray]:
    """Decode a file block by block: by libsndfile, and what that cannot read by the ffmpeg program.

    Yields:
        Samples, shape (samples,), float32, mono, 16 kHz, about 30 s at a time.

    Raises:
        AudioError: missing, empty, not audio, damaged, or in need of an ffmpeg that is not installed.
    """
    blocks = decode_blocks(source)
    try:
        first = next(blocks, None)
    except AudioError as error:
        if error.reason != "not audio":
            raise
        yield from _ffmpeg_blocks(source, error)
        return
    if first is not None:
        yield first
        yield from blocks


def media_suffixes() -> set[str]:
    """Lower-case endings of the files that are looked for in a folder."""
    return readable_suffixes() | (SUFFIXES if shutil.which("ffmpeg") else set())


def media_seconds(source: Path) -> float | None:
    """Length as the header has it; None where libsndfile does not read it, or it is not known without decoding."""
    try:
        info = soundfile.info(str(source))
    except (OSError, RuntimeError, ValueError):
        return None
    return info.frames / info.samplerate if 0 < info.frames < 2**62 else None


def _ffmpeg_blocks(source: Path, refused: AudioError) -> Iterator[np.ndarray]:
    program = shutil.which("ffmpeg")
    if program is None:
        raise AudioError(
            "no ffmpeg", f"{refused}; m4a, mp4, webm and the like need the ffmpeg program: apt install ffmpeg"
        ) from refused
    command = [
        program, "-nostdin", "-v", "error", "-protocol_whitelist", "file,pipe", "-format_whitelist", DEMUXERS,
        "-i", f"file:{source}", "-map", "0:a:0", "-ac", "1", "-ar", str(SAMPLE_RATE), "-f", "f32le", "pipe:1",
    ]  # fmt: skip
    with tempfile.TemporaryFile() as said, _running(command, said) as process:
        assert process.stdout is not None
        rest = b""
        while data := process.stdout.read(BLOCK_BYTES):
            data = rest + data
            whole = len(data) // 4 * 4
            yield np.nan_to_num(np.frombuffer(data[:whole], "<f4").astype(np.float32))
            rest = data[whole:]
        if process.wait():
            said.seek(0)
            lines = said.read(10_000).decode("utf-8", "replace").strip().splitlines() or ["it says nothing"]
            raise AudioError("not audio", f"{source} cannot be decoded (ffmpeg: {lines[-1].strip()})")


@contextmanager
def _running(command: list[str], said: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    """A program that is stopped when nobody wants the rest."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
