"""Decode audio that libsndfile cannot read (m4a, mp4, webm, …) with the ffmpeg program, where it is installed."""

import os
import resource
import select
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np

from asr_lora.audio.samples import BLOCK_SECONDS, SAMPLE_RATE, ChannelMixer, Notice, require_finite
from asr_lora.audio.sndfile import REPAIR, readable_suffixes
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
END_LOST = ("partial file", "ended prematurely", "exceeds containing master element")  # ffmpeg says it, and ends with 0
PACKET_LOST = ("Error while decoding", "Error submitting packet")  # before ffmpeg 6, and since
MOST_LOST = 4  # packets, of 20 to 30 ms each, that may be lost: some encoders begin with one that is none
MOST_LOG = 1_000_000  # bytes of ffmpeg's messages that are read
POLL_SECONDS = 0.2  # between two calls of `check`
MAX_IDLE_POLLS = 150  # without a sample, 30 s, after which ffmpeg is stopped
BOUNDS = {  # resources that ffmpeg may use, whatever a file makes it do
    resource.RLIMIT_AS: 2 * 2**30,  # bytes of memory
    resource.RLIMIT_FSIZE: 2**24,  # bytes of error messages
    resource.RLIMIT_CPU: 3600,  # seconds, in case this process dies and cannot stop it
}


def media_suffixes() -> set[str]:
    """Lower-case endings of the files that are searched for in folders."""
    return readable_suffixes() | (SUFFIXES if shutil.which("ffmpeg") else set())


def media_names() -> list[str]:
    """Names of the common formats that can be decoded on this machine."""
    return ["WAV", "FLAC", "OGG", "Opus", "MP3", *(["M4A", "MP4", "WebM"] if shutil.which("ffmpeg") else [])]


def ffmpeg_blocks(
    file: IO[bytes],
    name: str,
    refused: AudioError,
    check: Callable[[], None],
    notice: Notice,
    *,
    start: float = 0.0,
) -> Generator[np.ndarray]:
    """Decode the first sound track of a file.

    Args:
        name: of the file in error messages.
        refused: why libsndfile does not decode it.
        check: is called while ffmpeg works; an exception that it raises stops ffmpeg.
        start: seconds to leave out, in a container whose packets have times.

    Yields:
        Samples, shape (samples,), float32, mono, 16 kHz, at most about 30 s at a time.

    Raises:
        AudioError: ffmpeg is not installed, cannot decode the file, or says that its end is missing.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise AudioError(
            "no ffmpeg", f"{refused}; m4a, mp4, webm and the like need the ffmpeg program: apt install ffmpeg"
        ) from refused
    seek = ["-ss", f"{start:.6f}"] if start else []
    command = [
        program, "-nostdin", "-v", "error", "-protocol_whitelist", "file,pipe", "-format_whitelist", DEMUXERS,
        "-threads", "1", *seek, "-i", "file:/dev/stdin", "-map", "0:a:0", "-ar", str(SAMPLE_RATE),
        "-c:a", "pcm_f32be", "-f", "au", "pipe:1",
    ]  # fmt: skip
    file.seek(0)
    with tempfile.TemporaryFile() as log, _running(command, file, log) as process:
        rest, mixer, channels = b"", None, 0
        for written in _output(process, name, check):
            data = rest + written
            if mixer is None:  # the header of AU: its length, and in the end the number of channels
                begin, channels = int.from_bytes(data[4:8]), int.from_bytes(data[20:24])
                if len(data) < 24 or len(data) < begin or not channels:
                    break
                data, mixer = data[begin:], ChannelMixer(channels, notice)
            whole = len(data) // (4 * channels) * 4 * channels
            block = np.frombuffer(data[:whole], ">f4").astype(np.float32).reshape(-1, channels)
            require_finite(block, name)
            if len(block):
                yield mixer.mix(block)
            rest = data[whole:]
        failed = process.wait()
        log.seek(0)
        lines = log.read(MOST_LOG).decode("utf-8", "replace").strip().splitlines() or ["no error message"]
        if failed or mixer is None:
            raise AudioError("not audio", f"{name} cannot be decoded (ffmpeg: {lines[-1].strip()})")
        lost = sum(any(words in line for words in PACKET_LOST) for line in lines)
        if lost > MOST_LOST or any(words in line for words in END_LOST for line in lines):
            raise AudioError("incomplete", f"{name} is damaged, or its end is missing: copy it again. {REPAIR}")


def _output(process: "subprocess.Popen[bytes]", name: str, check: Callable[[], None]) -> Iterator[bytes]:
    """Yield the output of a program in blocks.

    Raises:
        AudioError: the program writes nothing for 30 s.
    """
    assert process.stdout is not None
    output = select.poll()  # unlike select.select, it takes file descriptors above 1,023
    output.register(process.stdout, select.POLLIN)
    block, idle = bytearray(), 0
    while True:
        check()
        if not output.poll(1000 * POLL_SECONDS):
            idle += 1
            if idle == MAX_IDLE_POLLS:
                raise AudioError("not audio", f"{name} cannot be decoded (ffmpeg is stuck)")
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
