"""Decode WAV, FLAC, OGG, Opus, MP3 and the like with libsndfile, without ffmpeg."""

import math
from collections.abc import Generator, Iterator
from typing import IO

import numpy as np
import soundfile
import soxr

from asr_lora.audio.samples import (
    BLOCK_SECONDS,
    BLOCK_VALUES,
    SAMPLE_RATE,
    SCALED,
    ChannelMixer,
    Notice,
    full_scale,
    require_finite,
)
from asr_lora.errors import AudioError, first_line

MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz
MAX_SAMPLES_PER_SECOND = 3_072_000  # of all channels together: 16 channels at 192 kHz
FLOATS = frozenset({"FLOAT", "DOUBLE"})
MOST_FRAMES = 2**60  # a header that states more states no length
REPAIR = "If this is all there is, convert it: ffmpeg -i FILE FILE.wav"
MISSING_SECONDS = 0.1  # of a recording or a stretch that may be missing at its end


def sndfile_blocks(
    file: IO[bytes], name: str, notice: Notice, *, start: float = 0.0, seconds: float | None = None,
    length_stated: bool = True,
) -> Iterator[np.ndarray]:  # fmt: skip
    """Decode and resample block by block, so that memory stays bounded whatever the length, rate and channels.

    A part is cut before it is resampled, so that no sound of its neighbours leaks into it.

    Args:
        name: of the file in error messages.
        length_stated: whether the file's header says how long it is, and libsndfile does not only estimate it.

    Yields:
        Samples, shape (samples,), float32, mono, 16 kHz, at most about 30 s at a time.

    Raises:
        AudioError: the file is "not audio" for libsndfile, or "incomplete": it ends before its header says;
            or its rate, channels or samples are none ("impossible format", "not numbers").
    """
    try:
        file.seek(0)
        with soundfile.SoundFile(file.fileno(), closefd=False) as audio:
            _require_possible(audio, name)
            scale = _scale(audio) if audio.subtype in FLOATS else 1.0
            if scale != 1.0:
                notice(SCALED)
            if start:
                _skip(audio, round(start * audio.samplerate))
            came = yield from _resampled(audio, name, seconds, scale, ChannelMixer(audio.channels, notice))
            if length_stated and seconds is None:
                require_complete(name, start + came, _stated(audio))
    except (soundfile.LibsndfileError, RuntimeError, ValueError, TypeError) as error:
        what = getattr(error, "error_string", None) or first_line(error)
        raise AudioError("not audio", f"{name} cannot be decoded ({what.rstrip('.')})") from error


def require_complete(name: str, seconds: float, stated: float | None) -> None:
    """Check that as much was decoded as the header states.

    Raises:
        AudioError: more than 0.1 s are missing.
    """
    if stated is not None and seconds < stated - MISSING_SECONDS:
        raise AudioError("incomplete", f"{name} has {seconds:.1f} s of the {stated:.1f} s that its header states: copy "
                         f"it again. {REPAIR}")  # fmt: skip


def stated_seconds(file: IO[bytes]) -> float | None:
    """Length that the header states; None where libsndfile cannot read the file, or its header states no length."""
    file.seek(0)
    try:
        with soundfile.SoundFile(file.fileno(), closefd=False) as audio:
            return _stated(audio)
    except (OSError, RuntimeError, ValueError):
        return None


def _stated(audio: soundfile.SoundFile) -> float | None:
    return float(audio.frames / audio.samplerate) if 0 < audio.frames < MOST_FRAMES else None


def _require_possible(audio: soundfile.SoundFile, name: str) -> None:
    """Refuse rates and channels that only a broken header has, before memory is allocated for them."""
    rate, channels = audio.samplerate, audio.channels
    if not MIN_RATE <= rate <= MAX_RATE or rate * channels > MAX_SAMPLES_PER_SECOND:
        raise AudioError("impossible format", f"{name} cannot be decoded ({rate} Hz and {channels} channels)")


def _block_frames(audio: soundfile.SoundFile) -> int:
    return int(min(BLOCK_SECONDS * audio.samplerate, max(1, BLOCK_VALUES // audio.channels)))


def _scale(audio: soundfile.SoundFile) -> float:
    """Read floats once to know what full scale is in them."""
    peak, integers = 0.0, True
    while len(block := audio.read(_block_frames(audio), dtype="float32")):
        most = float(np.abs(block).max())
        peak = max(peak, most) if math.isfinite(most) else peak
        integers = integers and bool((block == np.rint(block)).all())
    audio.seek(0)
    return full_scale(peak, integers)


def _resampled(
    audio: soundfile.SoundFile, name: str, seconds: float | None, scale: float, mixer: ChannelMixer
) -> Generator[np.ndarray, None, float]:
    """Yield samples, and return how many seconds were read."""
    frames_left = math.inf if seconds is None else max(1, round(seconds * audio.samplerate))
    resample = None
    if audio.samplerate != SAMPLE_RATE:
        resample = soxr.ResampleStream(audio.samplerate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    frames, came = _block_frames(audio), 0
    while True:
        wanted = int(min(frames, frames_left))
        block = audio.read(wanted, dtype="float32", always_2d=True)  # (frames, channels)
        came += len(block)
        frames_left -= len(block)
        last = len(block) < frames or not frames_left
        mono = mixer.mix(block if scale == 1.0 else block / np.float32(scale))
        if resample is not None:
            mono = resample.resample_chunk(mono, last=last)
        require_finite(mono, name)
        if len(mono):
            yield mono
        if last:
            return float(came / audio.samplerate)


def _skip(audio: soundfile.SoundFile, frames: int) -> None:
    if audio.seekable():
        audio.seek(min(frames, audio.frames))
        return
    while frames > 0 and (read := len(audio.read(min(frames, _block_frames(audio))))):
        frames -= read


def readable_suffixes() -> set[str]:
    """Lower-case endings of the files that libsndfile reads, such as ".wav"."""
    return {f".{name.lower()}" for name in soundfile.available_formats() if name != "RAW"} | {".opus", ".aif", ".aifc"}
