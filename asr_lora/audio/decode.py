"""Decode WAV, FLAC, OGG, Opus and MP3 to float32 mono samples at 16 kHz, by libsndfile and without FFmpeg."""

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
SILENCE_PEAK = 1e-3  # -60 dB of full scale: audio that stays below is silence
BLOCK_SECONDS = 30.0
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz
MAX_SAMPLES_PER_SECOND = 3_072_000  # of all channels together: 16 channels at 192 kHz


def decode(
    source: Path | bytes, *, max_seconds: float | None = None, start: float = 0.0, seconds: float | None = None
) -> np.ndarray:
    """Decode a recording, or a part of it.

    Args:
        source: a path, or the content of a file.
        max_seconds: longest audio accepted.
        start: where the part begins, in seconds.
        seconds: length of the part; it ends earlier where the audio does. None decodes to the end.

    Returns:
        Samples, shape (samples,), float32 in about [-1, 1], mono, 16 kHz.

    Raises:
        AudioError: the file is missing, empty or not audio, decodes to no samples, or is longer than `max_seconds`.
            The length is checked while decoding, so that a small file that decodes to hours costs no memory.
    """
    blocks, samples = [], 0
    for block in decode_blocks(source, start=start, seconds=seconds):
        blocks.append(block)
        samples += len(block)
        if max_seconds is not None and samples > max_seconds * SAMPLE_RATE:
            raise AudioError("too long", f"{source_name(source)} is longer than {max_seconds:g} s")
    if not samples:
        raise AudioError("no audio", f"{source_name(source)} decodes to no samples")
    return np.concatenate(blocks)


def decode_blocks(source: Path | bytes, *, start: float = 0.0, seconds: float | None = None) -> Generator[np.ndarray]:
    """Decode and resample block by block, so that memory stays bounded whatever the length.

    A part is cut before it is resampled, so that no sound of its neighbours leaks into it.

    Yields:
        Samples, shape (samples,), float32, mono, 16 kHz, about 30 s at a time.

    Raises:
        AudioError: as for `decode`.
    """
    if isinstance(source, Path):
        try:
            size = source.stat().st_size if source.is_file() else None
        except OSError as error:  # the name is too long, or the folder may not be read
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
        raise AudioError("not audio", f"{source_name(source)} cannot be decoded ({first_line(error)})") from error


@contextmanager
def _opened(source: Path | bytes) -> Iterator[bytes | int]:
    """Give libsndfile what it reads by itself: a path, or the descriptor of a file in memory.

    It would read a BytesIO through callbacks into Python, which swallow Ctrl-C.
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
    """Refuse rates and channels that only a broken header has, before memory is allocated for them."""
    rate, channels = audio.samplerate, audio.channels
    if not MIN_RATE <= rate <= MAX_RATE or rate * channels > MAX_SAMPLES_PER_SECOND:
        raise ValueError(f"{rate} Hz and {channels} channels")


def _resampled(audio: soundfile.SoundFile, start: float, seconds: float | None) -> Iterator[np.ndarray]:
    frames_left = math.inf if seconds is None else max(1, round(seconds * audio.samplerate))
    if start:
        _skip(audio, round(start * audio.samplerate))
    resample = None
    if audio.samplerate != SAMPLE_RATE:
        resample = soxr.ResampleStream(audio.samplerate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    frames = int(BLOCK_SECONDS * audio.samplerate)
    while True:
        wanted = int(min(frames, frames_left))
        block = audio.read(wanted, dtype="float32", always_2d=True)  # (frames, channels)
        frames_left -= len(block)
        last = len(block) < frames or not frames_left
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
    """Lower-case endings of the files that libsndfile reads, such as ".wav"."""
    return {f".{name.lower()}" for name in soundfile.available_formats() if name != "RAW"} | {".opus", ".aif", ".aifc"}


def source_name(source: Path | bytes) -> str:
    """How an error message names the audio."""
    return f"audio of {len(source)} bytes" if isinstance(source, bytes) else str(source)
