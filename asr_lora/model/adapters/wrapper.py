"""A Whisper that PEFT has wrapped: what PEFT calls things in it."""

from typing import Any

from peft import PeftModel
from torch import nn

from asr_lora.model.whisper import Whisper

ONLY = "default"  # PEFT's name of the only adapter
PREFIX = "base_model.model."  # PEFT's, before the names of Whisper's own modules


def peft_model(whisper: Whisper) -> Any:
    """PEFT's wrapper around an adapted model."""
    assert isinstance(whisper.model, PeftModel)
    return whisper.model


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """The layers that carry an adapter, by name."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
