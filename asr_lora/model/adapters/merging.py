"""Put a saved adapter on its base at a strength, merge it into the base, or copy it for publication."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from asr_lora.errors import ConfigError
from asr_lora.folders.atomic import write_text
from asr_lora.language import ForcedPrompt
from asr_lora.model.adapters.files import load_peft
from asr_lora.model.adapters.saved_adapter import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    adapter_settings,
    adapter_weights,
)
from asr_lora.model.adapters.wrapper import ONLY, adapted_layers, peft_model
from asr_lora.model.whisper import Whisper, force_prompt, load_whisper


def load_merged(
    base: str,
    folder: Path,
    prompt: ForcedPrompt,
    dtype: torch.dtype,
    *,
    device: torch.device,
    strength: float = 1.0,
) -> Whisper:
    """Load a base in float32 and merge an adapter into it; the usual way to run an adapted model.

    Raises:
        ConfigError: the strength is not from 0 to 1.
        DataError: the base or the adapter is not there, or they do not fit.
    """
    require_strength(strength)
    whisper = load_whisper(base, prompt, dtype=torch.float32)
    merged = merge_adapter(load_adapter(whisper, folder), strength)
    merged.core.to(device, dtype)
    return merged


def load_adapter(whisper: Whisper, folder: Path, strength: float = 1.0) -> Whisper:
    """Put a saved adapter on a loaded base, for inference: strength 0 is the base, 1 the whole adapter.

    Raises:
        ConfigError: the adapter is a DoRA and the strength not 1, which only `load_merged` supports.
        DataError: the adapter does not fit the base, or is damaged.
    """
    require_strength(strength)
    model = load_peft(whisper.core, folder, whisper.source)
    if strength != 1 and model.peft_config[ONLY].use_dora:
        # DoRA's magnitudes stay when the update is scaled, so strength 0 would not be the base.
        raise ConfigError(f"{folder} is a DoRA, which has no strength but 1 unless it is merged: merge it")
    for layer in adapted_layers(model).values():
        layer.scaling[ONLY] *= strength
    return replace(whisper, model=model.eval())


def merge_adapter(whisper: Whisper, strength: float = 1.0) -> Whisper:
    """Merge a loaded adapter into the base's weights: the same logits at no cost in inference.

    The result is W + strength (W' - W), with W' = W + BA alpha / rank for LoRA; strengths 0 and 1 are exact for every
    method (interpolated weights: arXiv 2109.01903).

    Raises:
        ConfigError: the base is quantised, so that merging would round the update away.
    """
    require_strength(strength)
    if getattr(whisper.core, "is_quantized", False):
        raise ConfigError("an adapter is not merged into 8- or 4-bit weights: load the base in full precision first")
    model = peft_model(whisper)
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            weight = layer.get_base_layer().weight
            before = weight.data
            layer.merge(safe_merge=True)  # into a copy
            weight.data = torch.lerp(before, weight.data, strength)
    core = model.unload()
    merged = replace(whisper, model=core, core=core)
    force_prompt(merged)
    return merged


def copy_adapter(folder: Path, out: Path, base: str, strength: float = 1.0) -> None:
    """Copy the weights and settings of an adapter for publication, at a strength and with a public name of its base.

    Raises:
        ConfigError: the adapter is a DoRA and the strength not 1, which no DoRA can express.
        DataError: the folder is no adapter folder, or is damaged.
    """
    require_strength(strength)
    settings, weights = adapter_settings(folder), adapter_weights(folder)
    if strength != 1:
        if settings.get("use_dora"):
            raise ConfigError(f"{folder} is a DoRA, which has no strength but 1 unless it is merged: export it merged")
        weights = {name: value * strength if ".lora_B" in name else value for name, value in weights.items()}
    alpha = settings.get("lora_alpha")
    if isinstance(alpha, float) and alpha.is_integer():
        settings["lora_alpha"] = int(alpha)  # vLLM takes whole numbers, as PEFT writes them
    settings |= {"base_model_name_or_path": base, "revision": None}
    write_text(out / ADAPTER_CONFIG, json.dumps(settings, indent=2) + "\n")
    save_file(weights, out / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def require_strength(strength: float) -> None:
    if not 0 <= strength <= 1:
        raise ConfigError(f"strength {strength:g}: give a number from 0 (the base model) to 1 (the whole adapter)")
