"""Batches by seconds of audio, an order that can be taken up anywhere, and collation."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from asr_lora.audio.dataset import Split
from asr_lora.audio.decode import SAMPLE_RATE
from asr_lora.audio.features import FRAMES_PER_SECOND, context_frames, context_seconds, log_mel
from asr_lora.config import Context
from asr_lora.model.whisper import MAX_TARGET_TOKENS, Whisper

IGNORED = -100  # what cross-entropy leaves out
BATCHES_PER_POOL = 16  # utterances are sorted by length among those of so many batches, and no further


@dataclass(frozen=True)
class Batch:
    """One micro-batch."""

    features: torch.Tensor  # (batch, mel, frames) log-mel
    decoder_inputs: torch.Tensor  # (batch, tokens): start token first, once
    labels: torch.Tensor  # (batch, tokens): what comes next; IGNORED within the prompt and in the padding
    speech_seconds: float
    ids: tuple[str, ...]

    @property
    def target_tokens(self) -> int:
        return int((self.labels != IGNORED).sum())

    @property
    def padding_share(self) -> float:
        """Share of the encoder's input that is not speech."""
        batch, _, frames = self.features.shape
        return 1.0 - self.speech_seconds * FRAMES_PER_SECOND / (batch * frames)


def schedule_batches(
    seconds: Sequence[float], *, batch_seconds: float, context: Context, seed: int
) -> Iterator[list[int]]:
    """Yield batches of utterances for ever, each epoch in another order.

    Utterances are shuffled, sorted by length within pools of some batches, packed until `batch_seconds`, and the
    batches shuffled. All follows from the seed, so skipping the first n batches takes up a run where it stopped.

    Args:
        seconds: length of each utterance.
        batch_seconds: most seconds the encoder sees at once, tails and padding included; at least one utterance.

    Yields:
        Indices of one batch's utterances.
    """
    cost = [context_seconds(length, context) for length in seconds]
    pool = max(1, round(BATCHES_PER_POOL * batch_seconds * len(cost) / sum(cost)))
    epoch = 0
    while True:
        generator = random.Random(f"{seed}:{epoch}")
        order = list(range(len(seconds)))
        generator.shuffle(order)
        batches: list[list[int]] = []
        for start in range(0, len(order), pool):
            batches += _packed(sorted(order[start : start + pool], key=seconds.__getitem__), cost, batch_seconds)
        generator.shuffle(batches)
        yield from batches
        epoch += 1


def _packed(order: list[int], cost: Sequence[float], batch_seconds: float) -> Iterator[list[int]]:
    batch: list[int] = []
    for index in order:  # shortest first, so the newest is the longest
        if batch and (len(batch) + 1) * cost[index] > batch_seconds:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


class TrainingSet(torch.utils.data.Dataset[tuple[str, np.ndarray, list[int]]]):
    """Utterances with their target tokens, those that cannot be learnt from left out and named by reason."""

    def __init__(self, split: Split, whisper: Whisper, *, max_seconds: float) -> None:
        targets = [whisper.target(text) for text in split.texts]
        self.left_out: dict[str, list[str]] = {}
        keep = []
        for index, (clip, seconds, target) in enumerate(zip(split.ids, split.seconds, targets, strict=True)):
            if seconds > max_seconds:
                self.left_out.setdefault(f"longer than {max_seconds:g} s", []).append(clip)
            elif len(target) > MAX_TARGET_TOKENS:
                self.left_out.setdefault(f"text over {MAX_TARGET_TOKENS} tokens", []).append(clip)
            else:
                keep.append(index)
        self.split = split.select(keep)
        self.targets = [targets[index] for index in keep]
        self.seconds = self.split.seconds

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[str, np.ndarray, list[int]]:
        return self.split.ids[index], self.split.waveform(index), self.targets[index]


@dataclass(frozen=True)
class Collator:
    """Waveforms and targets -> one Batch."""

    mel_bins: int
    context: Context
    prompt_tokens: int

    def __call__(self, items: Sequence[tuple[str, np.ndarray, list[int]]]) -> Batch:
        lengths = [len(waveform) / SAMPLE_RATE for _, waveform, _ in items]
        frames = context_frames(max(lengths), self.context)
        width = max(len(target) for _, _, target in items) - 1
        # Padding by length, never by value: the pad token is also the end token, which must be learnt.
        inputs = torch.zeros(len(items), width, dtype=torch.long)
        labels = torch.full((len(items), width), IGNORED)
        for row, (_, _, target) in enumerate(items):
            inputs[row, : len(target) - 1] = torch.tensor(target[:-1])
            labels[row, self.prompt_tokens - 1 : len(target) - 1] = torch.tensor(target[self.prompt_tokens :])
        return Batch(
            features=torch.stack([log_mel(waveform, self.mel_bins, frames) for _, waveform, _ in items]),
            decoder_inputs=inputs,
            labels=labels,
            speech_seconds=sum(lengths),
            ids=tuple(clip for clip, _, _ in items),
        )
