"""Transcribe a long file sequentially, as openai/whisper does (transcribe.py).

Each window of 30 s begins where the last window's timestamps end, and its prompt holds the text before it. This is
slower than windows that are cut at pauses, and an error may carry over from one window to the next.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np

from asr_lora.audio.decode import SAMPLE_RATE
from asr_lora.audio.features import FULL_SECONDS
from asr_lora.decoding.decoding_options import DecodingOptions
from asr_lora.decoding.engine import Engine
from asr_lora.decoding.hypothesis import Hypothesis
from asr_lora.decoding.word_times import STEP_SECONDS
from asr_lora.model.find_model import AdapterSelection
from asr_lora.model.whisper import MAX_PREVIOUS_TOKENS, Whisper
from asr_lora.transcription.longform import SampleBuffer, Window
from asr_lora.transcription.recognise import SelectedWindow, decode_windows, encode_windows, make_segments
from asr_lora.transcription.segments import TranscriptPart

MAX_PROMPT_TEMPERATURE = 0.5  # text that was sampled at a higher temperature is not in the next window's prompt


def transcribe_in_sequence(
    engine: Engine,
    blocks: Iterable[np.ndarray],
    options: DecodingOptions,
    select: Callable[[Window], AdapterSelection],
) -> Iterator[TranscriptPart]:
    """Transcribe a stream, and yield the segments of one window after another.

    Args:
        blocks: samples, each of shape (samples,), float32, 16 kHz.
        select: returns the adapter selection for the stream, given its first window that is not silent.
    """
    full = int(FULL_SECONDS * SAMPLE_RATE)
    room = MAX_PREVIOUS_TOKENS - len(options.previous)  # for the text before, beside the prompt that was given
    before: tuple[int, ...] = ()
    selection = None
    stream, samples, more = iter(blocks), SampleBuffer(), True
    while True:
        while more and len(samples.kept) < full:
            block = next(stream, None)
            more = block is not None
            if block is not None:
                samples.add(block)
        if not len(samples.kept):
            return
        window = samples.window(samples.start, min(samples.start + full, samples.end))
        part = TranscriptPart(window.end)
        if not window.silent:
            selection = selection or select(window)
            batch = [SelectedWindow(window, selection)]
            encoded, given = encode_windows(engine, batch), (*options.previous, *before)
            (whole,) = decode_windows(engine, encoded, batch, replace(options, timestamps=True, previous=given))
            last = not more and len(samples.kept) <= full
            hypothesis, seconds = _complete_part(engine.whisper, whole, window, last=last)
            # The words are aligned within what they cover, since the next window begins where they end.
            covered = replace(window, waveform=window.waveform[: round(seconds * SAMPLE_RATE)])
            batch = [SelectedWindow(covered, selection)]
            (segments,) = make_segments(engine, encoded, batch, [hypothesis], word_times=options.word_times)
            part = TranscriptPart(window.start + seconds, segments)
            text = tuple(token for token in hypothesis.tokens if token < engine.whisper.end_token)
            keep = hypothesis.temperature <= MAX_PROMPT_TEMPERATURE
            before = (*before, *text)[-room:] if keep and room > 0 else ()
        samples.drop(max(samples.start + 1, round(part.seconds * SAMPLE_RATE)))
        yield part


def _complete_part(whisper: Whisper, hypothesis: Hypothesis, window: Window, *, last: bool) -> tuple[Hypothesis, float]:
    """Cut a hypothesis after its last complete segment, and return how many seconds of the window that covers.

    The end of the window cuts through the text after the last pair of timestamps, so the next window transcribes it
    again.
    """
    stamps = [token >= whisper.first_timestamp for token in hypothesis.tokens]
    pairs = [place for place in range(1, len(stamps)) if stamps[place - 1] and stamps[place]]
    if last or not pairs or (stamps[-1] and not stamps[-2]):
        return hypothesis, window.seconds
    cut = pairs[-1]
    seconds = (hypothesis.tokens[cut - 1] - whisper.first_timestamp) * STEP_SECONDS
    if seconds <= 0:
        return hypothesis, window.seconds
    return replace(hypothesis, tokens=hypothesis.tokens[:cut]), min(seconds, window.seconds)
