"""Decode a window again at higher temperatures where its hypothesis cannot be trusted.

The rules and numbers are those of openai/whisper, transcribe.py, but for three. A sample far less likely than the first
hypothesis does not replace it, since speech may truly repeat itself and the sample is then another text. Where no
hypothesis can be trusted, the likeliest one without repetition is kept. Samples are the same on every run.
"""

from collections.abc import Sequence
from dataclasses import replace

from asr_lora.decoding.decoding_options import DecodingOptions
from asr_lora.decoding.engine import EncodedWindows, Engine
from asr_lora.decoding.hypothesis import Hypothesis

LOOP = 4.0  # compression of a text that is surely a loop
MAX_LOSS = 0.1  # of mean log-probability, from a first hypothesis that is no loop to one that may replace it


def recognise_windows(
    engine: Engine,
    windows: EncodedWindows,
    prompts: Sequence[Sequence[int]],
    options: DecodingOptions,
) -> list[Hypothesis]:
    """Decode windows, each at the first temperature whose hypothesis can be trusted.

    Args:
        prompts: tokens of equal length, one sequence per window.

    Returns:
        One hypothesis per window, without text where the window is silent.
    """
    tries: list[list[Hypothesis]] = [[] for _ in prompts]
    left = list(range(len(prompts)))
    for temperature in (options.temperature, *options.fallback):
        attempt = replace(options, temperature=temperature, beams=1 if temperature else options.beams)
        found = engine.search(windows.select(left), [prompts[row] for row in left], attempt)
        for row, hypothesis in zip(left, found, strict=True):
            tries[row].append(hypothesis)
        left = [row for row in left if not _settled(tries[row])]
        if not left:
            break
    return [_chosen(hypotheses) for hypotheses in tries]


def _settled(tries: Sequence[Hypothesis]) -> bool:
    """Whether the last hypothesis can be trusted and is likely enough compared with the first."""
    return tries[-1].trusted and _likely(tries[-1], tries[0])


def _likely(tried: Hypothesis, first: Hypothesis) -> bool:
    return first.compression > LOOP or tried.log_probability >= first.log_probability - MAX_LOSS


def _chosen(tries: Sequence[Hypothesis]) -> Hypothesis:
    likely = [tried for tried in tries if _likely(tried, tries[0])]
    best = tries[-1] if _settled(tries) else max(likely, key=lambda h: (not h.repeats, h.log_probability))
    return replace(best, tokens=(), text="") if best.silence else best
