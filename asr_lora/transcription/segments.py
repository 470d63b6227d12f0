"""Segments: transcribed text with its times."""

from collections.abc import Sequence
from dataclasses import dataclass

from asr_lora.errors import AudioError


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
class TranscriptPart:
    """The next segments of a recording, and how much of the recording is done."""

    seconds: float  # of the recording that are done
    segments: Sequence[Segment] = ()
    file: int = 0  # index of the recording among several
    error: AudioError | None = None  # why the rest of the recording cannot be decoded
