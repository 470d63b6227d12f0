"""Define the export formats, number types and quantisations, and which of them go together."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from asr_lora.errors import ConfigError

Choice = TypeVar("Choice", bound=StrEnum)


class Format(StrEnum):
    TRANSFORMERS = "transformers"  # a folder for Transformers and libraries built on it
    CTRANSLATE2 = "ctranslate2"  # a folder for faster-whisper
    GGML = "ggml"  # a file for whisper.cpp
    ADAPTER = "adapter"  # the adapter alone, as PEFT and vLLM load it


class Dtype(StrEnum):
    FLOAT16 = "float16"
    FLOAT32 = "float32"


class Packing(StrEnum):
    """How the weights of linear layers are quantised."""

    INT8 = "int8"  # CTranslate2
    Q8_0 = "q8_0"  # whisper.cpp: 32 weights share a scale
    Q5_0 = "q5_0"


PACKINGS = {Format.CTRANSLATE2: (Packing.INT8,), Format.GGML: (Packing.Q8_0, Packing.Q5_0)}


@dataclass(frozen=True)
class ExportRecipe:
    """Format, number type and quantisation of an export."""

    format: Format
    dtype: Dtype | None  # None: the adapter's own
    quantise: Packing | None


def find_export_recipe(format: str, dtype: str | None = None, quantise: str | None = None) -> ExportRecipe:  # noqa: A002
    """Return the recipe, after checking that format, number type and quantisation go together.

    Raises:
        ConfigError: one of them is unknown, or the format does not support it.
    """
    kind = _one_of(Format, format, "--format")
    if kind is Format.ADAPTER and dtype is not None:
        raise ConfigError("--dtype: an adapter is exported in the numbers that it was trained in; leave it out")
    numbers = None if kind is Format.ADAPTER else _one_of(Dtype, dtype or Dtype.FLOAT16, "--dtype")
    if kind is Format.GGML and numbers is Dtype.FLOAT32:
        raise ConfigError("--dtype float32: whisper.cpp computes its convolutions from float16 only; leave it out")
    packing = _one_of(Packing, quantise, "--quantise") if quantise is not None else None
    if packing is not None and packing not in PACKINGS.get(kind, ()):
        known = " or ".join(PACKINGS.get(kind, ())) or "none"
        raise ConfigError(f"--quantise {packing}: {kind} takes {known}; leave it out or take another --format")
    return ExportRecipe(kind, numbers, packing)


def _one_of(choices: type[Choice], value: str, option: str) -> Choice:
    try:
        return choices(value)
    except ValueError as error:
        raise ConfigError(f"{option} {value}: take one of {', '.join(choices)}") from error
