"""Attach a new adapter, or an earlier one, to a frozen base model."""

from bisect import bisect_right
from dataclasses import replace
from typing import Any

import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model, prepare_model_for_kbit_training

from asr_lora.config import AdapterSettings, Method
from asr_lora.errors import ConfigError
from asr_lora.model.adapters.adalora import first_rank, rank_schedule
from asr_lora.model.adapters.continuation import continue_adapter
from asr_lora.model.adapters.pissa import ROUNDS, begin_pissa, require_directions
from asr_lora.model.adapters.wrapper import ONLY, adapted_layers
from asr_lora.model.cpu import draw_dropout_quickly
from asr_lora.model.targets import smallest_side, target_names, target_pattern
from asr_lora.model.whisper import Whisper


def attach_adapter(
    whisper: Whisper, settings: AdapterSettings, *, method: Method, steps: int, quantised: bool = False
) -> Whisper:
    """Freeze the base and attach an adapter to the target projections, or continue an earlier adapter.

    Over a bf16 base the adapter computes under autocast only. PEFT prepares only a quantised base, since it converts
    all weights that are not quantised to float32. `task_type` stays unset: PEFT's wrapper for sequence-to-sequence
    models passes arguments that Whisper does not take.

    Args:
        whisper: the base; its layers are wrapped in place.
        settings: which layers are adapted, and how.
        method: anything but `full`.
        steps: optimiser steps of the whole run, over which AdaLoRA lowers its rank.
        quantised: whether the base is kept in 8 or 4 bits.

    Raises:
        ConfigError: the settings do not fit the model, or contradict the earlier adapter.
        DataError: the earlier adapter is not there or is damaged.
    """
    names = target_names(whisper.core, settings)
    if quantised:
        require_quantisable(whisper, method, whisper.device)
        prepare_model_for_kbit_training(whisper.core, use_gradient_checkpointing=False)
    if method is Method.PISSA:
        require_directions(whisper.core, names, settings.rank)
    if settings.continue_from is not None:
        model = continue_adapter(whisper, settings, method, names)
    else:
        config = _peft_config(settings, method, steps)
        model = begin_pissa(whisper, config) if method is Method.PISSA else get_peft_model(whisper.core, config)
    for name, value in model.named_parameters():
        if ".ranknum." in name:
            value.requires_grad_(False)  # AdaLoRA's count of ranks, which PEFT lets train over a bf16 base
    config = model.peft_config[ONLY]
    config.base_model_name_or_path = whisper.source
    if not isinstance(config.target_modules, str):
        config.target_modules = sorted(config.target_modules)  # a set would be saved in another order by each process
    draw_dropout_quickly(model)
    if whisper.dtype is torch.bfloat16:
        # PEFT would convert every input to float32, and autocast would convert it to bf16 again.
        for layer in adapted_layers(model).values():
            layer.cast_input_dtype_enabled = False
    return replace(whisper, model=model)


def _peft_config(settings: AdapterSettings, method: Method, steps: int) -> Any:
    """Return PEFT's configuration of the adapter."""
    common: dict[str, object] = {
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": target_pattern(settings),
        "bias": "none",
    }
    if method is Method.ADALORA:
        begin = first_rank(settings.rank)
        return AdaLoraConfig(init_r=begin, target_r=settings.rank, **rank_schedule(steps), **common)
    return LoraConfig(
        r=settings.rank,
        use_rslora=method is Method.RSLORA,
        use_dora=method is Method.DORA,
        init_lora_weights=ROUNDS if method is Method.PISSA else True,
        **common,
    )


def require_quantisable(whisper: Whisper, method: Method, device: torch.device) -> None:
    """Check that a method can train over the quantised base.

    Raises:
        ConfigError: the method is PiSSA, or DoRA over 8 bits on a CPU.
    """
    if method is Method.PISSA:
        raise ConfigError(
            "method: pissa moves the base's principal directions out of its weights, which 8 or 4 bits cannot follow; "
            "set model.quantise=none, or another method"
        )
    if method is Method.DORA and device.type == "cpu" and getattr(whisper.core, "is_loaded_in_8bit", False):
        # PEFT reads the norms of W at each forward pass, and on a CPU that loses the scales of the 8 bits.
        raise ConfigError("method: dora cannot train over 8-bit weights on a CPU; set model.quantise=none or 4bit")


def adapter_parameters(core: Any, settings: AdapterSettings, method: Method) -> int:
    """Count the trainable parameters of an adapter before it is attached; for AdaLoRA, at its first rank.

    Raises:
        ConfigError: the settings do not fit the model.
    """
    layers = [core.get_submodule(name) for name in target_names(core, settings)]
    sides: int = sum(layer.in_features + layer.out_features for layer in layers)
    if method is Method.ADALORA:
        return first_rank(settings.rank) * (sides + len(layers))
    magnitudes: int = sum(layer.out_features for layer in layers) if method is Method.DORA else 0
    return settings.rank * sides + magnitudes


def rank_within(core: Any, settings: AdapterSettings, method: Method, budget: int) -> int:
    """Return the highest rank whose trainable parameters are within a budget, and that every target's shape allows.

    Raises:
        ConfigError: rank 1 exceeds the budget, or the settings do not fit the model.
    """

    def taken(rank: int) -> int:
        return adapter_parameters(core, settings.model_copy(update={"rank": rank}), method)

    most = smallest_side(core, target_names(core, settings))
    rank = bisect_right(range(1, most + 1), budget, key=taken)
    if not rank:
        raise ConfigError(f"a budget of {budget:,} parameters is less than rank 1 takes: give {taken(1):,} or more")
    return rank
