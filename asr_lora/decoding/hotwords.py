"""Names and terms that a user lists, made likelier: what has begun like one is helped to end like one."""

from collections.abc import Sequence
from pathlib import Path

import torch

from asr_lora.decoding.word_times import WITHOUT_BLANKS
from asr_lora.metrics.hotword_recall import read_hotwords
from asr_lora.metrics.normalize import find_normaliser
from asr_lora.model.whisper import Whisper

BEGIN, PROCEED = 0.0, 2.0  # chosen on dev, see reports/transcription


def term_bias(whisper: Whisper, path: Path) -> "Bias":
    """The bias towards the terms in a file, one a line.

    Raises:
        ConfigError: there is none in it.
        DataError: the file cannot be read.
    """
    terms = [term.written for term in read_hotwords(path, find_normaliser("none", whisper.language or "en"))]
    found = [whisper.text_tokens(term) for term in terms]
    if whisper.language in WITHOUT_BLANKS:
        found += [whisper.tokenizer.encode(term, add_special_tokens=False) for term in terms]
    return Bias(found, begin=BEGIN, proceed=PROCEED)


class Bias:
    """Raises the scores of tokens that begin a term, and more so of those that go on with it.

    It minds nothing but the tokens of each row, so that it is the same in any batch. A term that is left half way keeps
    what it was given: a greedy search could not take it back.
    """

    def __init__(self, terms: Sequence[Sequence[int]], *, begin: float, proceed: float) -> None:
        """Take terms as tokens, led by a blank; `begin` and `proceed` are added to log-probabilities."""
        self.begin, self.proceed = begin, proceed
        self.first = sorted({term[0] for term in terms})
        following: dict[tuple[int, ...], set[int]] = {}
        for term in terms:
            for place in range(1, len(term)):
                following.setdefault(tuple(term[:place]), set()).add(term[place])
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
