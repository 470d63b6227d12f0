"""Transcribe windows to segments: batched by length, each window by the adapter that is selected for it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from asr_lora.audio.features import context_frames, context_seconds
from asr_lora.config import Context
from asr_lora.decoding.decoding_options import DecodingOptions
from asr_lora.decoding.engine import EncodedWindows, Engine
from asr_lora.decoding.fallback import recognise_windows
from asr_lora.decoding.hypothesis import Hypothesis
from asr_lora.decoding.search import batches_by_length, plain_text
from asr_lora.decoding.word_times import STEP_SECONDS, split_words
from asr_lora.language import ForcedPrompt
from asr_lora.model.adapters.multi_lora import BASE
from asr_lora.model.find_model import AdapterSelection
from asr_lora.model.whisper import MAX_TARGET_TOKENS, Whisper
from asr_lora.transcription.longform import Window
from asr_lora.transcription.segments import Segment, Word

BATCHES_AT_ONCE = 2  # windows are gathered for so many batches, and sorted by length: more keeps the reader waiting
Tag = TypeVar("Tag")


@dataclass(frozen=True)
class Said:
    """A window, and the adapter that transcribes it."""

    window: Window
    selection: AdapterSelection


def listen(
    engine: Engine, windows: Iterable[tuple[Tag, Said | None]], options: DecodingOptions
) -> Iterator[tuple[Tag, list[Segment]]]:
    """Transcribe windows, perhaps of many files, a few batches at a time; they come out in the order they went in.

    Args:
        windows: each with whatever the caller wants back with it; what has no window passes through.
    """
    limit = BATCHES_AT_ONCE * engine.batch_seconds
    group: list[tuple[Tag, Said | None]] = []
    gathered = 0.0
    for tag, said in windows:
        group.append((tag, said))
        gathered += context_seconds(said.window.seconds, said.selection.context) if said else 0.0
        if gathered >= limit:
            yield from _group(engine, group, options)
            group, gathered = [], 0.0
    yield from _group(engine, group, options)


def _group(
    engine: Engine, group: Sequence[tuple[Tag, Said | None]], options: DecodingOptions
) -> Iterator[tuple[Tag, list[Segment]]]:
    found: dict[int, list[Segment]] = {}
    for context in Context:
        loud = [n for n, (_, said) in enumerate(group) if said and said.selection.context is context]
        loud = [n for n in loud if not group[n][1].window.silent]  # type: ignore[union-attr]
        some = [said for n in loud if (said := group[n][1])]
        seconds = [said.window.seconds for said in some]
        cost = [context_seconds(length, context) for length in seconds]
        for batch in batches_by_length(seconds, cost, batch_seconds=engine.batch_seconds):
            heard = transcribe_windows(engine, [some[place] for place in batch], options)
            found |= {loud[place]: segments for place, segments in zip(batch, heard, strict=True)}
    for number, (tag, _) in enumerate(group):
        yield tag, found.get(number, [])


def transcribe_windows(engine: Engine, said: Sequence[Said], options: DecodingOptions) -> list[list[Segment]]:
    """Transcribe windows of at most 30 s, of one context, in one batch; silence gives no segment."""
    encoded = encode_windows(engine, said)
    heard = decode_windows(engine, encoded, [one.selection.prompt for one in said], options)
    return segments_of(engine, encoded, said, heard, words=options.word_times)


def encode_windows(engine: Engine, said: Sequence[Said]) -> EncodedWindows:
    """Run the encoder on windows of one context, each with its adapter."""
    frames = context_frames(max(one.window.seconds for one in said), said[0].selection.context)
    return engine.encode([one.window.waveform for one in said], frames, [one.selection.adapter for one in said])


def decode_windows(
    engine: Engine, encoded: EncodedWindows, prompts: Sequence[ForcedPrompt], options: DecodingOptions
) -> list[Hypothesis]:
    """What the decoder makes of windows, with timestamps where they are wanted, after what was said before."""
    before = _said_before(engine.whisper, options.previous)
    given = [[*before, *engine.whisper.tokens_of(prompt, timestamps=options.timestamps)] for prompt in prompts]
    limit = min(options.max_new_tokens, MAX_TARGET_TOKENS - len(given[0]))
    return recognise_windows(engine, encoded, given, replace(options, max_new_tokens=limit))


def _said_before(whisper: Whisper, tokens: Sequence[int]) -> list[int]:
    if not tokens:
        return []
    most = MAX_TARGET_TOKENS // 2 - 1
    return [whisper.no_speech_token - 1, *tokens[-most:]]  # <|startofprev|>


def segments_of(
    engine: Engine, encoded: EncodedWindows, said: Sequence[Said], heard: Sequence[Hypothesis], *, words: bool
) -> list[list[Segment]]:
    """What was heard in windows as segments, in seconds of their file, with the times of words where wanted."""
    stretches = [_stretches(engine.whisper, h, one.window) for h, one in zip(heard, said, strict=True)]
    edges: list[np.ndarray] = []
    if words:
        tokens = [[token for stretch in found for token in stretch.tokens] for found in stretches]
        prompts = [engine.whisper.tokens_of(one.selection.prompt) for one in said]
        seconds = [one.window.seconds for one in said]
        edges = engine.token_times(encoded, prompts, tokens, seconds)
    found = []
    for place, one in enumerate(said):
        done = 0
        segments: list[Segment] = []
        for stretch in stretches[place]:
            count = len(stretch.tokens)
            times = one.window.start + edges[place][done : done + count + 1] if words else None
            segments += _segment(engine.whisper, heard[place], one, stretch, times)
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
    whisper: Whisper, heard: Hypothesis, said: Said, stretch: _Stretch, times: np.ndarray | None
) -> Iterator[Segment]:
    """A stretch as a segment; where nothing but blanks was written, none."""
    text = plain_text(whisper, stretch.tokens)
    if not text:
        return
    words: list[Word] = []
    if times is not None:
        place = 0
        for word, count in split_words(whisper, stretch.tokens, said.selection.prompt.language):
            words.append(Word(float(times[place]), float(times[place + count]), word))
            place += count
    zero, selection = said.window.start, said.selection
    adapter = None if selection.adapter == BASE else selection.adapter
    yield Segment(
        zero + stretch.start, zero + stretch.end, text, words=tuple(words), language=selection.prompt.language,
        adapter=adapter, log_probability=heard.log_probability, no_speech=heard.no_speech,
    )  # fmt: skip
