"""Audio of any length -> windows of at most 30 s, cut where it is quiet; memory stays bounded."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import librosa
import numpy as np

from asr_lora.audio.decode import SAMPLE_RATE, SILENCE_PEAK, decode_blocks

WINDOW_SECONDS = 28.0  # longest window: under 30 s by a silent tail
SHORTEST_SECONDS = 8.0  # a window is not cut before this
FRAME = 400  # samples over which loudness is measured, 25 ms
HOP = 160  # samples, 10 ms


@dataclass(frozen=True)
class Window:
    """A stretch of audio."""

    start: float  # seconds from the beginning of the file
    waveform: np.ndarray  # (samples,) float32, 16 kHz

    @property
    def end(self) -> float:
        return self.start + len(self.waveform) / SAMPLE_RATE

    @property
    def silent(self) -> bool:
        return bool(np.abs(self.waveform).max(initial=0.0) < SILENCE_PEAK)


@dataclass(frozen=True)
class Segment:
    """Text with its place in time."""

    start: float  # seconds
    end: float  # seconds
    text: str


def windows(source: Path | bytes, *, window_seconds: float = WINDOW_SECONDS) -> Iterator[Window]:
    """Cut audio into windows at its quietest moments.

    Args:
        source: a file, or its bytes.
        window_seconds: longest window; audio that fits in one is not cut.

    Raises:
        AudioError: as for `asr_lora.audio.decode.decode_blocks`.
    """
    most = int(window_seconds * SAMPLE_RATE)
    rest, start = np.zeros(0, np.float32), 0.0
    for block in decode_blocks(source):
        rest = np.concatenate([rest, block])
        while len(rest) > most:
            cut = quietest(rest[:most], int(min(SHORTEST_SECONDS, window_seconds / 2) * SAMPLE_RATE))
            yield Window(start, rest[:cut])
            rest, start = rest[cut:], start + cut / SAMPLE_RATE
    if len(rest):
        yield Window(start, rest)


def quietest(waveform: np.ndarray, earliest: int) -> int:
    """Return the sample in the middle of the longest pause after `earliest`, or of the quietest moment.

    A pause is what lies 25 dB below the loudest; of pauses alike in length the later wins, which makes long windows.
    """
    loudness = librosa.feature.rms(y=waveform, frame_length=FRAME, hop_length=HOP)[0]  # (frames,)
    first = earliest // HOP
    quiet = librosa.amplitude_to_db(loudness, ref=np.max(loudness) or 1.0)[first:] < -25.0
    edges = np.flatnonzero(np.diff(np.concatenate([[0], quiet.astype(np.int8), [0]])))
    if len(edges):
        begins, ends = edges[::2], edges[1::2]
        longest = len(begins) - 1 - int(np.argmax((ends - begins)[::-1]))
        frame = (begins[longest] + ends[longest]) // 2
    else:
        smooth = np.convolve(loudness[first:], np.ones(10) / 10, mode="same")  # over 100 ms
        frame = int(np.argmin(smooth))
    return min(len(waveform), max(1, int(first + frame) * HOP))
