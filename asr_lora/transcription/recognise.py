"""Transcribe windows: batch them by length, decode each with its own adapter, and make segments of the hypotheses."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
from asr_lora.model.whisper import MAX_PREVIOUS_TOKENS, MAX_TARGET_TOKENS, Whisper
from asr_lora.transcription.longform import Window
from asr_lora.transcription.segments import Segment, Word
from asr_lora.transcription.subtitles import SENTENCE

BATCHES_AT_ONCE = 2  # windows of so many batches are gathered and sorted by length: with more, the user waits longer
LONGEST_MEDIAN = 0.7  # seconds; a window whose median word is longer than this has few words and long pauses
PAUSE_SECONDS = 0.5  # a word that begins or ends so far outside of its segment's timestamps holds a pause
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
    return [whisper.no_speech_token - 1, *tokens[-MAX_PREVIOUS_TOKENS:]]  # <|startofprev|>


def make_segments(
    engine: Engine,
    encoded: EncodedWindows,
    windows: Sequence[SelectedWindow],
    hypotheses: Sequence[Hypothesis],
    *,
    word_times: bool,
) -> list[list[Segment]]:
    """Cut the hypotheses of windows into segments, with times in seconds of their file.

    Where words have times, a segment begins with its first word and ends with its last one, so that the two never
    contradict each other; otherwise its times are Whisper's timestamps.
    """
    cut = [_cut(engine.whisper, hypothesis, one.window) for hypothesis, one in zip(hypotheses, windows, strict=True)]
    edges: list[np.ndarray] = []
    if word_times:
        tokens = [[token for piece in pieces for token in piece.tokens] for pieces in cut]
        prompts = [engine.whisper.tokens_of(one.selection.prompt) for one in windows]
        seconds = [one.window.seconds for one in windows]
        edges = engine.token_times(encoded, prompts, tokens, seconds)
    found = []
    for row, (one, pieces) in enumerate(zip(windows, cut, strict=True)):
        words = _timed_words(engine.whisper, one, pieces, edges[row]) if word_times else [()] * len(pieces)
        segments = map(partial(_segment, engine.whisper, hypotheses[row], one), pieces, words)
        found.append([segment for segment in segments if segment is not None])
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


def _timed_words(
    whisper: Whisper, one: SelectedWindow, pieces: Sequence[_TimedTokens], edges: np.ndarray
) -> list[tuple[Word, ...]]:
    """Return the words of each piece, with times in seconds of the file.

    A first or last word that is half a second longer than the timestamps of its piece is cut at the timestamp, as in
    openai/whisper, timing.py.

    Args:
        edges: start of each token of the window, and end of the last one, in seconds within the window.
    """
    split = [split_words(whisper, piece.tokens, one.selection.prompt.language) for piece in pieces]
    texts = [text for words in split for text, _ in words]
    counts = [count for words in split for _, count in words]
    edges = np.minimum(edges, one.window.seconds)[np.cumsum([0, *counts])]
    times, found, place = shorten_pauses(texts, edges), [], 0
    for piece, words in zip(pieces, split, strict=True):
        own = times[place : place + len(words)]
        if words and edges[place] + PAUSE_SECONDS < piece.start < own[0, 1]:
            own[0, 0] = max(own[0, 0], piece.start)
        place += len(words)
        if words and own[-1, 0] < piece.end < edges[place] - PAUSE_SECONDS:
            own[-1, 1] = min(own[-1, 1], piece.end)
        shifted = (own + one.window.start).tolist()
        found.append(tuple(Word(start, end, text) for (start, end), (text, _) in zip(shifted, words, strict=True)))
    return found


def _segment(
    whisper: Whisper, hypothesis: Hypothesis, one: SelectedWindow, piece: _TimedTokens, words: tuple[Word, ...]
) -> Segment | None:
    """Make a segment of a piece; a piece of blanks alone gives none."""
    text = plain_text(whisper, piece.tokens)
    if not text:
        return None
    start, end = one.window.start + piece.start, one.window.start + piece.end
    if words:
        start, end = words[0].start, words[-1].end
    language, adapter = one.selection.prompt.language, one.selection.adapter
    return Segment(
        start, end, text, words=words, language=language, adapter=None if adapter == BASE else adapter,
        log_probability=hypothesis.log_probability, no_speech=hypothesis.no_speech,
        temperature=hypothesis.temperature, tokens=tuple(piece.tokens),
    )  # fmt: skip


def shorten_pauses(texts: Sequence[str], edges: np.ndarray) -> np.ndarray:
    """Take the pauses between sentences out of the words beside them, as in openai/whisper, timing.py.

    The alignment leaves no time between words, so a pause belongs to the word before or after it. A word that ends a
    sentence, and one that follows a sentence, is at most twice as long as the median word.

    Args:
        texts: the words of a window.
        edges: where each word begins, and the last one ends, in seconds, shape (words + 1,).

    Returns:
        Start and end of each word, shape (words, 2); starts never lie before `edges`, and ends never after them.
    """
    times = np.stack([edges[:-1], edges[1:]], axis=1)
    lengths = np.diff(edges)
    longest = 2 * min(LONGEST_MEDIAN, float(np.median(lengths[lengths > 0]))) if (lengths > 0).any() else np.inf
    for place, text in enumerate(texts):
        start, end = times[place]
        if end - start > longest and SENTENCE.search(text):
            times[place, 1] = start + longest
        elif end - start > longest and place and SENTENCE.search(texts[place - 1]):
            times[place, 0] = end - longest
    return times
