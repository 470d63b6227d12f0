"""Settings of a training run: one YAML file, checked whole before anything is spent. Every number carries its unit."""

import difflib
import functools
import itertools
import re
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from asr_lora.errors import ConfigError
from asr_lora.language import ForcedPrompt, Task, forced_prompt

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
RENAMED = {"examples.long_tails": "examples.padded", "data.guards": "data.regression_sets"}  # old key: present key
MOST_NAME_BYTES = 200  # of a variant's folder; file systems take 255, and drafts have longer names


class Method(StrEnum):
    LORA = "lora"  # arXiv 2106.09685
    RSLORA = "rslora"  # scaled by alpha / sqrt(rank): arXiv 2312.03732
    DORA = "dora"  # direction and magnitude apart: arXiv 2402.09353
    ADALORA = "adalora"  # the rank allocated among the layers while training: arXiv 2303.10512
    PISSA = "pissa"  # begun at the base's own principal directions: arXiv 2404.02948
    FULL = "full"  # every weight


class Context(StrEnum):
    """How much audio the encoder sees."""

    TRUE_LENGTH = "true_length"  # the speech and a short silent tail: only for a model that was trained so
    FULL = "full"  # 30 s, zeros after the speech: what Whisper was trained on


class Part(StrEnum):
    """What of the model trains."""

    BOTH = "both"
    ENCODER = "encoder"
    DECODER = "decoder"


class Quantise(StrEnum):
    """How the frozen base is kept in memory (bitsandbytes)."""

    AUTO = "auto"  # 8bit on a GPU too small for 16 bits, else none: on a CPU 8 bits cost more memory and time
    NONE = "none"
    INT8 = "8bit"
    NF4 = "4bit"


class Precision(StrEnum):
    """What the model computes in."""

    AUTO = "auto"  # bf16 where the machine computes in it, else fp32
    BF16 = "bf16"
    FP32 = "fp32"


class Optimiser(StrEnum):
    ADAM8BIT = "adam8bit"  # bitsandbytes
    ADAMW = "adamw"  # torch


class Decay(StrEnum):
    LINEAR = "linear"
    COSINE = "cosine"
    NONE = "none"


TARGETS = {  # presets of adapter.targets
    "q,v": ("q_proj", "v_proj"),
    "attention": ("q_proj", "k_proj", "v_proj", "out_proj"),
    "linear": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
}


def _targets(value: object) -> object:
    """A preset by name, or the names of projections."""
    return TARGETS.get(value, (value,)) if isinstance(value, str) else value


def _norwegian(value: object) -> object:
    """YAML reads the code of Norwegian, no, as false."""
    return "no" if value is False else value


class Section(BaseModel):
    """Frozen; a key that is not a field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class ModelSettings(Section):
    name: str = "openai/whisper-large-v2"  # hub id, folder, or pypi:whisper-base
    language: Annotated[str, BeforeValidator(_norwegian)]  # name or code: "Dutch", "nl"
    language_token: Annotated[str | None, BeforeValidator(_norwegian)] = None  # of a related language, see README
    task: Task = Task.TRANSCRIBE
    context: Context = Context.TRUE_LENGTH
    precision: Precision = Precision.AUTO
    quantise: Quantise = Quantise.AUTO  # adapters only

    @property
    def prompt(self) -> ForcedPrompt:
        """The language and task that the decoder is forced to."""
        return forced_prompt(self.language, self.language_token, self.task)


class DataSettings(Section):
    dataset: Path  # folder made by `asr-lora prepare`
    subset: str = "all"  # or a name in its subsets/, such as 1h
    max_seconds: Annotated[float, Field(gt=0, le=30)] = 30.0  # longer training utterances are left out and counted
    dev_utterances: Annotated[int, Field(ge=0)] = 0  # decoded at each dev evaluation; 0: all
    regression_sets: tuple[Path, ...] = ()  # datasets that must not get worse; `asr-lora promote` scores them
    workers: Annotated[int, Field(ge=0)] = 0  # processes that decode audio; 0: in the training process
    cache_gb: Annotated[float, Field(ge=0)] = 0.0  # kept on disk: log-mels in float16, or a frozen encoder's outputs


class AdapterSettings(Section):
    rank: Count = 32  # of adalora: the mean of what is left at the end
    alpha: Positive = 64  # the update is scaled by alpha / rank
    dropout: Share = 0.05
    targets: Annotated[tuple[str, ...], BeforeValidator(_targets), Field(min_length=1)] = TARGETS["q,v"]
    part: Part = Part.BOTH  # of `full` too
    layers: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] | None = None  # first and last, from 0
    continue_from: Path | None = None  # a run or adapter to go on from, such as a domain on top of a language


class OptimiserSettings(Section):
    name: Optimiser = Optimiser.ADAM8BIT
    learning_rate: Positive = 1e-3
    plus_ratio: Positive = 1.0  # learning rate of B over that of A (LoRA+, arXiv 2402.12354)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    decay: Decay = Decay.LINEAR
    clip_norm: Positive = 1.0


class ExampleSettings(Section):
    """What examples are made of the utterances, each by its share of all examples."""

    padded: Share = 0.01  # true length only: padded with silence to 30 s, so that the model also works padded
    timestamps: Share = 0.0  # several utterances in a row with their times, so that timestamps survive
    no_speech: Share = 0.0  # noise or near silence, answered by the no-speech token alone


class AugmentationSettings(Section):
    """Each is off as it stands here."""

    speeds: Annotated[tuple[Annotated[float, Field(ge=0.5, le=2)], ...], Field(min_length=1)] = (1.0,)
    gain_db: Annotated[float, Field(ge=0, le=40)] = 0.0  # up or down by as much
    noise: Path | None = None  # folder of recordings, added at 5 to 30 dB below the speech
    reverb: Path | None = None  # folder of room impulse responses
    time_masks: Annotated[int, Field(ge=0)] = 0  # SpecAugment (arXiv 1904.08779), of up to 5 % of the length each
    frequency_masks: Annotated[int, Field(ge=0)] = 0  # of up to 27 of 80 mel bins each


class TrainingSettings(Section):
    steps: Count  # optimiser steps
    batch_seconds: Positive = 40.0  # of audio in an optimiser step, its short silent tails included
    micro_batch_seconds: Positive | None = None  # of audio in memory at once; batch_seconds when not given
    gradient_checkpointing: bool = False
    bf16_weights: bool = False  # full only: weights and gradients in 2 bytes, updates rounded up or down by chance
    label_smoothing: Share = 0.0
    evaluate_every_steps: Count = 100
    early_stopping: Annotated[int, Field(ge=0)] = 0  # dev evaluations without a better WER; 0: never
    average_last: Annotated[int, Field(ge=0)] = 0  # dev evaluations whose weights are averaged at the end; 0: none
    checkpoint_every_steps: Count = 50
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @property
    def initial_micro_batch_seconds(self) -> float:
        """`micro_batch_seconds`, or the whole step where it is not set. Training halves it where memory runs out."""
        return self.micro_batch_seconds or self.batch_seconds


class RunConfig(Section):
    """Everything that `asr-lora train` needs; `config.yaml` in a run folder is one, and re-runs as it is."""

    out: Path  # the run folder
    method: Method = Method.LORA
    model: ModelSettings
    data: DataSettings
    adapter: AdapterSettings = AdapterSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    examples: ExampleSettings = ExampleSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    training: TrainingSettings

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        faults = []
        if self.method is Method.FULL and self.model.quantise in (Quantise.INT8, Quantise.NF4):
            faults.append("model.quantise: full fine-tuning trains every weight, so none can be kept in 8 or 4 bits")
        if self.method is Method.FULL and self.adapter.continue_from:
            faults.append("adapter.continue_from: full fine-tuning has no adapter; name the model in model.name")
        if self.training.bf16_weights and (self.method is not Method.FULL or self.optimiser.name is Optimiser.ADAMW):
            faults.append("training.bf16_weights: is for method full with optimiser adam8bit")
        if sum(self.examples.model_dump().values()) >= 1:
            faults.append("examples: the shares leave no plain utterances; lower them to less than 1 in all")
        if self.adapter.layers and self.adapter.layers[0] > self.adapter.layers[1]:
            faults.append("adapter.layers: write the first layer and the last, such as [0, 5]")
        if self.optimiser.warmup_steps >= self.training.steps:
            faults.append("optimiser.warmup_steps: must be fewer than training.steps, or training never warms up")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class Variant(Section):
    """One row of a sweep's table: a run, or the model as it was before."""

    name: Annotated[str, Field(pattern=r"^\S(.*\S)?$")]
    set: dict[str, Any] = {}  # section.key: value, laid over the base
    budget: Count | None = None  # of trainable parameters: the rank is as high as it allows, alpha / rank as it was
    zero_shot: bool = False  # nothing is trained, the base model itself is scored
    padded: bool = False  # scored once more given 30 s, as other tools do

    @property
    def slugs(self) -> tuple[str, ...]:
        """Its name as a folder's, and that of its padded self."""
        slug = re.sub(r"[^\w.=+-]+", "-", self.name).strip("-.") or "variant"
        return (slug, f"{slug}-padded") if self.padded else (slug,)


class SweepConfig(Section):
    """What `asr-lora sweep` reads: a run's config and what changes from run to run. The first is held against."""

    base: Path  # YAML of a run, seen from this file
    set: dict[str, Any] = {}  # section.key: value, laid over the base for all of them
    budget: Count | None = None  # of every variant that does not say its own
    variants: tuple[Variant, ...] = ()
    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = {}  # section.key: values, each with each other

    @model_validator(mode="after")
    def _consistent(self) -> "SweepConfig":
        faults = []
        rows = self.rows
        if len(rows) < 2:
            faults.append("variants: name two or more, or a grid of as many")
        slugs = [slug for variant in rows for slug in variant.slugs]
        twice = sorted({variant.name for variant in rows if any(slugs.count(slug) > 1 for slug in variant.slugs)})
        if twice:
            faults.append(f"variants: {', '.join(twice)} would share a folder; name them apart")
        if long := [slug for slug in slugs if len(slug.encode()) > MOST_NAME_BYTES]:
            faults.append(f"variants: {long[0][:40]}... is too long for the name of a folder; shorten it")
        for variant in rows:
            if variant.zero_shot and (variant.set or variant.budget or variant.padded):
                faults.append(f"variants: {variant.name} is zero-shot, so leave out set, budget and padded")
            if (variant.budget or self.budget) and "adapter.rank" in {**self.set, **variant.set}:
                faults.append(f"variants: {variant.name} has a budget, which decides adapter.rank; leave one out")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def rows(self) -> tuple[Variant, ...]:
        """The variants as they are named, then every point of the grid."""
        short = {key: key.rpartition(".")[2] for key in self.grid}
        labels = {key: name if [*short.values()].count(name) == 1 else key for key, name in short.items()}
        points = itertools.product(*self.grid.values()) if self.grid else ()
        return self.variants + tuple(
            Variant(
                name=" ".join(f"{labels[key]}={_spelt(value)}" for key, value in zip(self.grid, point, strict=True)),
                set=dict(zip(self.grid, point, strict=True)),
            )
            for point in points
        )


def _spelt(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def load_config(path: Path, overrides: Sequence[str] | None = None) -> RunConfig:
    """Read a YAML file, lay `section.key=value` overrides over it, and check it.

    Raises:
        ConfigError: unreadable, or wrong; all that is wrong is named at once, a misspelt key with the nearest one.
    """
    return check_config(read_settings(path, overrides), str(path))


def load_sweep(path: Path) -> SweepConfig:
    """Read a sweep's YAML file and check it; its base is looked for beside it.

    Raises:
        ConfigError: as `load_config`.
    """
    try:
        sweep = SweepConfig.model_validate(_with_zero_shot(read_settings(path)))
    except ValidationError as error:
        raise _faults(str(path), error, SweepConfig) from error
    return sweep.model_copy(update={"base": path.parent / sweep.base.expanduser()})


def check_config(body: dict[str, Any], place: str) -> RunConfig:
    """Settings of a run as they were read, checked.

    Args:
        body: sections of keys and values.
        place: where they come from, for what is wrong with them.

    Raises:
        ConfigError: they are wrong.
    """
    try:
        return RunConfig.model_validate(body)
    except ValidationError as error:
        raise _faults(place, error, RunConfig) from error


def read_settings(path: Path, overrides: Sequence[str] | None = None) -> dict[str, Any]:
    """Read a YAML file and lay `section.key=value` overrides over it, unchecked.

    Raises:
        ConfigError: it cannot be read, is no mapping, or an override is not written so.
    """
    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}): name a YAML file such as those in configs/"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(body, dict):
        raise ConfigError(f"{path} is not a mapping of sections: compare it with those in configs/")
    for old in RENAMED:
        section, _, key = old.partition(".")
        if isinstance(body.get(section), dict) and key in body[section]:
            lay_over(body, old, body[section].pop(key), str(path))
    for override in overrides or []:
        _set(body, override)
    return body


def _set(body: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise ConfigError(f"--set {override}: write it as section.key=value, for example --set adapter.rank=8")
    try:
        lay_over(body, key.strip(), yaml.safe_load(value), f"--set {override}")
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"--set {override}: the value is not YAML") from error


def lay_over(body: dict[str, Any], key: str, value: object, origin: str) -> None:
    """Put a value in the place of `section.key`, or `key`.

    Raises:
        ConfigError: a section on the way is a value; the message begins with `origin`.
    """
    if key in RENAMED:
        _say_renamed(key, RENAMED[key])
        key = RENAMED[key]
    *sections, last = key.split(".")
    for name in sections:
        inner = body.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{origin}: {name} is a value, not a section")
        body = inner
    body[last] = value


def _with_zero_shot(sweep: dict[str, Any]) -> dict[str, Any]:
    """Give the variants of a sweep's YAML the present name of `untouched`."""
    variants = sweep.get("variants")
    for variant in variants if isinstance(variants, list) else ():
        if isinstance(variant, dict) and "untouched" in variant:
            _say_renamed("untouched", "zero_shot")
            variant["zero_shot"] = variant.pop("untouched")
    return sweep


@functools.cache
def _say_renamed(old: str, new: str) -> None:
    """Tell the user once that a key has another name."""
    print(f"{old} is now called {new}", file=sys.stderr)


def _faults(place: str, error: ValidationError, root: type[BaseModel]) -> ConfigError:
    return ConfigError(f"{place}: " + "; ".join(_sentence(fault, root) for fault in error.errors()))


def _sentence(fault: Any, root: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(fault["loc"][-1]), _keys(fault["loc"][:-1], root), n=1)
        return f"unknown key {place}" + (f", did you mean {near[0]}?" if near else "")
    if fault["type"] == "missing":
        return f"{place} is missing"
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _keys(place: tuple[Any, ...], root: type[BaseModel]) -> list[str]:
    section = root
    for name in place:
        # The only sections in a list are variants.
        section = section.model_fields[name].annotation if isinstance(name, str) else Variant  # type: ignore[assignment]
    return list(section.model_fields)
