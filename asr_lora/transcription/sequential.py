"""Whisper's own way through a long file: windows of 30 s, each begun where the last one's timestamps end.

Each window is told what was said before it. As openai/whisper, transcribe.py; slower than windows cut in pauses, and an
error may carry on from one window to the next.
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
from asr_lora.model.whisper import MAX_TARGET_TOKENS, Whisper
from asr_lora.transcription.longform import Samples, Window
from asr_lora.transcription.recognise import Said, decode_windows, encode_windows, segments_of
from asr_lora.transcription.segments import Segment

FORGETS = 0.5  # temperature above which a text is not told to the next window


def transcribe_in_sequence(
    engine: Engine, blocks: Iterable[np.ndarray], options: DecodingOptions, choose: Callable[[Window], AdapterSelection]
) -> Iterator[tuple[float, list[Segment]]]:
    """Transcribe a stream window by window.

    Args:
        blocks: samples, each of shape (samples,), float32, 16 kHz.
        choose: who transcribes them, given the first window that is not silent.

    Yields:
        Seconds of the stream that are done, and the segments of a window.
    """
    full = int(FULL_SECONDS * SAMPLE_RATE)
    before, selection = tuple(options.previous), None
    stream, samples, more = iter(blocks), Samples(), True
    while True:
        while more and len(samples.kept) < full:
            block = next(stream, None)
            more = block is not None
            if block is not None:
                samples.add(block)
        if not len(samples.kept):
            return
        window = samples.window(samples.start, min(samples.start + full, samples.end))
        segments: list[Segment] = []
        if window.silent:
            after = window.seconds
        else:
            selection = selection or choose(window)
            said = [Said(window, selection)]
            encoded = encode_windows(engine, said)
            (heard,) = decode_windows(
                engine, encoded, [selection.prompt], replace(options, timestamps=True, previous=before)
            )
            heard, after = _until_cut(engine.whisper, heard, window, last=not more and len(samples.kept) <= full)
            (segments,) = segments_of(engine, encoded, said, [heard], words=options.word_times)
            text = tuple(token for token in heard.tokens if token < engine.whisper.end_token)
            before = (*before, *text)[-MAX_TARGET_TOKENS:] if heard.temperature <= FORGETS else tuple(options.previous)
        samples.forget(samples.start + max(1, round(after * SAMPLE_RATE)))
        yield samples.start / SAMPLE_RATE, segments


def _until_cut(whisper: Whisper, heard: Hypothesis, window: Window, *, last: bool) -> tuple[Hypothesis, float]:
    """What of a window is heard to its end, and the seconds after which the next window begins.

    What follows the last pair of timestamps was cut off by the window's end, so it is heard again in the next.
    """
    stamps = [token >= whisper.first_timestamp for token in heard.tokens]
    pairs = [place for place in range(1, len(stamps)) if stamps[place - 1] and stamps[place]]
    if last or not pairs or (stamps[-1] and not stamps[-2]):
        return heard, window.seconds
    cut = pairs[-1]
    after = (heard.tokens[cut - 1] - whisper.first_timestamp) * STEP_SECONDS
    if after <= 0:
        return heard, window.seconds
    return replace(heard, tokens=heard.tokens[:cut]), min(after, window.seconds)
