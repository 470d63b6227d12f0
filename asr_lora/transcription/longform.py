"""Cut audio of any length into windows of at most 28 s, at pauses; memory use is independent of the length."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import librosa
import numpy as np

from asr_lora.audio.decode import SAMPLE_RATE
from asr_lora.audio.features import HOP
from asr_lora.audio.vad import CHUNK, SpeechDetector, load_silero
from asr_lora.transcription.segments import INAUDIBLE_PEAK

WINDOW_SECONDS = 28.0  # longest window: below 30 s, so that silence follows the speech
SHORTEST_SECONDS = 8.0  # where there is no pause, a window is not cut before this
FRAME = 400  # samples over which loudness is measured, 25 ms, every HOP

SPEECH_BEGINS, SPEECH_ENDS = 0.5, 0.35  # P(speech) at which speech begins, and below which it may end, as in silero
PAUSE = 10  # chunks below `SPEECH_ENDS` that end speech, 0.3 s
SHORTEST_SPEECH = 3  # chunks, 0.1 s: anything shorter is a click
MARGIN = int(0.2 * SAMPLE_RATE)  # samples kept on both sides of speech
LONG_PAUSE = int(2.0 * SAMPLE_RATE)  # samples; a pause as long as this ends the window


@dataclass(frozen=True)
class Window:
    """A part of a recording that is transcribed at once."""

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
        return bool(np.abs(self.waveform).max(initial=0.0) < INAUDIBLE_PEAK)


@dataclass(frozen=True)
class SpeechRules:
    """How speech is told from pauses, where a client wants it otherwise than by the defaults."""

    begins: float = SPEECH_BEGINS  # P(speech) at which speech begins
    pause: float = PAUSE * CHUNK / SAMPLE_RATE  # seconds without speech that end it
    margin: float = MARGIN / SAMPLE_RATE  # seconds kept before speech


class SampleBuffer:
    """The samples of a stream that are still needed, numbered from the beginning of the stream."""

    def __init__(self) -> None:
        self.start = 0
        self.kept = np.zeros(0, np.float32)

    @property
    def end(self) -> int:
        return self.start + len(self.kept)

    def add(self, block: np.ndarray) -> None:
        self.kept = np.concatenate([self.kept, block])

    def drop(self, before: int) -> None:
        """Drop all samples before a position; the rest is copied, so that the memory is freed."""
        before = min(before, self.end)
        if before > self.start:
            self.kept, self.start = self.kept[before - self.start :].copy(), before

    def window(self, start: int, end: int) -> Window:
        start = max(start, self.start)
        return Window(start / SAMPLE_RATE, self.kept[start - self.start : end - self.start].copy())


def windows(blocks: Iterable[np.ndarray], *, window_seconds: float = WINDOW_SECONDS) -> Iterator[Window]:
    """Cut a whole stream into windows at its quietest moments.

    Args:
        blocks: samples, each of shape (samples,), float32, 16 kHz.
        window_seconds: longest window; a stream that fits is one window.
    """
    longest, samples = int(window_seconds * SAMPLE_RATE), SampleBuffer()
    earliest = int(min(SHORTEST_SECONDS, window_seconds / 2) * SAMPLE_RATE)
    for block in blocks:
        samples.add(block)
        while len(samples.kept) > longest:
            cut = samples.start + quietest_sample(samples.kept[:longest], earliest)
            yield samples.window(samples.start, cut)
            samples.drop(cut)
    if len(samples.kept):
        yield samples.window(samples.start, samples.end)


def speech_windows(
    blocks: Iterable[np.ndarray],
    *,
    window_seconds: float = WINDOW_SECONDS,
    rules: SpeechRules = SpeechRules(),
) -> Iterator[Window]:
    """Cut the speech of a stream into windows at pauses, and leave out everything else, such as music or noise.

    A window holds as many spans of speech as fit, with the pauses between them, unless a pause is longer than two
    seconds. Speech without a pause is cut where speech is least probable. Windows never overlap.

    Args:
        blocks: samples, each of shape (samples,), float32, 16 kHz.
        window_seconds: longest window, its margins included.

    Raises:
        ConfigError: the package of the voice activity detector is missing.
    """
    longest, samples = int(window_seconds * SAMPLE_RATE), SampleBuffer()
    margin = int(rules.margin * SAMPLE_RATE)
    detector, spans = SpeechDetector(load_silero()), SpeechSpans(longest - margin - MARGIN, rules)
    free = 0  # no window may begin before this sample
    start, end = None, 0  # of the window that is being filled: its first sample, and the end of its speech
    for block in chain(blocks, [None]):
        if block is not None:
            samples.add(block)
        probabilities = detector.probabilities(block) if block is not None else detector.finish()
        for span_start, span_end in spans.add(probabilities, last=block is None):
            if start is not None and (span_end + MARGIN - start > longest or span_start - end > LONG_PAUSE):
                free = min(end + MARGIN, (end + span_start) // 2)
                yield samples.window(start, free)
                start = None
            start, end = max(free, span_start - margin) if start is None else start, min(span_end, samples.end)
        if start is not None and (block is None or (spans.start is None and spans.seen - end > LONG_PAUSE)):
            free = min(end + MARGIN, samples.end)
            yield samples.window(start, free)
            start = None
        samples.drop(start if start is not None else max(free, spans.earliest - margin))


class SpeechSpans:
    """Turn probabilities of speech into spans (start, end) in samples, none longer than `longest`."""

    def __init__(self, longest: int, rules: SpeechRules = SpeechRules()) -> None:
        self.longest = longest
        self.begins = rules.begins
        self.ends = max(0.0, rules.begins - (SPEECH_BEGINS - SPEECH_ENDS))
        self.pause = max(1, round(rules.pause * SAMPLE_RATE / CHUNK))  # chunks
        self.seen = 0  # samples whose probabilities are known
        self.start: int | None = None  # of the span that has not ended
        self.probabilities: list[float] = []  # since then

    @property
    def earliest(self) -> int:
        """The first sample at which the next span may begin."""
        return self.seen if self.start is None else self.start

    def add(self, probabilities: np.ndarray, *, last: bool = False) -> list[tuple[int, int]]:
        """Return the spans that end within these chunks of `CHUNK` samples; `last` also ends an open one."""
        ended = []
        for probability in probabilities.tolist():
            if self.start is None and probability >= self.begins:
                self.start = self.seen
            self.seen += CHUNK
            if self.start is not None:
                self.probabilities.append(probability)
                if max(self.probabilities[-self.pause :]) < self.ends:
                    ended += self._close(len(self.probabilities) - self.pause)
                elif (len(self.probabilities) + 1) * CHUNK > self.longest:
                    ended += self._cut()
        if last and self.start is not None:
            chunks = enumerate(reversed(self.probabilities))
            quiet = next((count for count, probability in chunks if probability >= self.ends), 0)
            ended += self._close(len(self.probabilities) - quiet)
        return ended

    def _close(self, chunks: int) -> list[tuple[int, int]]:
        assert self.start is not None
        found = [(self.start, self.start + chunks * CHUNK)] if chunks >= SHORTEST_SPEECH else []
        self.start, self.probabilities = None, []
        return found

    def _cut(self) -> list[tuple[int, int]]:
        """End a span that is too long where speech is least probable in its last two thirds; the next begins there."""
        assert self.start is not None
        first = len(self.probabilities) // 3
        place = first + int(np.argmin(self.probabilities[first:]))
        found = (self.start, self.start + place * CHUNK)
        self.start, self.probabilities = found[1], self.probabilities[place:]
        return [found]


def quietest_sample(waveform: np.ndarray, earliest: int) -> int:
    """Return the sample in the middle of the longest pause after `earliest`, or else at the quietest moment.

    A pause is 25 dB below the loudest frame; of pauses of equal length the later is chosen, for longer windows.
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
