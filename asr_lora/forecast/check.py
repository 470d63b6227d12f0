"""The job: a config -> what training with it will take, before anything is spent."""

import hashlib
import time
from dataclasses import dataclass, replace
from itertools import islice

import torch

from asr_lora.audio.features import FULL_SECONDS, context_seconds
from asr_lora.config import Context, Quantise, RunConfig
from asr_lora.dataset.reading import Split
from asr_lora.decoding.decoding_options import MAX_NEW_TOKENS
from asr_lora.decoding.search import batches_by_length, default_batch_seconds
from asr_lora.errors import ConfigError, DataError
from asr_lora.folders.dataset_folder import DatasetFolder
from asr_lora.folders.run_folder import RunFolder
from asr_lora.forecast.advice import Facts, warnings_of
from asr_lora.forecast.estimate import (
    Forecast,
    Memory,
    Plan,
    Size,
    Time,
    evaluations,
    kept_bytes,
    largest,
    mean_step_seconds,
    representative,
    step_work,
    utterances,
)
from asr_lora.forecast.footprint import decoding_footprint, step_footprint
from asr_lora.forecast.probe import run_probe
from asr_lora.model.adapters.adalora import extra_bytes
from asr_lora.model.meta_model import weights_bytes
from asr_lora.model.trainable import count_parameters
from asr_lora.model.whisper import Whisper
from asr_lora.system.device import compute_dtype, default_device
from asr_lora.system.memory import available_memory_bytes, resident_memory_bytes
from asr_lora.system.processes import Team
from asr_lora.training.batches import TrainingSet
from asr_lora.training.examples import Example, Recipe, micro_batches, padding, plain_examples
from asr_lora.training.learner import Learner
from asr_lora.training.optim import optimiser_bytes
from asr_lora.training.setup import (
    base_quantise,
    dev_split,
    encoder_is_frozen,
    keeps_encoder_outputs,
    load_meta_for_training,
    load_training_set,
    make_learner,
    make_recipe,
    require_place,
    run_fingerprint,
)

PROBED_STEPS = 3


@dataclass(frozen=True)
class Subject:
    """All that a forecast looks at; the learner's model has no weights."""

    config: RunConfig
    learner: Learner
    data: TrainingSet
    dev: Split
    recipe: Recipe
    steps: list[list[Example]]  # of the whole run
    tokens: list[list[int]]  # that the decoder is given for each of their examples
    libraries: int  # bytes that the process had before there was a model

    @property
    def whisper(self) -> Whisper:
        return self.learner.whisper

    @property
    def device(self) -> torch.device:
        return self.learner.team.device

    @property
    def quantise(self) -> Quantise:
        return base_quantise(self.config, self.device)

    @property
    def at_once(self) -> float:
        """Seconds of audio in memory at once."""
        return self.config.training.at_once

    @property
    def encoded(self) -> bool:
        """Whether the encoder's outputs come from a cache."""
        return keeps_encoder_outputs(self.config, self.data, self.recipe)


def check(config: RunConfig, *, probe: bool = True, price_per_hour: float | None = None) -> Forecast:
    """Predict what `train` with this config takes on this machine, in one process; write nothing.

    The schedule is the run's own. Memory is that of the model's own code, run over shapes alone. Time is that of a few
    real steps and a decoded batch; without `probe` no weights are loaded and no time is given.

    Args:
        config: of the run.
        probe: whether to load the model and time it.
        price_per_hour: of this machine, for the cost.

    Raises:
        ConfigError: the settings do not fit the model.
        DataError: the dataset or model cannot be used.
        torch.OutOfMemoryError: memory does not suffice for the probe's steps, against all prediction.
    """
    subject = _subject(config)
    plan = _plan(subject)
    memory = _memory(subject, plan)
    # What does not fit is not tried: a machine out of memory may end more than this process.
    measured = _time(subject, plan) if probe and memory.fits else None
    facts = _facts(subject, plan, memory, measured)
    trainable, total = count_parameters(subject.whisper.model)
    return Forecast(
        config.method, trainable, total, plan, memory, measured, price_per_hour, tuple(warnings_of(config, facts))
    )


def _subject(config: RunConfig) -> Subject:
    DatasetFolder(config.data.dataset).read()
    device = default_device()
    dtype = compute_dtype(config.model.precision, device)
    whisper = load_meta_for_training(config, device, dtype)
    data, dev = load_training_set(config, whisper), dev_split(config)
    recipe = make_recipe(config, whisper)
    steps = list(islice(data.schedule(recipe), config.training.steps))
    given = [[len(data.target(example)[0]) for example in step] for step in steps]
    learner = make_learner(config, whisper, Team(0, 1, device), dtype)
    return Subject(config, learner, data, dev, recipe, steps, given, resident_memory_bytes())


def _plan(subject: Subject) -> Plan:
    data, training = subject.data, subject.config.training
    return Plan(
        steps=training.steps,
        epochs=round(utterances(subject.steps) / len(data), 3),
        utterances=len(data),
        left_out={reason: len(ids) for reason, ids in data.left_out.items()},
        hours=round(sum(data.seconds) / 3600, 4),
        padding=padding(subject.steps),
        micro_batches=max(len(micro_batches(step, subject.at_once)) for step in subject.steps),
        evaluations=evaluations(training.steps, training.evaluate_every_steps, training.average_last),
        dev_utterances=len(subject.dev),
    )


# Memory.


def _memory(subject: Subject, plan: Plan) -> Memory:
    config, model = subject.config, subject.whisper.model
    cpu = subject.device.type == "cpu"
    weights = weights_bytes(model, subject.quantise)
    trained = sum(value.numel() * value.element_size() for value in subject.learner.parameters)
    optimiser = optimiser_bytes(model, config.optimiser) + extra_bytes(subject.whisper)
    available = available_memory_bytes(subject.device)
    activations, step = _largest_step(subject)
    # A GPU's allocator counts tensors alone; of a process's memory all is counted.
    other = subject.libraries if cpu else 0
    data = _data_bytes(subject, plan.epochs) if cpu else 0
    kept = kept_bytes(step, config.training.steps) if cpu else 0
    always = other + data + kept + weights + optimiser
    return Memory(
        weights=weights,
        gradients=trained,
        optimiser=optimiser,
        activations=activations,
        other=other,
        data=data,
        kept=kept,
        loading=other + (2 if cpu else 1) * weights,  # the file is mapped while it is read
        step=always + step,
        decoding=always + _decoding(subject),
        saving=always + (trained if cpu else 0),  # tensors become bytes before they are written
        available=available,
    )


def _largest_step(subject: Subject) -> tuple[int, int]:
    """Bytes of the largest micro-batch: what its forward saves, and the most at once."""
    accumulates = any(len(micro_batches(step, subject.at_once)) > 1 for step in subject.steps)
    found = [
        step_footprint(
            subject.learner, subject.data, batch, subject.at_once, encoded=subject.encoded, accumulates=accumulates
        )
        for batch in largest(subject.steps, subject.tokens, subject.at_once)
    ]
    return max(one.activations for one in found), max(one.peak for one in found)


def _decoding(subject: Subject) -> int:
    whisper, dev = subject.whisper, subject.dev
    if not len(dev):
        return 0
    cost = [context_seconds(seconds, whisper.context) for seconds in dev.seconds]
    batches = batches_by_length(dev.seconds, cost, batch_seconds=default_batch_seconds(whisper))
    most = max(batches, key=lambda batch: len(batch) * cost[batch[0]])
    return decoding_footprint(subject.learner, len(most), cost[most[0]], MAX_NEW_TOKENS)


def _data_bytes(subject: Subject, epochs: float) -> int:
    """Bytes of the dataset that a run reads: mapped into memory, they stay there while there is room."""
    splits = DatasetFolder(subject.config.data.dataset).read()["splits"]

    def read(name: str, seconds: float, times: float) -> float:
        whole = max(seconds, 3600 * float(splits[name]["hours"]), 1.0)
        return float(splits[name]["bytes"]) * seconds / whole * min(1.0, times)

    return round(read("train", sum(subject.data.seconds), epochs) + read("dev", sum(subject.dev.seconds), 1.0))


# Time.


def _time(subject: Subject, plan: Plan) -> Time:
    size = _size(subject.whisper)
    work = [
        step_work(step, given, size, at_once=subject.at_once, encoded=subject.encoded)
        for step, given in zip(subject.steps, subject.tokens, strict=True)
    ]
    places = representative(work, min(PROBED_STEPS, len(work)))
    learner = subject.learner
    took = run_probe(
        subject.config, learner.team, learner.dtype, subject.data, subject.dev,
        [subject.steps[place] for place in places], encoded=subject.encoded,
    )  # fmt: skip
    heard = sum(example.context for example in plain_examples(subject.data.seconds)) if subject.encoded else 0.0
    return Time(
        load=took.load,
        encode=took.encode * heard,
        step=mean_step_seconds(took.steps, [work[place] for place in places], sum(work) / len(work)),
        evaluation=took.evaluation,
        final=_hashing_seconds(sum(value.nbytes for value in learner.parameters)),
        steps=plan.steps,
        evaluations=plan.evaluations,
    )


def _size(whisper: Whisper) -> Size:
    config = whisper.core.config
    return Size(config.d_model, config.encoder_layers, config.decoder_layers, config.vocab_size)


def _hashing_seconds(size: int) -> float:
    """Seconds of the digest of the weights that end a run."""
    block = bytes(2**24)
    begun = time.perf_counter()
    hashlib.sha256(block).digest()
    return (time.perf_counter() - begun) * size / len(block)


# What the advice looks at.


def _facts(subject: Subject, plan: Plan, memory: Memory, measured: Time | None) -> Facts:
    config, data = subject.config, subject.data
    shared = DatasetFolder(config.data.dataset).read().get("shared_between_splits", {})
    true_length = sum(context_seconds(seconds, Context.TRUE_LENGTH) for seconds in data.seconds)
    return Facts(
        plan=plan,
        memory=memory,
        time=measured,
        device=subject.device.type,
        quantise=subject.quantise,
        width=_size(subject.whisper).width,
        longest_context=max(context_seconds(seconds, config.model.context) for seconds in data.seconds),
        padded_work=FULL_SECONDS * len(data) / true_length,
        encoder_frozen=encoder_is_frozen(subject.whisper),
        changes_sound=data.changes_sound,
        shared_speakers=shared.get("train and dev", {}).get("speakers", 0),
        peak_without_checkpointing=_peak_without_checkpointing(subject, plan),
        place=_refusal(config),
    )


def _peak_without_checkpointing(subject: Subject, plan: Plan) -> int | None:
    if not subject.config.training.gradient_checkpointing:
        return None
    learner = replace(subject.learner, always_checkpoint=False)
    return _memory(replace(subject, learner=learner), plan).peak


def _refusal(config: RunConfig) -> str | None:
    """Why `train` would not write to the run folder as it is."""
    folder = RunFolder(config.out)
    if not folder.root.exists():
        return None
    try:
        require_place(folder, run_fingerprint(config), resume=False)
    except (ConfigError, DataError) as error:
        return f"train would refuse: {error}"
    return None
