"""The interface of engines, which run a loaded model to transcribe, and the engine of PyTorch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor
from transformers.modeling_outputs import BaseModelOutput

from asr_lora.audio.features import context_seconds
from asr_lora.dataset.reading import Split
from asr_lora.decoding.decoding_options import DecodingOptions
from asr_lora.decoding.hypothesis import Hypothesis
from asr_lora.decoding.search import (
    batches_by_length,
    decode_batch,
    default_batch_seconds,
    encode_batch,
    plain_text,
    search,
)
from asr_lora.decoding.token_scores import token_scores
from asr_lora.decoding.word_times import token_times
from asr_lora.model.adapters.multi_lora import using_adapters
from asr_lora.model.whisper import Whisper, evaluating

Adapters = Sequence[str | None]  # the adapter of each row, see `model.adapters.multi_lora.using_adapters`


@dataclass(frozen=True)
class EncodedWindows:
    """The encoder outputs of windows, and the adapter of each."""

    outputs: torch.Tensor  # (windows, frames / 2, width)
    adapters: Adapters

    def select(self, rows: Sequence[int]) -> "EncodedWindows":
        return EncodedWindows(self.outputs[list(rows)], [self.adapters[row] for row in rows])


class Engine(Protocol):
    """The interface of an engine, as `transcribe` needs it."""

    @property
    def whisper(self) -> Whisper:
        """The model's tokenizer, prompt and settings; the engine keeps the weights in its own way."""

    @property
    def name(self) -> str:
        """Name of the engine, as `--engine` takes it."""

    @property
    def dtype(self) -> str:
        """Number format of the computation, such as float32 or int8."""

    @property
    def batch_seconds(self) -> float:
        """Seconds of audio that are best decoded at once."""

    @property
    def takes_processors(self) -> bool:
        """Whether `DecodingOptions.processors` may change the scores before every token."""

    def encode(self, waveforms: Sequence[np.ndarray], frames: int, adapters: Adapters) -> EncodedWindows:
        """Run the encoder on windows, each of shape (samples,) and padded to so many frames."""

    def search(
        self, windows: EncodedWindows, prompts: Sequence[Sequence[int]], options: DecodingOptions
    ) -> list[Hypothesis]:
        """Decode windows once, at `options.temperature`; prompts have equal length and may forbid timestamps."""

    def texts(self, waveforms: Sequence[np.ndarray], options: DecodingOptions) -> list[str]:
        """Transcribe recordings of at most 30 s in one batch, see `asr_lora.decoding.search.decode_batch`."""

    def detect_languages(self, windows: EncodedWindows) -> list[str]:
        """Return the code of each window's likeliest language among those that the model has tokens for."""

    def token_times(
        self,
        windows: EncodedWindows,
        prompts: Sequence[Sequence[int]],
        tokens: Sequence[Sequence[int]],
        seconds: Sequence[float],
    ) -> list[np.ndarray]:
        """Return the start of each token, and the end of the last; see `asr_lora.decoding.word_times.token_times`."""

    def token_scores(
        self, windows: EncodedWindows, prompts: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]
    ) -> list[np.ndarray]:
        """Return the log-probability of each token; see `asr_lora.decoding.token_scores.token_scores`."""


@dataclass(frozen=True)
class TorchEngine:
    """A Whisper in PyTorch, perhaps with several adapters on it."""

    whisper: Whisper
    name = "torch"
    takes_processors = True

    @property
    def dtype(self) -> str:
        return str(self.whisper.dtype).removeprefix("torch.")

    @property
    def batch_seconds(self) -> float:
        return default_batch_seconds(self.whisper)

    def encode(self, waveforms: Sequence[np.ndarray], frames: int, adapters: Adapters) -> EncodedWindows:
        with evaluating(self.whisper.model), using_adapters(self.whisper, adapters):
            return EncodedWindows(encode_batch(self.whisper, waveforms, frames), adapters)

    def search(
        self, windows: EncodedWindows, prompts: Sequence[Sequence[int]], options: DecodingOptions
    ) -> list[Hypothesis]:
        no_speech = self._start_probabilities(windows)[:, self.whisper.no_speech_token].tolist()
        processors = list(options.processors)
        if prompts[0][-1] != self.whisper.no_timestamps_token:
            settings = self.whisper.core.generation_config
            processors.append(WhisperTimeStampLogitsProcessor(settings, len(prompts[0])))
        rows = [adapter for adapter in windows.adapters for _ in range(options.beams)]
        device = windows.outputs.device
        with (
            using_adapters(self.whisper, rows),
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        ):
            torch.manual_seed(0)
            options = replace(options, processors=processors)
            given = torch.tensor(prompts, device=device)
            found = search(self.whisper, windows.outputs, given, options, confidence=True)
        return [
            Hypothesis(tuple(tokens), plain_text(self.whisper, tokens), mean, silent, options.temperature)
            for tokens, mean, silent in zip(found.tokens, found.log_probabilities, no_speech, strict=True)
        ]

    def texts(self, waveforms: Sequence[np.ndarray], options: DecodingOptions) -> list[str]:
        return decode_batch(self.whisper, waveforms, options)

    def detect_languages(self, windows: EncodedWindows) -> list[str]:
        names, tokens = zip(*self.whisper.core.generation_config.lang_to_id.items(), strict=True)
        probabilities = self._start_probabilities(windows)[:, torch.tensor(tokens)]
        return [str(names[place]).strip("<|>") for place in probabilities.argmax(-1).tolist()]

    def token_times(
        self,
        windows: EncodedWindows,
        prompts: Sequence[Sequence[int]],
        tokens: Sequence[Sequence[int]],
        seconds: Sequence[float],
    ) -> list[np.ndarray]:
        given = torch.tensor(prompts, device=windows.outputs.device)
        with using_adapters(self.whisper, windows.adapters):
            return token_times(self.whisper, windows.outputs, given, tokens, seconds)

    def token_scores(
        self, windows: EncodedWindows, prompts: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]
    ) -> list[np.ndarray]:
        given = torch.tensor(prompts, device=windows.outputs.device)
        with using_adapters(self.whisper, windows.adapters):
            return token_scores(self.whisper, windows.outputs, given, tokens)

    def _start_probabilities(self, windows: EncodedWindows) -> torch.Tensor:
        """Return the probabilities of the token after the start token: a language, or that nobody speaks.

        Returns:
            Shape (windows, vocabulary), float32.
        """
        outputs = windows.outputs
        start = torch.full((len(outputs), 1), self.whisper.prompt_tokens[0], device=outputs.device)
        with evaluating(self.whisper.model), using_adapters(self.whisper, windows.adapters):
            found = self.whisper.core(
                encoder_outputs=BaseModelOutput(last_hidden_state=outputs), decoder_input_ids=start, use_cache=False
            )
        probabilities: torch.Tensor = found.logits[:, 0].float().softmax(-1)
        return probabilities


def decode_split(
    engine: Engine, split: Split, options: DecodingOptions, *, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[list[int], list[str]]]:
    """Transcribe the utterances of a split, in batches of similar length.

    Args:
        rank: number of this process, from 0; it takes every `world_size`-th batch.
        world_size: number of processes that share the split.

    Yields:
        Indices into the split and their texts, a batch at a time.
    """
    cost = [context_seconds(seconds, engine.whisper.context) for seconds in split.seconds]
    batches = batches_by_length(split.seconds, cost, batch_seconds=engine.batch_seconds)
    for batch in islice(batches, rank, None, world_size):
        yield batch, engine.texts([split.waveform(index) for index in batch], options)
