"""Train PiSSA (arXiv 2404.02948): the adapter starts as the principal part of each matrix, which leaves the base."""

import copy
from typing import Any

import torch
from peft import get_peft_model

from asr_lora.errors import ConfigError
from asr_lora.model.adapters.wrapper import ONLY, adapted_layers
from asr_lora.model.targets import smallest_side
from asr_lora.model.whisper import Whisper

ROUNDS = "pissa_niter_16"  # PEFT's name of the paper's fast SVD with 16 iterations


def require_directions(core: Any, names: list[str], rank: int) -> None:
    """Check that the smallest target has as many principal directions as the adapter's rank.

    Raises:
        ConfigError: it has fewer.
    """
    smallest = smallest_side(core, names)
    if rank > smallest:
        raise ConfigError(
            f"adapter.rank: pissa begins at {rank} directions of each target, and the smallest has {smallest}; "
            f"set adapter.rank={smallest} or less"
        )


def begin_pissa(whisper: Whisper, config: Any) -> Any:
    """Attach the adapter, and keep its initial weights as buffers.

    The directions are found by random projection with a fixed seed, so a resumed run finds the same ones.
    """
    devices = [whisper.device] if whisper.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        model = get_peft_model(whisper.core, config)
    for layer in adapted_layers(model).values():
        for name in ("lora_A", "lora_B"):
            beginning = getattr(layer, name)[ONLY].weight.detach().clone()
            layer.register_buffer(f"initial_{name}", beginning, persistent=False)
    return model


def is_pissa(config: Any) -> bool:
    return str(config.init_lora_weights).startswith("pissa")


def as_lora(model: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """Convert the change since the start, s(BA - B0 A0), to a LoRA of twice the rank: its settings and weights.

    The base in memory lacks s B0 A0, the base on disk does not (arXiv 2404.02948, appendix on conversion to LoRA).
    """
    weights = {}
    for name, layer in adapted_layers(model).items():
        a, b = layer.lora_A[ONLY].weight.detach(), layer.lora_B[ONLY].weight.detach()  # (rank, in), (out, rank)
        weights[f"{name}.lora_A.weight"] = torch.cat([a, layer.initial_lora_A]).cpu()
        weights[f"{name}.lora_B.weight"] = torch.cat([b, -layer.initial_lora_B], dim=1).cpu()
    config = copy.copy(model.peft_config[ONLY])
    config.r, config.lora_alpha = 2 * config.r, 2 * config.lora_alpha
    config.init_lora_weights, config.inference_mode = True, True
    return config, weights
