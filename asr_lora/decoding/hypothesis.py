"""A hypothesis of one window, and whether it can be trusted by the rules of openai/whisper, transcribe.py."""

import zlib
from dataclasses import dataclass

MAX_COMPRESSION = 2.4  # a text that zlib compresses by more repeats itself
MIN_LOG_PROBABILITY = -1.0  # mean over tokens
NO_SPEECH = 0.6  # probability that nobody speaks, beyond which an unlikely text is silence


@dataclass(frozen=True)
class Hypothesis:
    """What the decoder wrote for one window."""

    tokens: tuple[int, ...]  # text and timestamps, without prompt and end
    text: str
    log_probability: float  # mean over the tokens and the end
    no_speech: float  # probability that nobody speaks
    temperature: float

    @property
    def compression(self) -> float:
        """Bytes of the text, divided by the bytes that zlib compresses them to."""
        raw = self.text.encode()
        return len(raw) / len(zlib.compress(raw))

    @property
    def repeats(self) -> bool:
        return self.compression > MAX_COMPRESSION

    @property
    def silence(self) -> bool:
        return self.no_speech > NO_SPEECH and self.log_probability < MIN_LOG_PROBABILITY

    @property
    def trusted(self) -> bool:
        """Whether no other temperature need be tried."""
        return self.silence or not (self.repeats or self.log_probability < MIN_LOG_PROBABILITY)
