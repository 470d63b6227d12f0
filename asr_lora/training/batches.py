"""Read training examples from a dataset and collate them to micro-batches of log-mels and targets."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader

from asr_lora.audio.augment import augment_waveform, mask_features, no_speech
from asr_lora.audio.decode import SAMPLE_RATE
from asr_lora.audio.features import FRAMES_PER_SECOND, TAIL_SECONDS, frames_of, log_mel
from asr_lora.config import AugmentationSettings, ExampleSettings
from asr_lora.dataset.reading import Split
from asr_lora.model.whisper import MAX_TARGET_TOKENS, Whisper
from asr_lora.training.examples import GAP_SECONDS, Example, ScheduleSettings, schedule
from asr_lora.training.tensor_cache import TensorCache

IGNORED = -100  # labels that cross-entropy leaves out
TIMESTAMP_SECONDS = 0.02  # the step of Whisper's timestamp tokens


@dataclass(frozen=True)
class Batch:
    """One micro-batch."""

    features: torch.Tensor | None  # (batch, mel, frames) log-mel
    encoder_outputs: torch.Tensor | None  # (batch, frames / 2, width) of a frozen encoder, instead of features
    decoder_inputs: torch.Tensor  # (batch, tokens), with one start token in front
    labels: torch.Tensor  # (batch, tokens): the next token; IGNORED within the prompt and in the padding
    context_seconds: float = 0.0  # audio that the encoder sees of one row


class TrainingSet(torch.utils.data.Dataset[Batch]):
    """Utterances with their tokens; those that are too long are left out and listed by reason.

    An index is the list of examples of one micro-batch, which share one context, so that the workers of a DataLoader
    decode audio and compute log-mels.
    """

    def __init__(
        self,
        split: Split,
        whisper: Whisper,
        *,
        max_seconds: float = 30.0,
        examples: ExampleSettings | None = None,
        augmentation: AugmentationSettings | None = None,
    ) -> None:
        tokens = [whisper.text_tokens(text) for text in split.texts]
        self.left_out: dict[str, list[str]] = {}
        keep = []
        for index, (clip, seconds, text) in enumerate(zip(split.ids, split.seconds, tokens, strict=True)):
            if seconds > max_seconds:
                self.left_out.setdefault(f"longer than {max_seconds:g} s", []).append(clip)
            elif len(whisper.prompt_tokens) + len(text) + 1 > MAX_TARGET_TOKENS:
                self.left_out.setdefault(f"text over {MAX_TARGET_TOKENS} tokens", []).append(clip)
            else:
                keep.append(index)
        self.split = split.select(keep)
        self.tokens = [tokens[index] for index in keep]
        self.seconds = self.split.seconds
        self.mel_bins = whisper.mel_bins
        self.prompt = whisper.prompt_tokens
        self.end = whisper.end_token
        self.no_speech_token = whisper.no_speech_token
        self.first_timestamp = whisper.first_timestamp
        self.examples = examples or ExampleSettings()
        self.augmentation = augmentation or AugmentationSettings()
        self.features_cache: TensorCache | None = None
        self.encoder_cache: TensorCache | None = None

    def schedule(self, settings: ScheduleSettings) -> Iterator[list[Example]]:
        """Yield the examples of each optimiser step without end; see `asr_lora.training.examples.schedule`."""
        return schedule(self.seconds, [len(text) for text in self.tokens], settings)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, examples: Sequence[Example]) -> Batch:
        inputs, labels = collated([self.target(example) for example in examples])
        outputs = self.cached_encoder_outputs(examples)
        features = self.features(examples) if outputs is None else None
        return Batch(features, outputs, inputs, labels, examples[0].context)

    def features(self, examples: Sequence[Example]) -> torch.Tensor:
        """Log-mels of examples of one context, shape (batch, mel, frames)."""
        return torch.stack([self._features(example) for example in examples])

    def ids(self, example: Example) -> list[str]:
        return [self.split.ids[index] for index in example.utterances]

    def target_tokens(self, example: Example) -> int:
        """Number of target tokens of an example; no audio is read."""
        return sum(label != IGNORED for label in self.target(example)[1])

    @property
    def changes_sound(self) -> bool:
        """Whether augmentation changes the sound of an utterance from epoch to epoch."""
        changed = self.augmentation
        return bool(changed.noise or changed.reverb or changed.gain_db or changed.speeds != (1.0,))

    @property
    def masks(self) -> bool:
        return bool(self.augmentation.time_masks or self.augmentation.frequency_masks)

    def target(self, example: Example) -> tuple[list[int], list[int]]:
        """Return the decoder's input tokens and its labels, IGNORED where nothing is learnt.

        If the run has examples without speech, the first position is learnt too: the no-speech token or the language.
        """
        learns_speech = self.examples.no_speech > 0
        if not example.utterances:
            tokens = [*self.prompt, self.end]
            answers = [self.no_speech_token, *[IGNORED] * (len(tokens) - 3), self.end]
            return tokens[:-1], answers
        if example.timestamps:
            given = self.prompt[:-1]  # without the no-timestamps token
            text = self._timed_text(example)
        else:
            given, text = self.prompt, self.tokens[example.utterances[0]]
        tokens = [*given, *text, self.end]
        answers = [IGNORED] * (len(given) - 1) + tokens[len(given) :]
        if learns_speech and len(given) > 1:
            answers[0] = tokens[1]
        return tokens[:-1], answers

    def _timed_text(self, example: Example) -> list[int]:
        text = []
        for index, start in zip(example.utterances, self._starts(example), strict=True):
            times = (start, start + self.seconds[index])
            begin, end = (self.first_timestamp + round(time / TIMESTAMP_SECONDS) for time in times)
            text += [begin, *self.tokens[index], end]
        return text

    def _starts(self, example: Example) -> list[float]:
        """Start of each utterance in seconds: one after the other, with a random silence between them."""
        generator = random.Random(example.seed)
        starts, now = [], 0.0
        for index in example.utterances:
            starts.append(now)
            now += self.seconds[index] + generator.uniform(0.0, GAP_SECONDS)
        return starts

    def _waveform(self, example: Example) -> np.ndarray:
        if not example.utterances:
            return no_speech(example.seconds, self.augmentation.noise, example.seed)
        if len(example.utterances) == 1:
            waveform = self.split.waveform(example.utterances[0])
        else:
            waveform = np.zeros(round(example.seconds * SAMPLE_RATE), dtype=np.float32)
            for index, start in zip(example.utterances, self._starts(example), strict=True):
                piece = self.split.waveform(index)[: len(waveform) - round(start * SAMPLE_RATE)]
                waveform[round(start * SAMPLE_RATE) :][: len(piece)] = piece
        if self.changes_sound:
            waveform = augment_waveform(waveform, example.speed, self.augmentation, example.seed)
        return waveform

    def _features(self, example: Example) -> torch.Tensor:
        frames = frames_of(example.context)
        cache = self.features_cache if len(example.utterances) == 1 and not self.changes_sound else None
        if cache is None:
            features = log_mel(self._waveform(example), self.mel_bins, frames)
        else:
            features = self._cached_features(example, cache, frames)
        sound = min(frames, round(example.seconds * FRAMES_PER_SECOND))
        return mask_features(features, sound, self.augmentation, example.seed)

    def _cached_features(self, example: Example, cache: TensorCache, frames: int) -> torch.Tensor:
        """Log-mel from the float16 cache of the utterance and its silent tail, whose last frame is repeated."""
        key = self.ids(example)[0]
        kept = cache.get(key)
        if kept is None:
            own = frames_of(min(example.seconds + TAIL_SECONDS, 30.0))
            kept = log_mel(self._waveform(example), self.mel_bins, own).half()
            cache.put(key, kept)
        features = kept.float()[:, :frames]
        missing = frames - features.shape[1]
        return torch.cat([features, features[:, -1:].expand(-1, missing)], dim=1) if missing else features

    def encoder_key(self, example: Example) -> str:
        return f"{self.ids(example)[0]}:{frames_of(example.context)}"

    def cached_encoder_outputs(self, examples: Sequence[Example]) -> torch.Tensor | None:
        """Encoder outputs of a micro-batch, shape (batch, frames / 2, width); None unless all are in the cache."""
        if self.encoder_cache is None or any(len(example.utterances) != 1 for example in examples):
            return None
        outputs = []
        for example in examples:
            kept = self.encoder_cache.get(self.encoder_key(example))
            if kept is None:
                return None
            outputs.append(kept)
        return torch.stack(outputs)


def collated(targets: Sequence[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad decoder inputs and labels (see `TrainingSet.target`) to tensors of shape (batch, tokens).

    Padding goes by length, never by value: the pad token is also the end token, which must be learnt.
    """
    width = max(len(given) for given, _ in targets)
    inputs = torch.zeros(len(targets), width, dtype=torch.long)
    labels = torch.full((len(targets), width), IGNORED)
    for row, (given, answers) in enumerate(targets):
        inputs[row, : len(given)] = torch.tensor(given)
        labels[row, : len(answers)] = torch.tensor(answers)
    return inputs, labels


def load_batches(data: TrainingSet, batches: Iterable[Sequence[Example]], *, workers: int) -> Iterable[Batch]:
    """Read micro-batches in order; worker processes, if there are any, read ahead."""
    # The loader draws its seed from a generator of its own, so that it takes nothing from the one of dropout.
    return DataLoader(
        data,
        batch_size=None,
        sampler=batches,
        collate_fn=_as_it_is,  # type: ignore[arg-type]  # without batch_size it gets one item
        num_workers=workers,
        worker_init_fn=_ignore_signals,
        generator=torch.Generator(),
    )


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _ignore_signals(_: int) -> None:
    """Ctrl-C goes to every process of a terminal; only the one that trains may answer, and then ends its workers."""
    import signal

    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
