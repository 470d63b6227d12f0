"""Read the settings and weights of a saved adapter, under the names that PEFT gives them."""

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, LoraConfig

from asr_lora.errors import DataError, first_line
from asr_lora.model.weight_names import peft_name, renamed
from asr_lora.model.whole_weights import read_tensors
from asr_lora.system.progress import say

ADAPTER_CONFIG = "adapter_config.json"  # a folder that has it is a PEFT adapter
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PICKLED_WEIGHTS = "adapter_model.bin"  # of PEFT before 0.6
KINDS = {"LORA": LoraConfig, "ADALORA": AdaLoraConfig}
NEEDED = {"LORA": ("r", "lora_alpha", "target_modules"), "ADALORA": ("lora_alpha", "target_modules")}


def adapter_base(folder: Path) -> str:
    """Return the name of the base model that an adapter was trained on.

    Raises:
        DataError: the folder is no adapter folder.
    """
    base = adapter_settings(folder).get("base_model_name_or_path")
    if not base:
        raise DataError(f"{folder} is not an adapter folder ({ADAPTER_CONFIG} does not say base_model_name_or_path)")
    return str(base)


def adapter_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of an adapter as they are in its file.

    Raises:
        DataError: the folder is no adapter folder.
    """
    try:
        settings = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise TypeError("its settings are no JSON object")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{folder} is not an adapter folder ({first_line(error)})") from error
    return settings


def adapter_config(folder: Path) -> LoraConfig:
    """Return PEFT's configuration of a saved adapter; no value that decides what it computes is PEFT's default.

    Raises:
        DataError: the folder is no adapter folder; the adapter is no LoRA; or its settings lack one, or have one
            that this PEFT does not know.
    """
    settings, place = adapter_settings(folder), folder / ADAPTER_CONFIG
    kind = settings.get("peft_type")
    if kind not in KINDS:
        raise DataError(f"{folder} is an adapter of type {kind}: only LORA and ADALORA can be used here")
    if lacking := [name for name in NEEDED[kind] if settings.get(name) is None]:
        raise DataError(f"{place} does not say {', '.join(lacking)}: copy the file that was saved with these weights")
    known = {field.name for field in dataclasses.fields(KINDS[kind])} | {"runtime_config"}
    unknown = {name: value for name, value in settings.items() if name not in known and value}
    if unknown and any(value is True for value in unknown.values()):
        raise DataError(f"{place} sets {', '.join(unknown)}, which this PEFT does not know: pip install --upgrade peft")
    if unknown:
        say(f"{folder}: this PEFT does not know the setting {', '.join(unknown)} and goes on without it")
    try:
        return KINDS[kind](**{name: value for name, value in settings.items() if name in known - {"runtime_config"}})
    except (TypeError, ValueError) as error:
        raise DataError(f"{place} cannot be used ({first_line(error)})") from error


def adapter_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of an adapter under PEFT's names; one line says if they had others.

    Raises:
        DataError: the file is missing or damaged, holds more than tensors, or has a weight twice.
    """
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file() and (folder / PICKLED_WEIGHTS).is_file():
        path = folder / PICKLED_WEIGHTS
    try:
        weights = read_tensors(path)
        if not all(isinstance(value, torch.Tensor) for value in weights.values()):
            raise pickle.UnpicklingError
    except Exception as error:  # safetensors and torch each raise their own kinds
        raise DataError(f"{path} cannot be read ({first_line(error)}): copy the adapter again") from error
    matrices = adapter_settings(folder).get("peft_type") == "ADALORA"
    names = {name: peft_name(name, matrices=matrices) for name in weights}
    changed = [name for name in weights if names[name] != name]
    if changed:
        say(f"{path}: {len(changed)} weights are named otherwise; {changed[0]} is read as {names[changed[0]]}")
    return renamed(weights, names, path)
