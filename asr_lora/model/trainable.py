"""Choose, count and check the weights that training changes."""

import torch
from torch import nn

from asr_lora.config import Part
from asr_lora.errors import DataError
from asr_lora.model.targets import HALVES, blocks
from asr_lora.model.whisper import Whisper


def train_everything(whisper: Whisper, part: Part = Part.BOTH, layers: tuple[int, int] | None = None) -> Whisper:
    """Make every weight of a part, or of some of its layers, trainable, except the encoder's fixed sinusoids.

    The output projection is the decoder's embedding, so it trains with the whole decoder.

    Raises:
        ConfigError: a half has no layer in the range.
    """
    core = whisper.core
    chosen = list(blocks(core, part, layers).values())
    core.requires_grad_(False)
    for module in chosen if layers else [getattr(core.model, half) for half in HALVES[part]]:
        module.requires_grad_(True)
    if not layers and "decoder" in HALVES[part]:
        core.proj_out.requires_grad_(True)  # the same weight, unless a model was saved untied
    core.model.encoder.embed_positions.requires_grad_(False)
    return whisper


def trainable_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights that training changes, by name; they are the model's own tensors."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return the numbers of trainable and of all parameters, an adapter included and quantised ones unpacked."""
    trainable = sum(value.numel() for value in model.parameters() if value.requires_grad)
    total = 0
    for value in model.parameters():
        packed = value.__class__.__name__ == "Params4bit"  # two weights a byte
        total += value.numel() * (2 * value.element_size() if packed else 1)
    return trainable, total


def require_gradients(model: nn.Module) -> None:
    """Check after the first backward pass that every trainable weight has a gradient.

    With reentrant gradient checkpointing an encoder's adapter silently gets none.

    Raises:
        DataError: a trainable weight has no gradient.
    """
    dead = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    if dead:
        raise DataError(f"{len(dead)} trainable weights get no gradient, first {dead[0]}: check adapter.targets")
