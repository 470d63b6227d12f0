"""Audio file or bytes -> float32 mono at 16 kHz, through libsndfile: WAV, FLAC, OGG/Opus and MP3 without FFmpeg."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from asr_lora.errors import AudioError

SAMPLE_RATE = 16_000  # Hz, what Whisper's log-mel is defined on
SILENCE_PEAK = 1e-3  # -60 dB of full scale: nothing can be heard
BLOCK_SECONDS = 30.0
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz
MAX_SAMPLES_A_SECOND = 3_072_000  # of all channels: 16 of them at 192 kHz


def decode(source: Path | bytes, *, max_seconds: float | None = None) -> np.ndarray:
    """Decode audio whole.

    Returns:
        Samples, shape (samples,), float32 in about [-1, 1], mono, 16 kHz.

    Raises:
        AudioError: missing, empty, not audio, or decoding to nothing; with `max_seconds`, also longer than that,
            found while decoding, so that a small file that decodes to hours costs no memory.
    """
    blocks, samples = [], 0
    for block in decode_blocks(source):
        blocks.append(block)
        samples += len(block)
        if max_seconds is not None and samples > max_seconds * SAMPLE_RATE:
            raise AudioError("too long", f"{describe(source)} is longer than {max_seconds:g} s")
    if not samples:
        raise AudioError("no audio", f"{describe(source)} decodes to no samples")
    return np.concatenate(blocks)


def decode_blocks(source: Path | bytes) -> Iterator[np.ndarray]:
    """Decode and resample block by block, so that memory stays bounded whatever the length.

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
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else os.fsencode(source)) as audio:
            _require_possible(audio)
            yield from _resampled(audio)
    except (soundfile.LibsndfileError, RuntimeError, ValueError, TypeError) as error:
        raise AudioError("not audio", f"{describe(source)} cannot be decoded ({first_line(error)})") from error


def _require_possible(audio: soundfile.SoundFile) -> None:
    """Refuse what only a broken header says, before memory is taken for it."""
    rate, channels = audio.samplerate, audio.channels
    if not MIN_RATE <= rate <= MAX_RATE or rate * channels > MAX_SAMPLES_A_SECOND:
        raise ValueError(f"{rate} Hz and {channels} channels")


def _resampled(audio: soundfile.SoundFile) -> Iterator[np.ndarray]:
    resample = None
    if audio.samplerate != SAMPLE_RATE:
        resample = soxr.ResampleStream(audio.samplerate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    frames = int(BLOCK_SECONDS * audio.samplerate)
    while True:
        block = audio.read(frames, dtype="float32", always_2d=True)  # (frames, channels)
        last = len(block) < frames
        mono = np.ascontiguousarray(block.mean(axis=1))
        if resample is not None:
            mono = resample.resample_chunk(mono, last=last)
        if not np.isfinite(mono).all():
            raise ValueError("samples that are not finite numbers")
        if len(mono):
            yield mono
        if last:
            return


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


def first_line(error: Exception) -> str:
    """The first line of an error's text, for use inside a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
