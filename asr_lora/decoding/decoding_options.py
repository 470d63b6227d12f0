"""Define the options of decoding, which are made once and passed as one value."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the help screens need the defaults, and not torch
    import torch

# tokens and scores -> scores, as in transformers
Processor = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]

BEAMS = 5  # of evaluate and transcribe, as in openai/whisper and faster-whisper; reports/engines
MAX_NEW_TOKENS = 224  # half the text context, as in openai/whisper, decoding.py: DecodingOptions.sample_len
FALLBACK_TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)  # as in openai/whisper, transcribe.py


@dataclass(frozen=True)
class DecodingOptions:
    """Options of decoding; by default greedy search, as during training, without timestamps and word times."""

    beams: int = 1  # width of the beam search at temperature 0; 1 is greedy
    temperature: float = 0.0  # 0 takes the likeliest token; above 0, tokens are sampled
    fallback: Sequence[float] = ()  # temperatures tried next, in this order, for a hypothesis that is not trusted
    max_new_tokens: int = MAX_NEW_TOKENS
    processors: Sequence[Processor] = ()  # change scores before a token is chosen, each row by its own tokens alone
    timestamps: bool = False  # whether Whisper's timestamp tokens are allowed, which cut the text into segments
    word_times: bool = False  # whether the start and end of each word are computed
    token_scores: bool = False  # whether the log-probability of each token is computed
    previous: Sequence[int] = ()  # tokens that the decoder takes for the text before
