"""Define the settings of runs and sweeps, and read them from YAML, checked before anything runs. Keys state units."""

import difflib
import functools
import itertools
import re
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from asr_lora.errors import ConfigError
from asr_lora.language import ForcedPrompt, Task, forced_prompt

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
MOST_NAME_BYTES = 200  # of the longest name of a variant's folder; file systems take 255, and drafts have longer names


class Method(StrEnum):
    """Which weights training changes, and how; see `RunConfig.method`."""

    LORA = "lora"
    RSLORA = "rslora"
    DORA = "dora"
    ADALORA = "adalora"
    PISSA = "pissa"
    FULL = "full"


class Context(StrEnum):
    """How much audio the encoder sees; see `ModelSettings.context`."""

    TRUE_LENGTH = "true_length"
    FULL = "full"


class Part(StrEnum):
    """The half of the model that trains."""

    BOTH = "both"
    ENCODER = "encoder"
    DECODER = "decoder"


class Quantise(StrEnum):
    """How the frozen base is kept in memory; see `ModelSettings.quantise`."""

    AUTO = "auto"
    NONE = "none"
    INT8 = "8bit"
    NF4 = "4bit"


class Precision(StrEnum):
    """The number format of the computation; see `ModelSettings.precision`."""

    AUTO = "auto"
    BF16 = "bf16"
    FP32 = "fp32"


class Optimiser(StrEnum):
    """Adam with 8-bit moments (bitsandbytes), or torch's AdamW."""

    ADAM8BIT = "adam8bit"
    ADAMW = "adamw"


class Recipe(StrEnum):
    """A set of training settings that were chosen together; see `RECIPES`."""

    STANDARD = "standard"
    PUBLISHED = "published"


class Decay(StrEnum):
    """How the learning rate falls after the warm-up."""

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


def _last(key: str) -> str:
    return key.rpartition(".")[2]


class Section(BaseModel):
    """A frozen section of settings; a key that is not a field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
    renamed: ClassVar[dict[str, str]] = {}  # keys of earlier versions, which are still accepted: their present names

    @model_validator(mode="before")
    @classmethod
    def _present_names(cls, given: object) -> object:
        for old, new in cls.renamed.items():
            old_key, new_key = _last(old), _last(new)
            if isinstance(given, dict) and old_key in given and new_key not in given:
                _say_renamed(old, new)
                given = {new_key if key == old_key else key: value for key, value in given.items()}
        return given


class ModelSettings(Section):
    """The base model, and how it is loaded."""

    name: str = Field(
        default="openai/whisper-large-v2",
        description="Base model: a hub id, a folder, a CTranslate2 folder, or pypi:whisper-base.",
    )
    language: Annotated[str, BeforeValidator(_norwegian)] = Field(
        description="Language of the speech, as a name or a code, such as Dutch or nl."
    )
    language_token: Annotated[str | None, BeforeValidator(_norwegian)] = Field(
        default=None,
        description="Related language whose token the decoder is given. Set it only for a language that Whisper has "
        "no token for, such as nl for West Frisian.",
    )
    task: Task = Field(default=Task.TRANSCRIBE, description="Task of the decoder: transcribe, or translate to English.")
    context: Context = Field(
        default=Context.TRUE_LENGTH,
        description="Audio that the encoder sees. true_length: the speech and a short silent tail, several times "
        "faster. full: 30 s, padded with zeros; choose it where other tools run the trained model.",
    )
    precision: Precision = Field(
        default=Precision.AUTO,
        description="Number format of the computation: bf16 or fp32. auto takes bf16 where the machine computes in it.",
    )
    quantise: Quantise = Field(
        default=Quantise.AUTO,
        description="Format of the frozen base in memory (bitsandbytes), for adapters only: none, 8bit or 4bit. auto "
        "takes 8bit on a GPU that is too small for 16 bits; on a CPU 8 bits cost more memory and time than none.",
    )

    @property
    def prompt(self) -> ForcedPrompt:
        """The language and task that the decoder is forced to."""
        return forced_prompt(self.language, self.language_token, self.task)


class DataSettings(Section):
    """The prepared dataset, and how it is read."""

    renamed = {"data.guards": "data.regression_sets"}

    dataset: Path = Field(description="Dataset folder that `asr-lora prepare` made.")
    subset: str = Field(default="all", description="Subset of train to learn from, such as 1h, or all.")
    max_seconds: float = Field(
        default=30.0,
        gt=0,
        le=30,
        description="Longest training utterance, in seconds; longer ones are left out and counted.",
    )
    dev_utterances: int = Field(
        default=0,
        ge=0,
        description="Number of dev utterances that each dev evaluation decodes; 0 takes all. Lower it where decoding "
        "takes much of the time.",
    )
    regression_sets: tuple[Path, ...] = Field(
        default=(),
        description="Dataset folders on which WER (CER where that leads) must not rise; `asr-lora promote` scores "
        "them.",
    )
    workers: int = Field(
        default=0,
        ge=0,
        description="Number of processes that decode audio; 0 decodes in the training process. Raise it where a GPU "
        "waits for data (data_wait in metrics.jsonl).",
    )
    cache_gb: float = Field(
        default=0.0,
        ge=0,
        description="Disk space for computed features, in GB: log-mels in float16, or the outputs of a frozen encoder. "
        "Set it, such as to 5, for several epochs without augmentation of the sound.",
    )


class AdapterSettings(Section):
    """The adapter; `part` and `layers` also apply to full fine-tuning."""

    rank: Count = Field(
        default=32,
        description="Rank of the update; for adalora the mean rank at the end. Raise it for more speech, and lower it "
        "for a smaller adapter.",
    )
    alpha: Positive = Field(
        default=64,
        description="Scale of the update, which is multiplied by alpha / rank. Twice the rank is a good start.",
    )
    dropout: Share = Field(
        default=0.05, description="Share of the adapter's inputs that are dropped at random in training."
    )
    targets: Annotated[tuple[str, ...], BeforeValidator(_targets)] = Field(
        default=TARGETS["q,v"],
        min_length=1,
        description="Projections that get an adapter: a preset (q,v; attention; linear) or a list of names such as "
        "[q_proj, v_proj].",
    )
    part: Part = Field(default=Part.BOTH, description="Half of the model that trains: both, encoder or decoder.")
    layers: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] | None = Field(
        default=None,
        description="First and last layer that train, counted from 0, such as [0, 5]; by default all layers.",
    )
    continue_from: Path | None = Field(
        default=None,
        description="Run or adapter whose training continues, for example to add a domain to a language.",
    )


class OptimiserSettings(Section):
    """The optimiser and its learning rate."""

    name: Optimiser = Field(
        default=Optimiser.ADAM8BIT,
        description="Optimiser: adam8bit keeps Adam's moments in 8 bits (bitsandbytes), adamw is torch's AdamW.",
    )
    learning_rate: Positive = Field(
        default=1e-3,
        description="Peak learning rate. Start with 1e-3 for lora, 5e-3 for adalora, 2e-4 for pissa, and 1e-5 (large "
        "models) or 2e-5 (small models) for full.",
    )
    plus_ratio: Positive = Field(
        default=1.0,
        description="Learning rate of the matrix B over that of A (LoRA+, arXiv 2402.12354); 1 is plain LoRA.",
    )
    weight_decay: float = Field(
        default=0.0, ge=0, description="Weight decay of matrices; biases and norms are not decayed."
    )
    warmup_steps: int = Field(
        default=50,
        ge=0,
        description="Steps over which the learning rate rises; about a tenth of training.steps is usual.",
    )
    decay: Decay = Field(
        default=Decay.LINEAR, description="Fall of the learning rate after the warm-up: linear, cosine or none."
    )
    clip_norm: Positive = Field(
        default=1.0, description="Largest gradient norm; larger gradients are scaled down to it."
    )


class ExampleSettings(Section):
    """Training examples that are not plain utterances, each by its share of all examples."""

    renamed = {"examples.long_tails": "examples.padded"}

    padded: Share = Field(
        default=0.01,
        description="Share of examples padded with silence to 30 s, with model.context true_length only. Raise it to "
        "0.1 where other tools run the model padded.",
    )
    timestamps: Share = Field(
        default=0.0,
        description="Share of utterances that are joined into windows with timestamps (arXiv 2412.15726). Try 0.2 "
        "where segment times matter.",
    )
    no_speech: Share = Field(
        default=0.0,
        description="Examples of noise or near silence, as a share of the utterances, which teach no-speech.",
    )


class AugmentationSettings(Section):
    """Changes to the sound that are drawn anew each time; all are off by default."""

    speeds: tuple[Annotated[float, Field(ge=0.5, le=2)], ...] = Field(
        default=(1.0,),
        min_length=1,
        description="Speeds of which one is drawn for each utterance. [0.9, 1.0, 1.1] helps with 0.2 to 2 h of speech.",
    )
    gain_db: float = Field(default=0.0, ge=0, le=40, description="Largest change of loudness up or down, in dB.")
    noise: Path | None = Field(
        default=None, description="Folder of noise recordings, which are added at 5 to 30 dB below the speech."
    )
    reverb: Path | None = Field(default=None, description="Folder of room impulse responses, one of which is applied.")
    time_masks: int = Field(
        default=0,
        ge=0,
        description="Number of time masks (SpecAugment, arXiv 1904.08779), each up to 5 % of the length.",
    )
    frequency_masks: int = Field(
        default=0, ge=0, description="Number of frequency masks (SpecAugment), each up to 27 of 80 mel bins."
    )


class TrainingSettings(Section):
    """The length of the run, its batches, evaluations and checkpoints."""

    steps: Count = Field(description="Number of optimiser steps.")
    batch_seconds: Positive = Field(
        default=40.0, description="Audio in one optimiser step, in seconds, short silent tails included."
    )
    micro_batch_seconds: Positive | None = Field(
        default=None,
        description="Audio in memory at once, in seconds; by default batch_seconds. Lower it where memory runs out: "
        "the result stays the same. Training halves it by itself where memory runs out.",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Compute activations twice instead of keeping them: less memory, about a third more time.",
    )
    bf16_weights: bool = Field(
        default=False,
        description="Keep weights and gradients in 2 bytes with stochastic rounding, for full with adam8bit only.",
    )
    label_smoothing: Share = Field(
        default=0.0, description="Label smoothing of the cross-entropy; 0.1 is usual, 0 is off."
    )
    evaluate_every_steps: Count = Field(
        default=100, description="Steps between two dev evaluations, which choose the checkpoint; aim at 5 in a run."
    )
    early_stopping: int = Field(
        default=0,
        ge=0,
        description="Number of dev evaluations without a better WER (CER where that leads) after which training "
        "stops; 0 is never.",
    )
    average_last: int = Field(
        default=0,
        ge=0,
        description="Number of last dev evaluations whose weights are averaged at the end; kept if better; 0 is off.",
    )
    checkpoint_every_steps: Count = Field(default=50, description="Steps between two checkpoints to resume from.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the order of examples, augmentation and dropout.")

    @property
    def initial_micro_batch_seconds(self) -> float:
        """`micro_batch_seconds`, or the whole step where it is not set. Training halves it where memory runs out."""
        return self.micro_batch_seconds or self.batch_seconds


# Settings of each recipe, for what a config does not set itself. Those of an adapter do not apply to full fine-tuning.
STANDARD_SPEECH: dict[str, dict[str, object]] = {
    "examples": {"timestamps": 0.3},
    "training": {"label_smoothing": 0.1},
}
RECIPES: dict[tuple[Recipe, bool], dict[str, dict[str, object]]] = {  # by recipe, and whether an adapter trains
    (Recipe.STANDARD, True): {
        **STANDARD_SPEECH,
        "adapter": {"targets": "linear", "rank": 32, "alpha": 64, "dropout": 0.1},
        "optimiser": {"learning_rate": 5e-4, "decay": "cosine"},
    },
    (Recipe.STANDARD, False): {**STANDARD_SPEECH, "optimiser": {"learning_rate": 2e-5, "decay": "cosine"}},
    (Recipe.PUBLISHED, True): {
        "adapter": {"targets": "q,v", "rank": 32, "alpha": 64, "dropout": 0.05},
        "optimiser": {"learning_rate": 1e-3, "decay": "linear"},
    },
    (Recipe.PUBLISHED, False): {"optimiser": {"learning_rate": 1e-5, "decay": "linear"}},
}


class RunConfig(Section):
    """Everything that `asr-lora train` needs; `config.yaml` in a run folder is one, and re-runs as it is."""

    out: Path = Field(description="Run folder for checkpoints, metrics and weights; new, or of this same run.")
    method: Method = Field(
        default=Method.LORA,
        description="Weights that train. lora: low-rank updates beside frozen weights (arXiv 2106.09685). rslora: LoRA "
        "scaled by alpha / sqrt(rank) (arXiv 2312.03732). dora: LoRA with direction and magnitude apart (arXiv "
        "2402.09353). adalora: LoRA whose rank moves between layers during training (arXiv 2303.10512). pissa: LoRA "
        "that starts from the base's principal directions (arXiv 2404.02948). full: every weight.",
    )
    recipe: Recipe | None = Field(
        default=None,
        description="Settings for what this config does not set itself. standard: what made the fewest errors on dev "
        "(reports/defaults). published: LoRA as it was first published for Whisper. Without a recipe each setting has "
        "its own default.",
    )
    model: ModelSettings
    data: DataSettings
    adapter: AdapterSettings = AdapterSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    examples: ExampleSettings = ExampleSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    training: TrainingSettings

    @model_validator(mode="before")
    @classmethod
    def _with_recipe(cls, given: object) -> object:
        """Fill in the settings of the recipe that are not given."""
        if not isinstance(given, dict) or given.get("recipe") not in list(Recipe):
            return given
        adapts = given.get("method", Method.LORA) != Method.FULL
        filled = dict(given)
        for section, settings in RECIPES[Recipe(given["recipe"]), adapts].items():
            own = filled.get(section, {})
            if isinstance(own, BaseModel):
                own = own.model_dump(exclude_unset=True)
            if isinstance(own, dict):
                filled[section] = {**settings, **own}
        return filled

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
    """One row of a sweep's table: a run, or the base model."""

    renamed = {"untouched": "zero_shot"}

    name: str = Field(pattern=r"^\S(.*\S)?$", description="Name of the variant in tables; folders are named after it.")
    set: dict[str, object] = Field(
        default={}, description="Settings that replace those of the base, as section.key: value."
    )
    budget: Count | None = Field(
        default=None,
        description="Most trainable parameters: sets the highest rank within this budget, and keeps alpha / rank.",
    )
    zero_shot: bool = Field(default=False, description="Score the base model without training.")
    padded: bool = Field(
        default=False, description="Score the variant once more with audio padded to 30 s, as other tools do."
    )

    @property
    def slugs(self) -> tuple[str, ...]:
        """Folder names of the variant and of its padded report."""
        slug = re.sub(r"[^\w.=+-]+", "-", self.name).strip("-.") or "variant"
        return (slug, f"{slug}-padded") if self.padded else (slug,)


class SweepConfig(Section):
    """The settings of a sweep: the config of a run and its variants, which are compared with the first of them."""

    base: Path = Field(description="YAML file of a run, relative to the sweep's own file.")
    set: dict[str, object] = Field(default={}, description="Settings that replace those of the base in all variants.")
    budget: Count | None = Field(
        default=None, description="Most trainable parameters of variants without their own budget."
    )
    variants: tuple[Variant, ...] = Field(default=(), description="Variants of the base; the first is the reference.")
    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(
        default={}, description="Values of each section.key; every combination of them is a variant."
    )

    @model_validator(mode="after")
    def _consistent(self) -> "SweepConfig":
        faults = []
        rows = self.rows
        if len(rows) < 2:
            faults.append("variants: name two or more, or a grid of as many")
        slugs = [slug for variant in rows for slug in variant.slugs]
        twice = sorted({variant.name for variant in rows if any(slugs.count(slug) > 1 for slug in variant.slugs)})
        if twice:
            faults.append(f"variants: {', '.join(twice)} would share a folder; give them different names")
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
    """Read a YAML file, apply `section.key=value` overrides, and check it.

    Raises:
        ConfigError: the file cannot be read, or settings are wrong; the message names all of them, and the nearest key
            to a misspelt one.
    """
    return check_config(read_settings(path, overrides), str(path))


def load_sweep(path: Path) -> SweepConfig:
    """Read and check a sweep's YAML file; the path of its base starts from the file's folder.

    Raises:
        ConfigError: as `load_config`.
    """
    try:
        sweep = SweepConfig.model_validate(read_settings(path))
    except ValidationError as error:
        raise _faults(str(path), error, SweepConfig) from error
    return sweep.model_copy(update={"base": path.parent / sweep.base.expanduser()})


def check_config(body: dict[str, Any], place: str) -> RunConfig:
    """Check the settings of a run that were read from a file.

    Args:
        body: the sections, each with keys and values.
        place: where they come from, for error messages.

    Raises:
        ConfigError: a setting is unknown or wrong.
    """
    try:
        return RunConfig.model_validate(body)
    except ValidationError as error:
        raise _faults(place, error, RunConfig) from error


def read_settings(path: Path, overrides: Sequence[str] | None = None) -> dict[str, Any]:
    """Read a YAML file and apply `section.key=value` overrides, without checking the settings.

    Raises:
        ConfigError: the file cannot be read or is no mapping, or an override has another form.
    """
    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}): name a YAML file such as those in configs/"
        ) from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply: compare it with those in configs/") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(body, dict):
        raise ConfigError(f"{path} is not a mapping of sections: compare it with those in configs/")
    for override in overrides or []:
        _set(body, override)
    return body


def _set(body: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise ConfigError(f"--set {override}: write it as section.key=value, for example --set adapter.rank=8")
    try:
        lay_over(body, key.strip(), yaml.safe_load(value), f"--set {override}")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"--set {override}: the value is not YAML") from error


def lay_over(body: dict[str, Any], key: str, value: object, origin: str) -> None:
    """Set the value of `section.key` or `key`.

    Raises:
        ConfigError: what is named as a section is a value; the message begins with `origin`.
    """
    renamed = DataSettings.renamed | ExampleSettings.renamed
    if key in renamed:
        _say_renamed(key, renamed[key])
        key = renamed[key]
    *sections, last = key.split(".")
    for name in sections:
        inner = body.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{origin}: {name} is a value, not a section")
        body = inner
    for old, new in renamed.items():
        if new == key:
            body.pop(_last(old), None)
    body[last] = value


@functools.cache
def _say_renamed(old: str, new: str) -> None:
    """Print once that a key has another name."""
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
