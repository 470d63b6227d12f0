"""Names that PEFT uses in a model it has wrapped."""

from typing import Any

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

from asr_lora.model.whisper import Whisper

ONLY = "default"  # PEFT's name of an adapter that is alone


def peft_model(whisper: Whisper) -> Any:
    """Return PEFT's wrapper around an adapted model."""
    assert isinstance(whisper.model, PeftModel)
    return whisper.model


def adapted_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """Return the layers that carry an adapter, by name."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
