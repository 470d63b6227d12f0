"""Windows -> segments: batched by length, each window heard by the voice that it is meant for."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor

from asr_lora.audio.features import context_frames, context_seconds
from asr_lora.model.whisper import MAX_TARGET_TOKENS, Whisper, evaluating
from asr_lora.transcription.decode import (
    MAX_NEW_TOKENS,
    Processor,
    batches_by_length,
    default_batch_seconds,
    encode_batch,
    plain_text,
)
from asr_lora.transcription.fallback import TEMPERATURES, Hypothesis, hear
from asr_lora.transcription.longform import Window
from asr_lora.transcription.segments import Segment, Word
from asr_lora.transcription.words import STEP_SECONDS, split_words, token_times

BATCHES_AT_ONCE = 2  # windows are gathered for so many batches, and sorted by length: more keeps the reader waiting
Tag = TypeVar("Tag")


@dataclass(frozen=True)
class Options:
    """How windows are transcribed."""

    beams: int = 1
    timestamps: bool = False  # segments by Whisper's timestamp tokens
    words: bool = False  # when each word is said
    temperatures: Sequence[float] = TEMPERATURES
    processors: Sequence[Processor] = ()  # what else changes scores
    previous: Sequence[int] = ()  # tokens of text that the decoder takes for what was said before


def listen(
    whisper: Whisper, windows: Iterable[tuple[Tag, Window | None]], options: Options
) -> Iterator[tuple[Tag, Window | None, list[Segment]]]:
    """Transcribe windows, perhaps of many files, a few batches at a time; they come out in the order they went in.

    Args:
        windows: each with whatever the caller wants back with it; what has no window passes through.
    """
    limit = BATCHES_AT_ONCE * default_batch_seconds(whisper)
    group: list[tuple[Tag, Window | None]] = []
    gathered = 0.0
    for tag, window in windows:
        group.append((tag, window))
        gathered += context_seconds(window.seconds, whisper.context) if window else 0.0
        if gathered >= limit:
            yield from _group(whisper, group, options)
            group, gathered = [], 0.0
    yield from _group(whisper, group, options)


def _group(
    whisper: Whisper, group: Sequence[tuple[Tag, Window | None]], options: Options
) -> Iterator[tuple[Tag, Window | None, list[Segment]]]:
    loud = [window for _, window in group if window and not window.silent]
    seconds = [window.seconds for window in loud]
    cost = [context_seconds(length, whisper.context) for length in seconds]
    found: dict[int, list[Segment]] = {}
    for batch in batches_by_length(seconds, cost, batch_seconds=default_batch_seconds(whisper)):
        heard = transcribe_windows(whisper, [loud[place] for place in batch], options)
        found |= {id(loud[place]): segments for place, segments in zip(batch, heard, strict=True)}
    for tag, window in group:
        yield tag, window, found.get(id(window), [])


def transcribe_windows(whisper: Whisper, windows: Sequence[Window], options: Options) -> list[list[Segment]]:
    """Transcribe windows of at most 30 s in one batch; silence gives no segment."""
    states = encode_windows(whisper, windows)
    heard = hear_windows(whisper, states, options)
    return segments_of(whisper, states, windows, heard, words=options.words)


def encode_windows(whisper: Whisper, windows: Sequence[Window]) -> torch.Tensor:
    """What the encoder says of windows: shape (windows, frames / 2, width)."""
    with evaluating(whisper.model):
        frames = context_frames(max(window.seconds for window in windows), whisper.context)
        return encode_batch(whisper, [window.waveform for window in windows], frames)


def hear_windows(whisper: Whisper, states: torch.Tensor, options: Options) -> list[Hypothesis]:
    """What the decoder makes of windows, with timestamps where they are wanted, after what was said before."""
    start = whisper.prompt_in(whisper.told_language, timestamps=options.timestamps)
    before = _said_before(whisper, options.previous)
    prompt = [*before, *start]
    processors = list(options.processors)
    if options.timestamps:
        processors.append(WhisperTimeStampLogitsProcessor(whisper.core.generation_config, len(prompt)))
    return hear(
        whisper, states, torch.tensor([prompt] * len(states), device=whisper.device), beams=options.beams,
        temperatures=options.temperatures, processors=processors,
        max_new_tokens=min(MAX_NEW_TOKENS, MAX_TARGET_TOKENS - len(prompt)),
    )  # fmt: skip


def _said_before(whisper: Whisper, tokens: Sequence[int]) -> list[int]:
    if not tokens:
        return []
    most = MAX_TARGET_TOKENS // 2 - 1
    return [whisper.no_speech_token - 1, *tokens[-most:]]  # <|startofprev|>


def segments_of(
    whisper: Whisper, states: torch.Tensor, windows: Sequence[Window], heard: Sequence[Hypothesis], *, words: bool
) -> list[list[Segment]]:
    """What was heard in windows as segments, in seconds of their file, with the times of words where wanted."""
    stretches = [_stretches(whisper, h, window) for h, window in zip(heard, windows, strict=True)]
    edges: list[np.ndarray] = []
    if words:
        tokens = [[token for stretch in found for token in stretch.tokens] for found in stretches]
        prompts = torch.tensor([whisper.prompt] * len(windows), device=whisper.device)
        edges = token_times(whisper, states, prompts, tokens, [window.seconds for window in windows])
    found = []
    for place, window in enumerate(windows):
        segments, done = [], 0
        for stretch in stretches[place]:
            count = len(stretch.tokens)
            times = window.start + edges[place][done : done + count + 1] if words else None
            segments += _segment(whisper, heard[place], window.start, stretch, times)
            done += count
        found.append(segments)
    return found


@dataclass(frozen=True)
class _Stretch:
    """Text tokens between two timestamps."""

    start: float  # seconds within the window
    end: float
    tokens: list[int]


def _stretches(whisper: Whisper, heard: Hypothesis, window: Window) -> list[_Stretch]:
    """Cut what was written at its timestamps; where there are none, it is one stretch."""
    found: list[_Stretch] = []
    start, text = 0.0, []
    for token in heard.tokens:
        if token < whisper.end_token:
            text.append(token)
        elif token >= whisper.first_timestamp:
            now = min((token - whisper.first_timestamp) * STEP_SECONDS, window.seconds)
            if text:
                found.append(_Stretch(start, max(start, now), text))
                text = []
            start = now
    if text:
        found.append(_Stretch(start, window.seconds, text))
    return found


def _segment(
    whisper: Whisper, heard: Hypothesis, zero: float, stretch: _Stretch, times: np.ndarray | None
) -> Iterator[Segment]:
    """A stretch as a segment; where nothing but blanks was written, none."""
    text = plain_text(whisper, stretch.tokens)
    if not text:
        return
    words: list[Word] = []
    if times is not None:
        place = 0
        for word, count in split_words(whisper, stretch.tokens, whisper.language):
            words.append(Word(float(times[place]), float(times[place + count]), word))
            place += count
    yield Segment(
        zero + stretch.start, zero + stretch.end, text, words=tuple(words), language=whisper.language,
        log_probability=heard.log_probability, no_speech=heard.no_speech,
    )  # fmt: skip
