"""Audio file or bytes -> float32 mono at 16 kHz, through libsndfile: WAV, FLAC, OGG/Opus and MP3 without FFmpeg."""

import io
import math
import os
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import soxr

from asr_lora.errors import AudioError, first_line

SAMPLE_RATE = 16_000  # Hz, what Whisper's log-mel is defined on
SILENCE_PEAK = 1e-3  # -60 dB of full scale: nothing can be heard
BLOCK_SECONDS = 30.0
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz
MAX_SAMPLES_A_SECOND = 3_072_000  # of all channels: 16 of them at 192 kHz


def decode(
    source: Path | bytes, *, max_seconds: float | None = None, start: float = 0.0, seconds: float | None = None
) -> np.ndarray:
    """Decode audio, whole or a stretch of it.

    Args:
        start: seconds into it where the stretch begins.
        seconds: of the stretch; to the end when not given. It ends earlier where the audio does.

    Returns:
        Samples, shape (samples,), float32 in about [-1, 1], mono, 16 kHz.

    Raises:
        AudioError: missing, empty, not audio, or decoding to nothing; with `max_seconds`, also longer than that,
            found while decoding, so that a small file that decodes to hours costs no memory.
    """
    blocks, samples = [], 0
    for block in decode_blocks(source, start=start, seconds=seconds):
        blocks.append(block)
        samples += len(block)
        if max_seconds is not None and samples > max_seconds * SAMPLE_RATE:
            raise AudioError("too long", f"{describe(source)} is longer than {max_seconds:g} s")
    if not samples:
        raise AudioError("no audio", f"{describe(source)} decodes to no samples")
    return np.concatenate(blocks)


def decode_blocks(source: Path | bytes, *, start: float = 0.0, seconds: float | None = None) -> Generator[np.ndarray]:
    """Decode and resample block by block, so that memory stays bounded whatever the length.

    A stretch is cut before it is resampled, so nothing of its neighbours is heard in it.

    Yields:
        Samples, shape (samples,), float32, mono, 16 kHz, about 30 s at a time.

    Raises:
        AudioError: as for `decode`.
    """
    if isinstance(source, Path):
        try:
            size = source.stat().st_size if source.is_file() else None
        except OSError as error:  # a name that is too long, a folder that may not be read
            raise AudioError("unreadable", f"{source} cannot be opened ({error.strerror})") from error
        if size is None:
            raise AudioError("missing", f"{source} does not exist")
        if size == 0:
            raise AudioError("empty file", f"{source} is empty")
    elif not source:
        raise AudioError("empty file", "the audio is empty")
    try:
        with _opened(source) as file, soundfile.SoundFile(file, closefd=False) as audio:
            _require_possible(audio)
            yield from _resampled(audio, start, seconds)
    except (soundfile.LibsndfileError, RuntimeError, ValueError, TypeError) as error:
        raise AudioError("not audio", f"{describe(source)} cannot be decoded ({first_line(error)})") from error


@contextmanager
def _opened(source: Path | bytes) -> Iterator[bytes | int]:
    """What libsndfile reads itself: a path, or the descriptor of a file in memory.

    From a BytesIO it would read through callbacks into Python, which swallow Ctrl-C.
    """
    if isinstance(source, Path):
        yield os.fsencode(source)
        return
    memory = hasattr(os, "memfd_create")  # Linux
    with os.fdopen(os.memfd_create("audio"), "w+b") if memory else tempfile.TemporaryFile() as file:
        file.write(source)
        file.seek(0)
        yield file.fileno()


def _require_possible(audio: soundfile.SoundFile) -> None:
    """Refuse what only a broken header says, before memory is taken for it."""
    rate, channels = audio.samplerate, audio.channels
    if not MIN_RATE <= rate <= MAX_RATE or rate * channels > MAX_SAMPLES_A_SECOND:
        raise ValueError(f"{rate} Hz and {channels} channels")


def _resampled(audio: soundfile.SoundFile, start: float, seconds: float | None) -> Iterator[np.ndarray]:
    left = math.inf if seconds is None else max(1, round(seconds * audio.samplerate))  # frames
    if start:
        _skip(audio, round(start * audio.samplerate))
    resample = None
    if audio.samplerate != SAMPLE_RATE:
        resample = soxr.ResampleStream(audio.samplerate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    frames = int(BLOCK_SECONDS * audio.samplerate)
    while True:
        wanted = int(min(frames, left))
        block = audio.read(wanted, dtype="float32", always_2d=True)  # (frames, channels)
        left -= len(block)
        last = len(block) < frames or not left
        mono = np.ascontiguousarray(block.mean(axis=1))
        if resample is not None:
            mono = resample.resample_chunk(mono, last=last)
        if not np.isfinite(mono).all():
            raise ValueError("samples that are not finite numbers")
        if len(mono):
            yield mono
        if last:
            return


def _skip(audio: soundfile.SoundFile, frames: int) -> None:
    if audio.seekable():
        audio.seek(min(frames, audio.frames))
        return
    while frames > 0 and (read := len(audio.read(min(frames, int(BLOCK_SECONDS * audio.samplerate))))):
        frames -= read


def encode_flac(waveform: np.ndarray) -> bytes:
    """Encode samples, shape (samples,), 16 kHz mono, as 16-bit FLAC."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(waveform, -1.0, 1.0), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def readable_suffixes() -> set[str]:
    """Lower-case file name endings of what libsndfile reads, such as ".wav"."""
    return {f".{name.lower()}" for name in soundfile.available_formats() if name != "RAW"} | {".opus", ".aif", ".aifc"}


def describe(source: Path | bytes) -> str:
    return f"audio of {len(source)} bytes" if isinstance(source, bytes) else str(source)
