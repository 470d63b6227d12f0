"""What runs a loaded model for transcription: PyTorch here, CTranslate2 in `ctranslate2_engine.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor
from transformers.modeling_outputs import BaseModelOutput

from asr_lora.decoding.search import Processor, default_batch_seconds, encode_batch, search
from asr_lora.decoding.word_times import token_times
from asr_lora.model.adapters.multi_lora import speaking
from asr_lora.model.whisper import Whisper, evaluating

Adapters = Sequence[str | None]  # whose voice each window is heard with, see `model.adapters.multi_lora.speaking`


@dataclass(frozen=True)
class Candidate:
    """What a search wrote for one window."""

    tokens: list[int]  # text and timestamps, without prompt and end
    log_probability: float  # mean over them and the end
    no_speech: float  # chance that nobody speaks


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen."""

    beams: int  # 1 is greedy
    temperature: float  # 0 takes the likeliest token, above it one is drawn by chance
    max_new_tokens: int
    processors: Sequence[Processor] = ()  # what else changes scores, before tokens are chosen


class Engine(Protocol):
    """What transcribing asks of an engine. States are what its encoder says: (windows, frames / 2, width)."""

    @property
    def whisper(self) -> Whisper:
        """Prompts, tokens and settings of the model; its weights are the engine's own affair."""

    @property
    def batch_seconds(self) -> float:
        """Audio that is best decoded at once."""

    @property
    def takes_processors(self) -> bool:
        """Whether others may look at scores, and change them, at every token."""

    def encode(self, waveforms: Sequence[np.ndarray], frames: int, adapters: Adapters) -> torch.Tensor:
        """States of clips, each of shape (samples,), of which the encoder sees so many frames."""

    def search(
        self, states: torch.Tensor, prompts: Sequence[Sequence[int]], adapters: Adapters, how: Decoding
    ) -> list[Candidate]:
        """Write what follows prompts of equal length, with timestamps where these do not forbid them."""

    def languages(self, states: torch.Tensor, adapters: Adapters) -> list[str]:
        """The likeliest language of each window, of those that the model has tokens for."""

    def token_times(
        self,
        states: torch.Tensor,
        prompts: Sequence[Sequence[int]],
        tokens: Sequence[Sequence[int]],
        seconds: Sequence[float],
        adapters: Adapters,
    ) -> list[np.ndarray]:
        """When each token of windows begins, and the last one ends; see `asr_lora.decoding.word_times.token_times`."""


@dataclass(frozen=True)
class TorchEngine:
    """A Whisper in PyTorch, perhaps with adapters side by side."""

    whisper: Whisper
    takes_processors = True

    @property
    def batch_seconds(self) -> float:
        return default_batch_seconds(self.whisper)

    def encode(self, waveforms: Sequence[np.ndarray], frames: int, adapters: Adapters) -> torch.Tensor:
        with evaluating(self.whisper.model), speaking(self.whisper, adapters):
            return encode_batch(self.whisper, waveforms, frames)

    def search(
        self, states: torch.Tensor, prompts: Sequence[Sequence[int]], adapters: Adapters, how: Decoding
    ) -> list[Candidate]:
        with speaking(self.whisper, adapters):
            no_speech = self._first_look(states)[:, self.whisper.no_speech_token].tolist()
        processors = list(how.processors)
        if prompts[0][-1] != self.whisper.no_timestamps_token:
            settings = self.whisper.core.generation_config
            processors.append(WhisperTimeStampLogitsProcessor(settings, len(prompts[0])))
        rows = [adapter for adapter in adapters for _ in range(how.beams)]
        devices = [states.device] if states.device.type == "cuda" else []
        with speaking(self.whisper, rows), torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            written = search(
                self.whisper, states, torch.tensor(prompts, device=states.device), beams=how.beams,
                temperature=how.temperature, processors=processors, max_new_tokens=how.max_new_tokens, confidence=True,
            )  # fmt: skip
        return list(map(Candidate, written.tokens, written.log_probabilities, no_speech))

    def languages(self, states: torch.Tensor, adapters: Adapters) -> list[str]:
        names, tokens = zip(*self.whisper.core.generation_config.lang_to_id.items(), strict=True)
        with speaking(self.whisper, adapters):
            chances = self._first_look(states)[:, torch.tensor(tokens)]
        return [str(names[place]).strip("<|>") for place in chances.argmax(-1).tolist()]

    def token_times(
        self,
        states: torch.Tensor,
        prompts: Sequence[Sequence[int]],
        tokens: Sequence[Sequence[int]],
        seconds: Sequence[float],
        adapters: Adapters,
    ) -> list[np.ndarray]:
        with speaking(self.whisper, adapters):
            return token_times(self.whisper, states, torch.tensor(prompts, device=states.device), tokens, seconds)

    def _first_look(self, states: torch.Tensor) -> torch.Tensor:
        """Chances of every token after the start alone, where Whisper says the language, or that nobody speaks.

        Returns:
            Shape (windows, vocabulary), float32.
        """
        start = torch.full((len(states), 1), self.whisper.prompt[0], device=states.device)
        with evaluating(self.whisper.model):
            found = self.whisper.core(
                encoder_outputs=BaseModelOutput(last_hidden_state=states), decoder_input_ids=start, use_cache=False
            )
        chances: torch.Tensor = found.logits[:, 0].float().softmax(-1)
        return chances
