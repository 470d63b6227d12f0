"""Segments: transcribed text with its times."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from asr_lora.errors import AudioError

INAUDIBLE_PEAK = 1e-4  # -80 dB: speech that is 60 dB down is still understood, so less than that is silence


@dataclass(frozen=True)
class Word:
    """A word, or a character in scripts that put no blanks between words."""

    start: float  # seconds from the beginning of the file
    end: float  # seconds
    text: str  # with the blank before it, so that the words of a segment joined are its text


@dataclass(frozen=True)
class Segment:
    """A piece of the transcript with its times, its language and the scores of its window."""

    start: float  # seconds from the beginning of the file
    end: float  # seconds
    text: str
    words: tuple[Word, ...] = ()  # empty where times of words were not asked for
    language: str | None = None  # code of the language that it was transcribed in; None: an English-only model
    adapter: str | None = None  # name of the adapter, among several; None: the base model, or the only one
    log_probability: float | None = None  # mean over the tokens of its window
    no_speech: float | None = None  # probability that its window has no speech
    temperature: float = 0.0  # at which its window was decoded in the end
    tokens: tuple[int, ...] = ()  # of its text, without timestamps
    token_scores: tuple[float, ...] = ()  # log-probability of each token; empty where they were not asked for


@dataclass(frozen=True)
class SoundFacts:
    """What is known of the sound of a recording, which explains why it has no text."""

    seconds: float  # that were decoded
    peak: float  # highest absolute sample; 1 is full scale
    recognised: float  # seconds that the model was given: those with speech, or all of them without a detector
    vad: bool  # whether speech was detected

    def why_empty(self) -> str:
        """Say what was found instead of text, and what to try."""
        if self.peak < INAUDIBLE_PEAK:
            return f"no text: {self.seconds:.1f} s of silence; check which channel or microphone was recorded"
        found = f"no text in {self.seconds:.1f} s, peak {20 * math.log10(self.peak):.0f} dB"
        if not self.vad:
            return f"{found}: the model recognises no words; try another language or model"
        share = min(1.0, self.recognised / max(self.seconds, 1e-9))
        if not self.recognised:
            return f"{found}, speech in 0 % of it; try --no-vad if somebody speaks"
        return f"{found}, speech in {share:.0%} of it, but no words that are trusted; try another language or model"


@dataclass(frozen=True)
class TranscriptPart:
    """The next segments of a recording, and how much of the recording is done."""

    seconds: float  # of the recording that are done
    segments: Sequence[Segment] = ()
    file: int = 0  # index of the recording among several
    error: AudioError | None = None  # why the rest of the recording cannot be decoded
    sound: SoundFacts | None = None  # of the whole recording, in its last part
