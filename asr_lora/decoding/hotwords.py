"""Make the hotwords that a user lists likelier: names and terms that a model would otherwise misspell."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from asr_lora.decoding.decoding_options import DecodingOptions
from asr_lora.decoding.engine import Engine
from asr_lora.decoding.word_times import WITHOUT_BLANKS
from asr_lora.errors import ConfigError
from asr_lora.metrics.hotword_recall import read_hotwords
from asr_lora.metrics.normalize import find_normaliser
from asr_lora.model.whisper import MAX_PREVIOUS_TOKENS, Whisper
from asr_lora.system.progress import say

BEGIN, PROCEED = 0.0, 2.0  # chosen on dev, see reports/transcription


def with_hotwords(options: DecodingOptions, engine: Engine, path: Path) -> DecodingOptions:
    """Make the hotwords of a file, one per line, likelier.

    A list that fits the decoder's prompt is given as the text before the recording, which makes first tokens likelier
    too. Of a longer list that would help few, and cost other words (reports/transcription): there, the tokens that
    continue a hotword are boosted.

    Raises:
        ConfigError: the file lists none, or more than fit the prompt of an engine that takes no processors.
        DataError: the file cannot be read.
    """
    language = engine.whisper.prompt.language or "en"
    words = [word.written for word in read_hotwords(path, find_normaliser("none", language))]
    prompt, fit = hotword_prompt(engine.whisper, words)
    if fit < len(words) and engine.takes_processors:
        say(f"{path}: more than {fit} hotwords do not fit the prompt, so they are only continued once they have begun")
        return replace(options, processors=[*options.processors, hotword_boost(engine.whisper, words)])
    if fit < len(words):
        raise ConfigError(f"{path}: only {fit} of {len(words)} hotwords fit CTranslate2's prompt: take --engine torch")
    return replace(options, previous=(*prompt, *options.previous))


def hotword_prompt(whisper: Whisper, words: Sequence[str]) -> tuple[list[int], int]:
    """Return the tokens of a list of as many words as fit the decoder's prompt, and how many that are."""
    tokens: list[int] = []
    for count in range(1, len(words) + 1):
        longer = whisper.text_tokens(", ".join(words[:count]) + ".")
        if len(longer) > MAX_PREVIOUS_TOKENS:
            return tokens, count - 1
        tokens = longer
    return tokens, len(words)


def hotword_boost(whisper: Whisper, words: Sequence[str]) -> "HotwordBoost":
    """Make the processor that boosts the tokens of words."""
    tokens = [whisper.text_tokens(word) for word in words]
    if whisper.prompt.language in WITHOUT_BLANKS:
        tokens += [whisper.tokenizer.encode(word, add_special_tokens=False) for word in words]
    return HotwordBoost(tokens, begin=BEGIN, proceed=PROCEED)


class HotwordBoost:
    """Raise the scores of tokens that begin a hotword, and more so of tokens that continue one.

    It looks at the tokens of each row alone, so that it is the same in any batch. A hotword that is left half way keeps
    the added score: a greedy search could not take it back.
    """

    def __init__(self, hotwords: Sequence[Sequence[int]], *, begin: float, proceed: float) -> None:
        """Take hotwords as tokens that begin with a blank; add `begin` and `proceed` to log-probabilities."""
        self.begin, self.proceed = begin, proceed
        self.first = sorted({hotword[0] for hotword in hotwords})
        following: dict[tuple[int, ...], set[int]] = {}
        for hotword in hotwords:
            for place in range(1, len(hotword)):
                following.setdefault(tuple(hotword[:place]), set()).add(hotword[place])
        self.following = {prefix: sorted(tokens) for prefix, tokens in following.items()}
        self.deepest = max(map(len, self.following), default=0)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Raise scores: (rows, tokens), (rows, vocabulary) -> (rows, vocabulary)."""
        raised = scores.clone()
        raised[:, self.first] += self.begin
        for row, written in enumerate(input_ids[:, -self.deepest :].tolist() if self.deepest else []):
            for length in range(1, len(written) + 1):
                if tokens := self.following.get(tuple(written[-length:])):
                    raised[row, tokens] += self.proceed
        return raised
