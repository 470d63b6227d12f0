"""Time a few real steps and one decoded batch on this machine; nothing is written."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from asr_lora.audio.features import context_seconds
from asr_lora.config import RunConfig
from asr_lora.dataset.reading import Split
from asr_lora.decoding.decoding_options import DecodingOptions
from asr_lora.decoding.search import batches_by_length, decode_batch, default_batch_seconds
from asr_lora.model.adapters.adalora import allocate_rank
from asr_lora.system.processes import ProcessGroup
from asr_lora.training.batches import Batch, TrainingSet
from asr_lora.training.examples import Example, micro_batches
from asr_lora.training.learner import Learner
from asr_lora.training.optim import build_optimiser
from asr_lora.training.setup import load_for_training, make_learner


@dataclass(frozen=True)
class Probe:
    """Measured times, in seconds."""

    load: float
    steps: tuple[float, ...]  # one after another, the warm-up left out
    encode: float  # per second of audio, by a frozen encoder whose outputs are cached; 0 where they are not
    evaluation: float  # of all dev utterances


def run_probe(
    config: RunConfig, processes: ProcessGroup, dtype: torch.dtype, data: TrainingSet, dev: Split,
    steps: Sequence[list[Example]], *, encoded: bool,
) -> Probe:  # fmt: skip
    """Load the model as `train` does, take optimiser steps, the first to warm up, and decode a batch of dev.

    Args:
        config: the config of the run.
        processes: a group of one process.
        dtype: number format of the computation.
        data: the utterances of `steps`.
        dev: the utterances that an evaluation decodes.
        steps: the examples of each step; the first is taken twice.
        encoded: whether the run keeps a frozen encoder's outputs.

    Raises:
        torch.OutOfMemoryError: a step does not fit.
    """
    begun = time.perf_counter()
    torch.manual_seed(config.training.seed)
    learner = make_learner(config, load_for_training(config, processes.device, dtype), processes, dtype)
    optimiser = build_optimiser(learner.whisper.model, config.optimiser)
    load = time.perf_counter() - begun
    encoding, took = [], []
    for number, examples in enumerate([steps[0], *steps], 1):
        begun = time.perf_counter()
        batches = [data[group] for group in micro_batches(examples, config.training.initial_micro_batch_seconds)]
        read = time.perf_counter() - begun
        if encoded:
            batches, seconds = _encoded(learner, batches)
            encoding.append((read + seconds) / sum(example.context for example in examples))
            read = 0.0
        tokens = sum(data.target_tokens(example) for example in examples)
        took.append((0.0 if config.data.workers else read) + _step(learner, optimiser, batches, tokens, number, config))
    # The first was to warm up.
    encode = sum(encoding[1:]) / len(steps) if encoded else 0.0
    return Probe(load, tuple(took[1:]), encode, _evaluation_seconds(learner, dev))


def _step(
    learner: Learner, optimiser: torch.optim.Optimizer, batches: list[Batch], tokens: int, step: int, config: RunConfig
) -> float:
    """Take one optimiser step as the training loop does; return its time in seconds."""
    begun = time.perf_counter()
    loss = learner.gradients(
        batches, tokens=tokens, seed=config.training.seed, step=step,
        micro_batch_seconds=config.training.initial_micro_batch_seconds,
    )  # fmt: skip
    if loss is None:
        raise torch.OutOfMemoryError("not enough memory for a step")
    torch.nn.utils.clip_grad_norm_(learner.parameters, config.optimiser.clip_norm)
    optimiser.step()
    allocate_rank(learner.whisper, step)
    optimiser.zero_grad()
    _finish(learner.processes.device)
    return time.perf_counter() - begun


def _encoded(learner: Learner, batches: list[Batch]) -> tuple[list[Batch], float]:
    """Return the batches with encoder outputs instead of log-mels, and the seconds that the encoder took."""
    begun = time.perf_counter()
    with torch.inference_mode(), learner.autocast():
        outputs = [learner.whisper.encode(batch.features) for batch in batches if batch.features is not None]
    _finish(learner.processes.device)
    took = time.perf_counter() - begun
    return [
        replace(batch, features=None, encoder_outputs=kept.clone())
        for batch, kept in zip(batches, outputs, strict=True)
    ], took


def _evaluation_seconds(learner: Learner, dev: Split) -> float:
    """Seconds of decoding all dev utterances, from one batch of them.

    The untrained model may repeat itself where the trained one does not, so the batch is given as many tokens as its
    longest reference has, and the others are reckoned by their seconds and longest references.
    """
    whisper = learner.whisper
    cost = [context_seconds(seconds, whisper.context) for seconds in dev.seconds]
    batches = list(batches_by_length(dev.seconds, cost, batch_seconds=default_batch_seconds(whisper)))
    seen = [len(batch) * cost[batch[0]] for batch in batches]
    longest = [max(len(whisper.text_tokens(dev.texts[index])) + 1 for index in batch) for batch in batches]
    middle = sorted(range(len(batches)), key=seen.__getitem__)[len(batches) // 2]
    waveforms = [dev.waveform(index) for index in batches[middle]]
    with learner.autocast():
        decode_batch(whisper, waveforms[:1], DecodingOptions(max_new_tokens=2))  # to warm up
        first, whole = (_timed(learner, waveforms, tokens) for tokens in (1, max(2, longest[middle])))
    a_token = max(0.0, whole - first) / max(1, longest[middle] - 1)
    return first / seen[middle] * sum(seen) + a_token * sum(count - 1 for count in longest)


def _timed(learner: Learner, waveforms: Sequence[object], tokens: int) -> float:
    begun = time.perf_counter()
    decode_batch(learner.whisper, waveforms, DecodingOptions(max_new_tokens=tokens))  # type: ignore[arg-type]
    _finish(learner.processes.device)
    return time.perf_counter() - begun


def _finish(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
