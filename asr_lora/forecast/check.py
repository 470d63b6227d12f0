"""Forecast what training with a config takes on this machine."""

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
    MemoryForecast,
    ModelSize,
    ScheduleSummary,
    TimeForecast,
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
from asr_lora.system.processes import ProcessGroup
from asr_lora.training.batches import TrainingSet
from asr_lora.training.examples import Example, ScheduleSettings, micro_batches, padding, plain_examples
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
    make_schedule_settings,
    require_place,
    run_fingerprint,
)

PROBED_STEPS = 3


@dataclass(frozen=True)
class ForecastInputs:
    """Everything that a forecast is computed from; the learner's model has no weights."""

    config: RunConfig
    learner: Learner
    data: TrainingSet
    dev: Split
    settings: ScheduleSettings
    steps: list[list[Example]]  # of the whole run
    tokens: list[list[int]]  # number of decoder tokens of each of their examples
    libraries: int  # bytes that the process had before the model was made

    @property
    def whisper(self) -> Whisper:
        return self.learner.whisper

    @property
    def device(self) -> torch.device:
        return self.learner.processes.device

    @property
    def quantise(self) -> Quantise:
        return base_quantise(self.config, self.device)

    @property
    def micro_batch_seconds(self) -> float:
        """Seconds of audio in memory at once."""
        return self.config.training.initial_micro_batch_seconds

    @property
    def encoded(self) -> bool:
        """Whether the encoder's outputs come from a cache."""
        return keeps_encoder_outputs(self.config, self.data, self.settings)


def check(config: RunConfig, *, probe: bool = True, price_per_hour: float | None = None) -> Forecast:
    """Predict what `train` with this config takes on this machine, in one process; write nothing.

    The schedule is the run's own. Memory is that of the model's own code, run over shapes alone. Time is that of a few
    real steps and a decoded batch; without `probe` no weights are loaded and no time is given.

    Args:
        config: the config of the run.
        probe: whether to load the model and time it.
        price_per_hour: price of this machine, for the cost.

    Raises:
        ConfigError: the settings do not fit the model.
        DataError: the dataset or model cannot be used.
        torch.OutOfMemoryError: the probe ran out of memory although the forecast fits.
    """
    inputs = _subject(config)
    plan = _plan(inputs)
    memory = _memory(inputs, plan)
    # A run that does not fit is not probed: a machine out of memory may end more than this process.
    measured = _time(inputs, plan) if probe and memory.fits else None
    facts = _facts(inputs, plan, memory, measured)
    trainable, total = count_parameters(inputs.whisper.model)
    return Forecast(
        config.method, trainable, total, plan, memory, measured, price_per_hour, tuple(warnings_of(config, facts))
    )


def _subject(config: RunConfig) -> ForecastInputs:
    DatasetFolder(config.data.dataset).read()
    device = default_device()
    dtype = compute_dtype(config.model.precision, device)
    whisper = load_meta_for_training(config, device, dtype)
    data, dev = load_training_set(config, whisper), dev_split(config)
    settings = make_schedule_settings(config, whisper)
    steps = list(islice(data.schedule(settings), config.training.steps))
    given = [[len(data.target(example)[0]) for example in step] for step in steps]
    learner = make_learner(config, whisper, ProcessGroup(0, 1, device), dtype)
    return ForecastInputs(config, learner, data, dev, settings, steps, given, resident_memory_bytes())


def _plan(inputs: ForecastInputs) -> ScheduleSummary:
    data, training = inputs.data, inputs.config.training
    return ScheduleSummary(
        steps=training.steps,
        epochs=round(utterances(inputs.steps) / len(data), 3),
        utterances=len(data),
        left_out={reason: len(ids) for reason, ids in data.left_out.items()},
        hours=round(sum(data.seconds) / 3600, 4),
        padding=padding(inputs.steps),
        micro_batches=max(len(micro_batches(step, inputs.micro_batch_seconds)) for step in inputs.steps),
        evaluations=evaluations(training.steps, training.evaluate_every_steps, training.average_last),
        dev_utterances=len(inputs.dev),
    )


# Memory.


def _memory(inputs: ForecastInputs, plan: ScheduleSummary) -> MemoryForecast:
    config, model = inputs.config, inputs.whisper.model
    cpu = inputs.device.type == "cpu"
    weights = weights_bytes(model, inputs.quantise)
    trained = sum(value.numel() * value.element_size() for value in inputs.learner.parameters)
    optimiser = optimiser_bytes(model, config.optimiser) + extra_bytes(inputs.whisper)
    available = available_memory_bytes(inputs.device)
    activations, step = _largest_step(inputs)
    # A GPU's allocator counts tensors alone; of a process's memory all is counted.
    other = inputs.libraries if cpu else 0
    data = _data_bytes(inputs, plan.epochs) if cpu else 0
    kept = kept_bytes(step, config.training.steps) if cpu else 0
    always = other + data + kept + weights + optimiser
    return MemoryForecast(
        weights=weights,
        gradients=trained,
        optimiser=optimiser,
        activations=activations,
        other=other,
        data=data,
        kept=kept,
        loading=other + (2 if cpu else 1) * weights,  # the file is mapped while it is read
        step=always + step,
        decoding=always + _decoding(inputs),
        saving=always + (trained if cpu else 0),  # tensors become bytes before they are written
        available=available,
    )


def _largest_step(inputs: ForecastInputs) -> tuple[int, int]:
    """Bytes of the largest micro-batch: what its forward saves, and the most at once."""
    accumulates = any(len(micro_batches(step, inputs.micro_batch_seconds)) > 1 for step in inputs.steps)
    found = [
        step_footprint(
            inputs.learner,
            inputs.data,
            batch,
            inputs.micro_batch_seconds,
            encoded=inputs.encoded,
            accumulates=accumulates,
        )
        for batch in largest(inputs.steps, inputs.tokens, inputs.micro_batch_seconds)
    ]
    return max(one.activations for one in found), max(one.peak for one in found)


def _decoding(inputs: ForecastInputs) -> int:
    whisper, dev = inputs.whisper, inputs.dev
    if not len(dev):
        return 0
    cost = [context_seconds(seconds, whisper.context) for seconds in dev.seconds]
    batches = batches_by_length(dev.seconds, cost, batch_seconds=default_batch_seconds(whisper))
    most = max(batches, key=lambda batch: len(batch) * cost[batch[0]])
    return decoding_footprint(inputs.learner, len(most), cost[most[0]], MAX_NEW_TOKENS)


def _data_bytes(inputs: ForecastInputs, epochs: float) -> int:
    """Bytes of the dataset that a run reads: mapped into memory, they stay there while there is room."""
    splits = DatasetFolder(inputs.config.data.dataset).read().splits

    def read(name: str, seconds: float, times: float) -> float:
        whole = max(seconds, 3600 * float(splits[name].hours), 1.0)
        return float(splits[name].bytes) * seconds / whole * min(1.0, times)

    return round(read("train", sum(inputs.data.seconds), epochs) + read("dev", sum(inputs.dev.seconds), 1.0))


# Time.


def _time(inputs: ForecastInputs, plan: ScheduleSummary) -> TimeForecast:
    size = _size(inputs.whisper)
    work = [
        step_work(step, given, size, micro_batch_seconds=inputs.micro_batch_seconds, encoded=inputs.encoded)
        for step, given in zip(inputs.steps, inputs.tokens, strict=True)
    ]
    places = representative(work, min(PROBED_STEPS, len(work)))
    learner = inputs.learner
    took = run_probe(
        inputs.config, learner.processes, learner.dtype, inputs.data, inputs.dev,
        [inputs.steps[place] for place in places], encoded=inputs.encoded,
    )  # fmt: skip
    encoded = sum(example.context for example in plain_examples(inputs.data.seconds)) if inputs.encoded else 0.0
    return TimeForecast(
        load=took.load,
        encode=took.encode * encoded,
        step=mean_step_seconds(took.steps, [work[place] for place in places], sum(work) / len(work)),
        evaluation=took.evaluation,
        final=_hashing_seconds(sum(value.nbytes for value in learner.parameters)),
        steps=plan.steps,
        evaluations=plan.evaluations,
    )


def _size(whisper: Whisper) -> ModelSize:
    config = whisper.core.config
    return ModelSize(config.d_model, config.encoder_layers, config.decoder_layers, config.vocab_size)


def _hashing_seconds(size: int) -> float:
    """Seconds of the digest of the weights that end a run."""
    block = bytes(2**24)
    begun = time.perf_counter()
    hashlib.sha256(block).digest()
    return (time.perf_counter() - begun) * size / len(block)


# Facts for the advice.


def _facts(
    inputs: ForecastInputs, plan: ScheduleSummary, memory: MemoryForecast, measured: TimeForecast | None
) -> Facts:
    config, data = inputs.config, inputs.data
    shared = DatasetFolder(config.data.dataset).read().shared_between_splits
    true_length = sum(context_seconds(seconds, Context.TRUE_LENGTH) for seconds in data.seconds)
    return Facts(
        plan=plan,
        memory=memory,
        time=measured,
        device=inputs.device.type,
        quantise=inputs.quantise,
        width=_size(inputs.whisper).width,
        longest_context=max(context_seconds(seconds, config.model.context) for seconds in data.seconds),
        padded_work=FULL_SECONDS * len(data) / true_length,
        encoder_frozen=encoder_is_frozen(inputs.whisper),
        changes_sound=data.changes_sound,
        shared_speakers=shared["train and dev"].speakers if "train and dev" in shared else 0,
        peak_without_checkpointing=_peak_without_checkpointing(inputs, plan),
        place=_refusal(config),
    )


def _peak_without_checkpointing(inputs: ForecastInputs, plan: ScheduleSummary) -> int | None:
    if not inputs.config.training.gradient_checkpointing:
        return None
    learner = replace(inputs.learner, always_checkpoint=False)
    return _memory(replace(inputs, learner=learner), plan).peak


def _refusal(config: RunConfig) -> str | None:
    """The reason why `train` would refuse the run folder; None if it would not."""
    folder = RunFolder(config.out)
    if not folder.root.exists():
        return None
    try:
        require_place(folder, run_fingerprint(config), resume=False)
    except (ConfigError, DataError) as error:
        return f"train would refuse: {error}"
    return None
