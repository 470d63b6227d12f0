"""Compute the memory that a model will take from a meta model, which has shapes but no weights."""

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from asr_lora.config import Quantise

BLOCK_4BIT = 64  # weights that share a scale, bitsandbytes' default
SCALE_BYTES = 4


def packed_linears(core: nn.Module) -> dict[str, nn.Linear]:
    """Return the layers that bitsandbytes packs, by name: every linear layer but the output projection."""
    return {
        name.removesuffix(".base_layer"): module
        for name, module in core.named_modules()
        if isinstance(module, nn.Linear) and ".lora_" not in name and not name.endswith("proj_out")
    }


def keep_the_rest_in_float32(core: nn.Module) -> None:
    """Convert all but the packed weights to float32, as PEFT does over a quantised base."""
    packed = {id(layer.weight) for layer in packed_linears(core).values()}
    for value in core.parameters():
        if id(value) not in packed:
            value.data = value.data.float()


def packed_bytes(rows: int, columns: int, quantise: Quantise) -> int:
    """Return the bytes of a packed (rows, columns) weight: 8 bits and a scale per row, or 4 bits and one per 64."""
    weights = rows * columns
    if quantise is Quantise.INT8:
        return weights + SCALE_BYTES * rows
    return -(-weights // 2) + SCALE_BYTES * -(-weights // BLOCK_4BIT)


def weights_bytes(core: nn.Module, quantise: Quantise) -> int:
    """Return the bytes of a model's parameters and buffers, counting shared ones once.

    Args:
        core: a model that is not packed, on any device.
        quantise: how its linear layers will be packed.
    """
    packed: dict[int, int] = {}
    if quantise is not Quantise.NONE:
        for layer in packed_linears(core).values():
            packed[id(layer.weight)] = packed_bytes(layer.out_features, layer.in_features, quantise)
    values = {id(value): value for value in [*core.parameters(), *core.buffers()]}
    return sum(packed.get(key, value.numel() * value.element_size()) for key, value in values.items())


def fill_with_fakes(model: nn.Module, mode: FakeTensorMode, device: torch.device) -> None:
    """Replace a meta model's parameters and buffers by fake tensors on `device`, which take no memory.

    Unlike meta tensors they run through the same kernels and autocast as real tensors of that device.
    """
    fakes: dict[int, torch.Tensor] = {}

    def fake(value: torch.Tensor) -> torch.Tensor:
        if id(value) not in fakes:
            made: torch.Tensor = torch.empty(value.shape, dtype=value.dtype, device=device)
            fakes[id(value)] = nn.Parameter(made, value.requires_grad) if isinstance(value, nn.Parameter) else made
        return fakes[id(value)]

    with mode:
        for module in model.modules():
            for kept in (module._parameters, module._buffers):
                for name, value in kept.items():
                    if value is not None:
                        kept[name] = fake(value)  # type: ignore[assignment]
