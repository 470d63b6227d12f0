"""Warn of settings and data that are known to fail: one sentence each, with the setting that mends it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from asr_lora.config import Context, Method, Quantise, RunConfig
from asr_lora.forecast.estimate import MemoryForecast, ScheduleSummary, TimeForecast

HIGH_FOR_EVERY_WEIGHT = 1e-4
LOW_FOR_AN_ADAPTER, HIGH_FOR_AN_ADAPTER = 5e-5, 1e-2
LOW_FOR_ADALORA = 3e-3
MOST_SCALE = 8.0  # alpha over rank
EPOCHS = (1.0, 20.0)
MUCH_PADDING = 2.0  # work with padding over work without
ROOMY = 0.7  # share of the available memory that a run may take safely


@dataclass(frozen=True)
class Facts:
    """Measured facts about a run, beside its settings."""

    plan: ScheduleSummary
    memory: MemoryForecast
    time: TimeForecast | None  # None: not probed
    device: str  # cpu or cuda
    quantise: Quantise  # as resolved
    width: int  # of the model
    longest_context: float  # seconds that the encoder sees of the longest example
    padded_work: float  # the encoder's work at 30 s for every utterance, over its work at true length
    encoder_frozen: bool
    changes_sound: bool  # whether augmentation changes the sound of an utterance each time
    shared_speakers: int  # of train and dev
    peak_without_checkpointing: int | None  # bytes; None: it is off
    place: str | None  # why `train` would refuse the run folder as it is


def warnings_of(config: RunConfig, facts: Facts) -> list[str]:
    """Return every warning, the most costly mistake first."""
    groups = (
        _place_warnings,
        _memory_warnings,
        _rate_warnings,
        _adapter_warnings,
        _length_warnings,
        _evaluations_warnings,
        _context_warnings,
        _cache_warnings,
        _data_warnings,
    )
    return [sentence for group in groups for sentence in group(config, facts)]


def _place_warnings(config: RunConfig, facts: Facts) -> Iterator[str]:  # noqa: ARG001
    if facts.place:
        yield facts.place


def _memory_warnings(config: RunConfig, facts: Facts) -> Iterator[str]:
    memory, training = facts.memory, config.training
    if memory.available is not None and not memory.fits:
        yield (
            f"the run needs {memory.wanted / 1e9:.1f} GB and {memory.available / 1e9:.1f} GB are available, so it was "
            "not timed: lower training.micro_batch_seconds, or set training.gradient_checkpointing=true, or choose a "
            "smaller model"
        )
    roomy = ROOMY * memory.available if memory.available is not None else math.inf
    without = facts.peak_without_checkpointing
    if without is not None and without - memory.other < roomy:
        yield (
            f"training.gradient_checkpointing computes every layer twice, and the run fits into memory without "
            f"it ({without / 1e9:.1f} GB): set training.gradient_checkpointing=false"
        )
    if facts.device == "cpu" and facts.quantise is not Quantise.NONE:
        yield (
            f"model.quantise={facts.quantise}: on a CPU a quantised base costs more time and memory than it saves; "
            "set model.quantise=none"
        )
    if training.micro_batch_seconds and training.micro_batch_seconds > training.batch_seconds:
        yield (
            "training.micro_batch_seconds is more than training.batch_seconds and has no effect: lower it, or leave "
            "it out"
        )


def _rate_warnings(config: RunConfig, facts: Facts) -> Iterator[str]:  # noqa: ARG001
    rate, steps = config.optimiser.learning_rate, config.training.steps
    if config.method is Method.FULL:
        if rate >= HIGH_FOR_EVERY_WEIGHT:
            yield (
                f"optimiser.learning_rate={rate:g} is high for full fine-tuning and makes it forget: begin with "
                "1e-5, or 2e-5 for a small model"
            )
    elif rate <= LOW_FOR_AN_ADAPTER:
        yield f"optimiser.learning_rate={rate:g} is very low for an adapter, which hardly changes: begin with 1e-3"
    elif config.method is Method.ADALORA and rate < LOW_FOR_ADALORA:
        yield (
            f"optimiser.learning_rate={rate:g}: adalora learns slowly at the rates of lora; give it five to ten times "
            "as much, such as 5e-3"
        )
    elif config.method is not Method.ADALORA and rate >= HIGH_FOR_AN_ADAPTER:
        yield f"optimiser.learning_rate={rate:g} is high for an adapter, which may diverge: begin with 1e-3"
    if config.optimiser.warmup_steps > steps / 3:
        yield (
            f"optimiser.warmup_steps={config.optimiser.warmup_steps} is more than a third of {steps} steps: set it to "
            f"{max(1, steps // 10)}"
        )


def _adapter_warnings(config: RunConfig, facts: Facts) -> Iterator[str]:
    adapter = config.adapter
    if config.method is Method.FULL:
        return
    scale = adapter.alpha / (math.sqrt(adapter.rank) if config.method is Method.RSLORA else adapter.rank)
    if scale > MOST_SCALE:
        yield (
            f"adapter.alpha={adapter.alpha:g} scales the update of rank {adapter.rank} by {scale:.3g}, which is "
            f"unusual: set adapter.alpha={2 * adapter.rank}"
        )
    if adapter.rank > facts.width:
        yield (
            f"adapter.rank={adapter.rank} is more than the model's width of {facts.width}, so the extra weights "
            f"add nothing: set adapter.rank={facts.width} or far less"
        )


def _length_warnings(config: RunConfig, facts: Facts) -> Iterator[str]:
    epochs, training = facts.plan.epochs, config.training
    fewest, most = EPOCHS
    if epochs < fewest:
        yield (
            f"{training.steps} steps are {epochs:.2f} epochs, so some utterances are never used: set training.steps="
            f"{math.ceil(training.steps / epochs)} or more, or name a smaller data.subset"
        )
    elif epochs > most:
        yield (
            f"{training.steps} steps are {epochs:.0f} epochs, in which a small dataset is memorised: set "
            f"training.steps={max(1, round(training.steps * most / 2 / epochs))}, or early_stopping"
        )
    if training.batch_seconds < facts.longest_context:
        yield (
            f"training.batch_seconds={training.batch_seconds:g} is less than the longest utterance's context of "
            f"{facts.longest_context:.1f} s, which then makes a step alone: raise it, or lower data.max_seconds"
        )


def _evaluations_warnings(config: RunConfig, facts: Facts) -> Iterator[str]:
    training = config.training
    scored = facts.plan.evaluations - (training.average_last > 1)
    if training.evaluate_every_steps > training.steps:
        yield (
            f"training.evaluate_every_steps={training.evaluate_every_steps} is more than training.steps, so dev is "
            f"scored once and nothing can be chosen by it: set it to {max(1, training.steps // 5)}"
        )
    if training.early_stopping >= max(1, scored):
        yield (
            f"training.early_stopping={training.early_stopping} can never stop a run of {scored} evaluations: lower "
            "it, or training.evaluate_every_steps"
        )
    if training.average_last > scored:
        yield (
            f"training.average_last={training.average_last} is more than the {scored} evaluations of the run: lower "
            "it, or training.evaluate_every_steps"
        )
    if facts.time is not None and facts.time.dev_share > 0.5:
        yield (
            f"decoding dev takes {100 * facts.time.dev_share:.0f} % of the time: lower data.dev_utterances, or raise "
            "training.evaluate_every_steps"
        )


def _context_warnings(config: RunConfig, facts: Facts) -> Iterator[str]:
    if config.model.context is not Context.FULL:
        return
    if facts.padded_work >= MUCH_PADDING:
        yield (
            f"model.context=full pads every utterance to 30 s, {facts.padded_work:.1f} times the encoder's work for "
            "the speech itself: set model.context=true_length unless other tools must run the model padded"
        )
    if config.examples.padded:
        yield (
            "examples.padded has no effect with model.context=full, which pads every example: set it to 0, or "
            "model.context=true_length"
        )


def _cache_warnings(config: RunConfig, facts: Facts) -> Iterator[str]:
    changed, kept = facts.changes_sound, config.data.cache_gb
    masked = bool(config.augmentation.time_masks or config.augmentation.frequency_masks)
    if facts.encoder_frozen and not kept and not changed and not masked and facts.plan.epochs > 1:
        yield (
            "the encoder does not train, yet it runs on every utterance again in each epoch: set data.cache_gb, "
            "such as 5, to keep its outputs"
        )
    if kept and changed:
        what = "outputs of a frozen encoder" if facts.encoder_frozen else "log-mels"
        sections = config.augmentation.model_dump(exclude_defaults=True)
        names = ", ".join(f"augmentation.{name}" for name in sections if not name.endswith("masks"))
        yield (
            f"data.cache_gb={kept:g} has no effect with {names}, as the sound changes each time and "
            f"{what} cannot be kept: set data.cache_gb=0, or leave the augmentation out"
        )


def _data_warnings(config: RunConfig, facts: Facts) -> Iterator[str]:
    if facts.shared_speakers:
        yield (
            f"train and dev of {config.data.dataset} share {facts.shared_speakers} speakers, so dev WER will look "
            "better than it is: prepare the data with speakers apart"
        )
