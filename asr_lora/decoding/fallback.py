"""A hypothesis that cannot be trusted is drawn again at a higher temperature; one on silence is dropped.

The rules and numbers are those of openai/whisper, transcribe.py, but for three: a draw far less likely than what it
would replace does not, since speech may truly repeat itself and what is drawn then is another text; where nothing can
be trusted, the likeliest is kept that does not repeat itself; and draws are the same whenever they are made.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from asr_lora.decoding.engine import Decoding, Engine
from asr_lora.decoding.search import Processor, plain_text

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
MOST_COMPRESSION = 2.4  # beyond, it repeats itself
LOOP = 4.0  # beyond, as nobody speaks
LEAST_LOG_PROBABILITY = -1.0  # mean over tokens
MOST_LOSS = 0.1  # of mean log-probability, from a first hypothesis that is no loop to one that may replace it
NO_SPEECH = 0.6  # chance that nobody speaks, beyond which an unlikely text is silence


@dataclass(frozen=True)
class Hypothesis:
    """What a window was heard as."""

    tokens: tuple[int, ...]  # text and timestamps, without prompt and end
    text: str
    log_probability: float  # mean over its tokens and end
    no_speech: float  # chance that nobody speaks
    temperature: float

    @property
    def compression(self) -> float:
        """Bytes of text to those that zlib makes of them."""
        raw = self.text.encode()
        return len(raw) / len(zlib.compress(raw))

    @property
    def repeats(self) -> bool:
        return self.compression > MOST_COMPRESSION

    @property
    def silence(self) -> bool:
        return self.no_speech > NO_SPEECH and self.log_probability < LEAST_LOG_PROBABILITY

    @property
    def trusted(self) -> bool:
        """Whether no other temperature need be tried."""
        return self.silence or not (self.repeats or self.log_probability < LEAST_LOG_PROBABILITY)


def hear(
    engine: Engine,
    states: torch.Tensor,
    prompts: Sequence[Sequence[int]],
    *,
    adapters: Sequence[str | None],
    beams: int = 1,
    temperatures: Sequence[float] = TEMPERATURES,
    processors: Sequence[Processor] = (),
    max_new_tokens: int,
) -> list[Hypothesis]:
    """Transcribe what the encoder said of windows, each at the first temperature whose hypothesis can be trusted.

    Args:
        states: shape (windows, frames / 2, width).
        prompts: of equal length, one a window.
        adapters: of each window, see `asr_lora.model.adapters.multi_lora.speaking`.
        temperatures: tried in this order; beams are for 0 alone.
        processors: what else changes scores; they must not mind which windows share a batch.

    Returns:
        One hypothesis a window, without text where it is silence.
    """
    tries: list[list[Hypothesis]] = [[] for _ in prompts]
    left = list(range(len(prompts)))
    for temperature in temperatures:
        found = engine.search(
            states[left], [prompts[row] for row in left], [adapters[row] for row in left],
            Decoding(1 if temperature else beams, temperature, max_new_tokens, processors),
        )  # fmt: skip
        for row, heard in zip(left, found, strict=True):
            text = plain_text(engine.whisper, heard.tokens)
            tries[row].append(
                Hypothesis(tuple(heard.tokens), text, heard.log_probability, heard.no_speech, temperature)
            )
        left = [row for row in left if not _settled(tries[row])]
        if not left:
            break
    return [_chosen(those) for those in tries]


def _settled(tries: Sequence[Hypothesis]) -> bool:
    """Whether the last hypothesis can be trusted, and is likely enough beside the first."""
    return tries[-1].trusted and _likely(tries[-1], tries[0])


def _likely(tried: Hypothesis, first: Hypothesis) -> bool:
    return first.compression > LOOP or tried.log_probability >= first.log_probability - MOST_LOSS


def _chosen(tries: Sequence[Hypothesis]) -> Hypothesis:
    likely = [tried for tried in tries if _likely(tried, tries[0])]
    best = tries[-1] if _settled(tries) else max(likely, key=lambda h: (not h.repeats, h.log_probability))
    return replace(best, tokens=(), text="") if best.silence else best
