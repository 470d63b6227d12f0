"""What is measured of an utterance's sound, and what of sound and text is suspicious."""

import hashlib
from dataclasses import dataclass

import numpy as np

CLIPPED = 0.999  # of full scale: at or above it a sample has hit the ceiling
QUIETEST_DB = -120.0


@dataclass(frozen=True)
class Sound:
    """What decoding an utterance showed."""

    seconds: float
    peak: float  # of full scale, 0 to 1
    loudness_db: float  # root mean square, dB of full scale
    clipped: float  # share of samples at the ceiling
    digest: str  # of the samples: equal ones sound the same


def measure(waveform: np.ndarray, sample_rate: int) -> Sound:
    """Measure samples, shape (samples,), float32 in about [-1, 1]."""
    size = np.abs(waveform)
    power = float(np.mean(np.square(waveform, dtype=np.float64))) if len(waveform) else 0.0
    pcm = np.round(np.clip(waveform, -1.0, 1.0) * 32767).astype("<i2")
    return Sound(
        seconds=len(waveform) / sample_rate,
        peak=float(size.max(initial=0.0)),
        loudness_db=max(QUIETEST_DB, 10 * float(np.log10(power))) if power else QUIETEST_DB,
        clipped=float(np.mean(size >= CLIPPED)) if len(waveform) else 0.0,
        digest=hashlib.sha256(pcm.tobytes()).hexdigest()[:16],
    )
