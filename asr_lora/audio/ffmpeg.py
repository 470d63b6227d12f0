"""Audio that libsndfile does not read (m4a, mp4, webm, …) -> blocks, through the ffmpeg program where there is one."""

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
}  # fmt: skip  # looked for in folders; a file that is named is tried whatever its ending
# Containers that hold their own sound. A playlist could name any other file of this machine, and is none of them.
DEMUXERS = (
    "aac,ac3,aiff,amr,asf,avi,caf,eac3,flac,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,mpegts,ogg,wav,w64"
)
BLOCK_BYTES = int(BLOCK_SECONDS * SAMPLE_RATE) * 4
LOOK_SECONDS = 0.2  # between two looks at whether the rest is still wanted
PATIENCE = 150  # looks without a sample, 30 s, after which ffmpeg is given up
BOUNDS = {  # of ffmpeg, whatever a file makes it do
    resource.RLIMIT_AS: 2 * 2**30,  # bytes of memory
    resource.RLIMIT_FSIZE: 2**24,  # bytes of complaints
    resource.RLIMIT_CPU: 3600,  # seconds, should nobody be left to stop it
}


def media_blocks(source: Path, *, look: Callable[[], None] | None = None) -> Generator[np.ndarray]:
    """Decode a file block by block: by libsndfile, and what that cannot read by the ffmpeg program.

    Args:
        look: called while ffmpeg is waited for; what it raises ends the program.

    Yields:
        Samples, shape (samples,), float32, mono, 16 kHz, at most about 30 s at a time.

    Raises:
        AudioError: missing, empty, not audio, damaged, or in need of an ffmpeg that is not installed.
    """
    blocks = decode_blocks(source)
    try:
        first = next(blocks, None)
    except AudioError as error:
        if error.reason != "not audio":
            raise
        yield from _ffmpeg_blocks(source, error, look)
        return
    if first is not None:
        yield first
        yield from blocks


def media_suffixes() -> set[str]:
    """Lower-case endings of the files that are looked for in a folder."""
    return readable_suffixes() | (SUFFIXES if shutil.which("ffmpeg") else set())


def media_names() -> list[str]:
    """What people call the usual formats that can be read here."""
    return ["WAV", "FLAC", "OGG", "Opus", "MP3", *(["M4A", "MP4", "WebM"] if shutil.which("ffmpeg") else [])]


def media_seconds(source: Path) -> float | None:
    """Length as the header has it; None where libsndfile does not read it, or it is not known without decoding."""
    try:
        info = soundfile.info(str(source))
    except (OSError, RuntimeError, ValueError):
        return None
    return info.frames / info.samplerate if 0 < info.frames < 2**62 else None


def _ffmpeg_blocks(source: Path, refused: AudioError, look: Callable[[], None] | None) -> Iterator[np.ndarray]:
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
    with source.open("rb") as file, tempfile.TemporaryFile() as said, _running(command, file, said) as process:
        rest = b""
        for written in _output(process, source, look):
            data = rest + written
            whole = len(data) // 4 * 4
            yield np.nan_to_num(np.frombuffer(data[:whole], "<f4").astype(np.float32))
            rest = data[whole:]
        if process.wait():
            said.seek(0)
            lines = said.read(10_000).decode("utf-8", "replace").strip().splitlines() or ["it says nothing"]
            raise AudioError("not audio", f"{source} cannot be decoded (ffmpeg: {lines[-1].strip()})")


def _output(process: "subprocess.Popen[bytes]", source: Path, look: Callable[[], None] | None) -> Iterator[bytes]:
    """What a program writes, in blocks.

    Raises:
        AudioError: it writes nothing for a long time.
    """
    assert process.stdout is not None
    there = select.poll()  # unlike select, of any number of open files
    there.register(process.stdout, select.POLLIN)
    block, idle = bytearray(), 0
    while True:
        if look is not None:
            look()
        if not there.poll(1000 * LOOK_SECONDS):
            idle += 1
            if idle == PATIENCE:
                raise AudioError("not audio", f"{source} cannot be decoded (ffmpeg is at it for ever)")
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
def _running(command: list[str], file: IO[bytes], said: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    """A program with bounds, which is stopped when nobody wants the rest."""
    process = subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=said)
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
