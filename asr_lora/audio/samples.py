"""What decoded samples become before anything else sees them: one channel, at most full scale, finite."""

import mmap
from collections.abc import Callable

import numpy as np

from asr_lora.errors import AudioError

SAMPLE_RATE = 16_000  # Hz, what Whisper's log-mel is defined on
SILENCE_PEAK = 1e-3  # -60 dB of full scale: audio that stays below is silence
BLOCK_SECONDS = 30.0
BLOCK_VALUES = int(BLOCK_SECONDS * 48_000 * 2)  # of all channels together: what 30 s of stereo at 48 kHz have, 12 MB
INVERSE = -0.4  # correlation of two channels below which their mean would lose what both of them hold
MIXED_FRAMES = 20_000  # of a block, which are enough to compare its channels
INTEGER_SCALES = (2.0**15, 2.0**23, 2.0**31)
MOST_OVER = 8.0  # times full scale (18 dB): floats beyond it are integers of 16, 24 or 32 bits

SCALED = "samples exceeded full scale and were scaled down to it"
ONE_SIDED = "a channel was left out, because it is silent or the inverse of a louder one"

Content = bytes | mmap.mmap  # of a file
Notice = Callable[[str], None]  # receives SCALED or ONE_SIDED


class ChannelMixer:
    """Mix the channels of a recording to one, block by block.

    The result is the mean of all channels but two kinds. One is silent so far: it would only lower the level. The other
    is the inverse of a louder channel, as a wrongly wired cable makes it: the mean would cancel what both hold.
    """

    def __init__(self, channels: int, notice: Notice) -> None:
        self.heard = np.zeros(channels, bool)
        self.notice = notice

    def mix(self, block: np.ndarray) -> np.ndarray:
        """Mix samples, shape (frames, channels), to shape (frames,)."""
        if block.shape[1] == 1:
            return np.ascontiguousarray(block[:, 0])
        if len(block) and len(kept := self._kept(block)) < block.shape[1]:
            self.notice(ONE_SIDED)
            block = block[:, kept]
        return np.ascontiguousarray(block.mean(axis=1))

    def _kept(self, block: np.ndarray) -> list[int]:
        some = np.ascontiguousarray(block[:: 1 + len(block) // MIXED_FRAMES].T)  # (channels, frames)
        some -= some.mean(axis=1, keepdims=True)
        self.heard |= np.maximum(some.max(axis=1), -some.min(axis=1)) >= SILENCE_PEAK
        together = some @ some.T  # (channels, channels)
        power = np.diag(together)
        kept: list[int] = []
        for channel in np.argsort(-power, kind="stable"):
            limits = INVERSE * np.sqrt(power[channel] * power[kept])
            if self.heard[channel] and not (together[channel, kept] < limits).any():
                kept.append(int(channel))
        return sorted(kept) or list(range(block.shape[1]))


def full_scale(peak: float, integers: bool) -> float:
    """Return what floats with this peak are divided by: 1 within full scale, 32768 for 16-bit integers, else the peak.

    Args:
        integers: whether all samples are whole numbers.
    """
    if not peak > 1.0:
        return 1.0
    if integers or peak > MOST_OVER:
        for scale in INTEGER_SCALES:
            if peak <= 1.5 * scale:  # resampling may pass full scale a little
                return max(scale, peak)
    return peak


def require_finite(samples: np.ndarray, name: str) -> None:
    """Check that all samples are numbers.

    Raises:
        AudioError: some are infinite or no numbers.
    """
    if not np.isfinite(samples).all():
        raise AudioError("not numbers", f"{name} has samples that are not finite numbers")
