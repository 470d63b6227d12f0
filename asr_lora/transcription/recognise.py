"""Transcribe windows: batch them by length, decode each with its own adapter, and make segments of the hypotheses."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
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
from asr_lora.model.adapters.multi_lora import BASE
from asr_lora.model.find_model import AdapterSelection
from asr_lora.model.whisper import MAX_TARGET_TOKENS, Whisper
from asr_lora.transcription.longform import Window
from asr_lora.transcription.segments import Segment, Word

BATCHES_AT_ONCE = 2  # windows of so many batches are gathered and sorted by length: with more, the user waits longer
Tag = TypeVar("Tag")


@dataclass(frozen=True)
class SelectedWindow:
    """A window, and the adapter selection that transcribes it."""

    window: Window
    selection: AdapterSelection


def transcribe_stream(
    engine: Engine, windows: Iterable[tuple[Tag, SelectedWindow | None]], options: DecodingOptions
) -> Iterator[tuple[Tag, list[Segment]]]:
    """Transcribe windows, perhaps of many files, a few batches at a time, and yield them in their order.

    Args:
        windows: each with a tag that is yielded with its segments; a tag without a window is passed on.
    """
    limit = BATCHES_AT_ONCE * engine.batch_seconds
    group: list[tuple[Tag, SelectedWindow | None]] = []
    gathered = 0.0
    for tag, selected in windows:
        group.append((tag, selected))
        gathered += context_seconds(selected.window.seconds, selected.selection.context) if selected else 0.0
        if gathered >= limit:
            yield from _transcribe_group(engine, group, options)
            group, gathered = [], 0.0
    yield from _transcribe_group(engine, group, options)


def _transcribe_group(
    engine: Engine, group: Sequence[tuple[Tag, SelectedWindow | None]], options: DecodingOptions
) -> Iterator[tuple[Tag, list[Segment]]]:
    found: dict[int, list[Segment]] = {}
    loud = {place: one for place, (_, one) in enumerate(group) if one is not None and not one.window.silent}
    for context in Context:
        places = [place for place, one in loud.items() if one.selection.context is context]
        seconds = [loud[place].window.seconds for place in places]
        cost = [context_seconds(length, context) for length in seconds]
        for rows in batches_by_length(seconds, cost, batch_seconds=engine.batch_seconds):
            batch = [places[row] for row in rows]
            segments = transcribe_windows(engine, [loud[place] for place in batch], options)
            found |= dict(zip(batch, segments, strict=True))
    for place, (tag, _) in enumerate(group):
        yield tag, found.get(place, [])


def transcribe_windows(
    engine: Engine, windows: Sequence[SelectedWindow], options: DecodingOptions
) -> list[list[Segment]]:
    """Transcribe windows of at most 30 s, all of one context, in one batch; a silent window gives no segment."""
    encoded = encode_windows(engine, windows)
    hypotheses = decode_windows(engine, encoded, windows, options)
    segments = make_segments(engine, encoded, windows, hypotheses, word_times=options.word_times)
    return _with_token_scores(engine, encoded, windows, segments) if options.token_scores else segments


def encode_windows(engine: Engine, windows: Sequence[SelectedWindow]) -> EncodedWindows:
    """Run the encoder on windows of one context, each with its adapter."""
    frames = context_frames(max(one.window.seconds for one in windows), windows[0].selection.context)
    return engine.encode([one.window.waveform for one in windows], frames, [one.selection.adapter for one in windows])


def decode_windows(
    engine: Engine, encoded: EncodedWindows, windows: Sequence[SelectedWindow], options: DecodingOptions
) -> list[Hypothesis]:
    """Decode encoded windows, each with the prompt of its selection."""
    whisper = engine.whisper
    previous = _previous_prompt(whisper, options.previous)
    prompts = [[*previous, *whisper.tokens_of(one.selection.prompt, timestamps=options.timestamps)] for one in windows]
    max_new_tokens = min(options.max_new_tokens, MAX_TARGET_TOKENS - len(prompts[0]))
    return recognise_windows(engine, encoded, prompts, replace(options, max_new_tokens=max_new_tokens))


def _previous_prompt(whisper: Whisper, tokens: Sequence[int]) -> list[int]:
    if not tokens:
        return []
    most = MAX_TARGET_TOKENS // 2 - 1
    return [whisper.no_speech_token - 1, *tokens[-most:]]  # <|startofprev|>


def make_segments(
    engine: Engine,
    encoded: EncodedWindows,
    windows: Sequence[SelectedWindow],
    hypotheses: Sequence[Hypothesis],
    *,
    word_times: bool,
) -> list[list[Segment]]:
    """Cut the hypotheses of windows into segments, with times in seconds of their file."""
    cut = [_cut(engine.whisper, hypothesis, one.window) for hypothesis, one in zip(hypotheses, windows, strict=True)]
    edges: list[np.ndarray] = []
    if word_times:
        tokens = [[token for piece in pieces for token in piece.tokens] for pieces in cut]
        prompts = [engine.whisper.tokens_of(one.selection.prompt) for one in windows]
        seconds = [one.window.seconds for one in windows]
        edges = engine.token_times(encoded, prompts, tokens, seconds)
    found = []
    for row, (one, pieces) in enumerate(zip(windows, cut, strict=True)):
        done = 0
        segments: list[Segment] = []
        for piece in pieces:
            count = len(piece.tokens)
            times = one.window.start + edges[row][done : done + count + 1] if word_times else None
            segments += _segment(engine.whisper, hypotheses[row], one, piece, times)
            done += count
        found.append(segments)
    return found


def _with_token_scores(
    engine: Engine, encoded: EncodedWindows, windows: Sequence[SelectedWindow], segments: Sequence[Sequence[Segment]]
) -> list[list[Segment]]:
    """Add the log-probability of each token to the segments of windows."""
    tokens = [[token for segment in some for token in segment.tokens] for some in segments]
    prompts = [engine.whisper.tokens_of(one.selection.prompt) for one in windows]
    scores = [iter(row.tolist()) for row in engine.token_scores(encoded, prompts, tokens)]
    return [
        [replace(segment, token_scores=tuple(islice(row, len(segment.tokens)))) for segment in some]
        for some, row in zip(segments, scores, strict=True)
    ]


@dataclass(frozen=True)
class _TimedTokens:
    """Text tokens between two timestamps."""

    start: float  # seconds within the window
    end: float
    tokens: list[int]


def _cut(whisper: Whisper, hypothesis: Hypothesis, window: Window) -> list[_TimedTokens]:
    """Cut a hypothesis at its timestamp tokens; without timestamps it is one piece."""
    found: list[_TimedTokens] = []
    start, text = 0.0, []
    for token in hypothesis.tokens:
        if token < whisper.end_token:
            text.append(token)
        elif token >= whisper.first_timestamp:
            now = min((token - whisper.first_timestamp) * STEP_SECONDS, window.seconds)
            if text:
                found.append(_TimedTokens(start, max(start, now), text))
                text = []
            start = now
    if text:
        found.append(_TimedTokens(start, window.seconds, text))
    return found


def _segment(
    whisper: Whisper, hypothesis: Hypothesis, one: SelectedWindow, piece: _TimedTokens, times: np.ndarray | None
) -> Iterator[Segment]:
    """Make a segment of a piece; a piece of blanks alone gives none."""
    text = plain_text(whisper, piece.tokens)
    if not text:
        return
    language, adapter = one.selection.prompt.language, one.selection.adapter
    words: list[Word] = []
    if times is not None:
        place = 0
        for word, count in split_words(whisper, piece.tokens, language):
            words.append(Word(float(times[place]), float(times[place + count]), word))
            place += count
    yield Segment(
        one.window.start + piece.start, one.window.start + piece.end, text, words=tuple(words), language=language,
        adapter=None if adapter == BASE else adapter, log_probability=hypothesis.log_probability,
        no_speech=hypothesis.no_speech, temperature=hypothesis.temperature, tokens=tuple(piece.tokens),
    )  # fmt: skip
