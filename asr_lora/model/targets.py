"""Choose the layers of a Whisper that train, by half (encoder, decoder), layer number and projection."""

import re
from typing import Any

from torch import nn

from asr_lora.config import AdapterSettings, Part
from asr_lora.errors import ConfigError

HALVES = {Part.BOTH: ("encoder", "decoder"), Part.ENCODER: ("encoder",), Part.DECODER: ("decoder",)}


def blocks(core: Any, part: Part, layers: tuple[int, int] | None) -> dict[str, nn.Module]:
    """Return the transformer blocks that train, by name.

    Raises:
        ConfigError: a half has no layer in the range.
    """
    found: dict[str, nn.Module] = {}
    stacks = {half: getattr(core.model, half).layers for half in HALVES[part]}
    deepest = max(len(stack) for stack in stacks.values()) - 1
    for half, stack in stacks.items():
        first, last = layers or (0, deepest)
        if first >= len(stack) or last > deepest:
            raise ConfigError(
                f"adapter.layers: the {half} has layers 0 to {len(stack) - 1}, not {first} to {last}; "
                "name layers that are there, or the other half in adapter.part"
            )
        found |= {f"model.{half}.layers.{n}": stack[n] for n in range(first, min(last + 1, len(stack)))}
    return found


def target_names(core: Any, settings: AdapterSettings) -> list[str]:
    """Return the full names of the linear layers that the settings choose.

    Raises:
        ConfigError: no linear layer has the name of a target.
    """
    linears = [
        f"{block}.{name.removesuffix('.base_layer')}"  # where an adapter is on, the layer lies within it
        for block, module in blocks(core, settings.part, settings.layers).items()
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and ".lora_" not in name
    ]
    for target in settings.targets:
        if not any(name.endswith(f".{target}") for name in linears):
            known = sorted({name.rpartition(".")[2] for name in linears})
            raise ConfigError(
                f"adapter.targets: no linear layer in these layers is called {target!r}; name some of "
                f"{', '.join(known)}"
            )
    return [name for name in linears if any(name.endswith(f".{target}") for target in settings.targets)]


def target_pattern(settings: AdapterSettings) -> list[str] | str:
    """Return the same choice for PEFT's `target_modules`: names of projections, or a pattern of halves and layers."""
    if settings.part is Part.BOTH and settings.layers is None:
        return list(settings.targets)
    halves = "|".join(HALVES[settings.part])
    first, last = settings.layers or (0, 0)
    layers = "|".join(str(n) for n in range(first, last + 1)) if settings.layers else r"\d+"
    targets = "|".join(re.escape(target) for target in settings.targets)
    return rf"model\.({halves})\.layers\.({layers})\.(.+\.)?({targets})"


def smallest_side(core: Any, names: list[str]) -> int:
    """Return the smallest side of these layers' weights: the highest rank that an update of the layer can have."""
    sides: list[int] = [min(core.get_submodule(name).weight.shape) for name in names]
    return min(sides)
