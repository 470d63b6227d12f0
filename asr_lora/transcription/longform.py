"""Audio of any length -> windows of at most 28 s, cut where nobody speaks; memory stays bounded."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import librosa
import numpy as np

from asr_lora.audio.decode import SAMPLE_RATE, SILENCE_PEAK
from asr_lora.audio.vad import CHUNK, Ear, load_detector

WINDOW_SECONDS = 28.0  # longest window: under 30 s by a silent tail
SHORTEST_SECONDS = 8.0  # a window is not cut before this, where there is no pause
FRAME = 400  # samples over which loudness is measured, 25 ms
HOP = 160  # samples, 10 ms

BEGINS, ENDS = 0.5, 0.35  # chance of speech with which it begins, and under which it may end, as silero's own
PAUSE = 10  # chunks without speech that end it, 0.3 s
CLICK = 3  # speech of fewer chunks, 0.1 s, is none
MARGIN = int(0.2 * SAMPLE_RATE)  # kept on both sides of speech
LULL = int(2.0 * SAMPLE_RATE)  # a pause this long is not decoded


@dataclass(frozen=True)
class Window:
    """A stretch of audio."""

    start: float  # seconds from the beginning of the file
    waveform: np.ndarray  # (samples,) float32, 16 kHz

    @property
    def end(self) -> float:
        return self.start + self.seconds

    @property
    def seconds(self) -> float:
        return len(self.waveform) / SAMPLE_RATE

    @property
    def silent(self) -> bool:
        return bool(np.abs(self.waveform).max(initial=0.0) < SILENCE_PEAK)


class Samples:
    """What is kept of a stream: numbered from its beginning, forgotten as it is done with."""

    def __init__(self) -> None:
        self.start = 0
        self.kept = np.zeros(0, np.float32)

    @property
    def end(self) -> int:
        return self.start + len(self.kept)

    def add(self, block: np.ndarray) -> None:
        self.kept = np.concatenate([self.kept, block])

    def forget(self, before: int) -> None:
        """Let go of what lies before a sample; copied, so that the memory is free."""
        before = min(before, self.end)
        if before > self.start:
            self.kept, self.start = self.kept[before - self.start :].copy(), before

    def window(self, start: int, end: int) -> Window:
        start = max(start, self.start)
        return Window(start / SAMPLE_RATE, self.kept[start - self.start : end - self.start].copy())


def windows(blocks: Iterable[np.ndarray], *, window_seconds: float = WINDOW_SECONDS) -> Iterator[Window]:
    """Cut all of a stream into windows at its quietest moments; what fits in one is not cut.

    Args:
        blocks: samples, each of shape (samples,), float32, 16 kHz.
        window_seconds: longest window.
    """
    most, samples = int(window_seconds * SAMPLE_RATE), Samples()
    for block in blocks:
        samples.add(block)
        while len(samples.kept) > most:
            cut = samples.start + quietest(
                samples.kept[:most], int(min(SHORTEST_SECONDS, window_seconds / 2) * SAMPLE_RATE)
            )
            yield samples.window(samples.start, cut)
            samples.forget(cut)
    if len(samples.kept):
        yield samples.window(samples.start, samples.end)


def speech_windows(blocks: Iterable[np.ndarray], *, window_seconds: float = WINDOW_SECONDS) -> Iterator[Window]:
    """Cut the speech of a stream into windows, at pauses; what is no speech, such as music or noise, is left out.

    A window holds as many stretches of speech as fit, with the pauses between them, unless one is longer than two
    seconds. Speech without a pause is cut where it is quietest. Windows never overlap.

    Args:
        blocks: samples, each of shape (samples,), float32, 16 kHz.
        window_seconds: longest window, its margins included.

    Raises:
        ConfigError: the detector's package is missing.
    """
    most, samples = int(window_seconds * SAMPLE_RATE), Samples()
    ear, spans = Ear(load_detector()), Spans(most - 2 * MARGIN)
    free = 0  # no window may begin before this
    start, end = None, 0  # of the window that is being filled: its first sample, and the end of its speech
    for block in chain(blocks, [None]):
        if block is not None:
            samples.add(block)
        chances = ear.chances(block) if block is not None else ear.finish()
        for begun, ended in spans.hear(chances, last=block is None):
            if start is not None and (ended + MARGIN - start > most or begun - end > LULL):
                free = min(end + MARGIN, (end + begun) // 2)
                yield samples.window(start, free)
                start = None
            start, end = max(free, begun - MARGIN) if start is None else start, min(ended, samples.end)
        if start is not None and (block is None or (spans.begun is None and spans.heard - end > LULL)):
            free = min(end + MARGIN, samples.end)
            yield samples.window(start, free)
            start = None
        samples.forget(start if start is not None else max(free, spans.earliest - MARGIN))


class Spans:
    """Chances of speech -> stretches of speech (start, end) in samples, as they end; none is longer than `longest`."""

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.heard = 0  # samples that chances are known of
        self.begun: int | None = None  # where the stretch that has not ended began
        self.chances: list[float] = []  # since then

    @property
    def earliest(self) -> int:
        """Where the next stretch may begin, at the earliest."""
        return self.heard if self.begun is None else self.begun

    def hear(self, chances: np.ndarray, *, last: bool = False) -> list[tuple[int, int]]:
        """Return the stretches that these chances end, each of `CHUNK` samples; the last ones end all."""
        ended = []
        for chance in chances.tolist():
            if self.begun is None and chance >= BEGINS:
                self.begun = self.heard
            self.heard += CHUNK
            if self.begun is not None:
                self.chances.append(chance)
                if max(self.chances[-PAUSE:]) < ENDS:
                    ended += self._close(len(self.chances) - PAUSE)
                elif (len(self.chances) + 1) * CHUNK > self.longest:
                    ended += self._cut()
        if last and self.begun is not None:
            quiet = next((n for n, chance in enumerate(reversed(self.chances)) if chance >= ENDS), 0)
            ended += self._close(len(self.chances) - quiet)
        return ended

    def _close(self, chunks: int) -> list[tuple[int, int]]:
        assert self.begun is not None
        found = [(self.begun, self.begun + chunks * CHUNK)] if chunks >= CLICK else []
        self.begun, self.chances = None, []
        return found

    def _cut(self) -> list[tuple[int, int]]:
        """End a stretch that is too long where speech is least likely in its last two thirds; the next begins there."""
        assert self.begun is not None
        first = len(self.chances) // 3
        place = first + int(np.argmin(self.chances[first:]))
        found = (self.begun, self.begun + place * CHUNK)
        self.begun, self.chances = found[1], self.chances[place:]
        return [found]


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
