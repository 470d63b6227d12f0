"""An engine by its name, with a model in it."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from asr_lora.decoding.ctranslate2_engine import open_ctranslate2, open_ctranslate2_voices
from asr_lora.decoding.engine import Engine, TorchEngine
from asr_lora.errors import ConfigError
from asr_lora.model.locate import Voice, open_system, open_voices


class EngineName(StrEnum):
    TORCH = "torch"
    CTRANSLATE2 = "ctranslate2"


def engine_named(name: str) -> EngineName:
    """The engine that a user names.

    Raises:
        ConfigError: there is no such engine.
    """
    if name not in list(EngineName):
        raise ConfigError(f"--engine: {name} is not one of {', '.join(EngineName)}")
    return EngineName(name)


def open_engine(engine: EngineName, model: str, **told: Any) -> Engine:
    """Load a model by any name; see `asr_lora.model.locate.open_system` for what it may be told."""
    if engine is EngineName.TORCH:
        return TorchEngine(open_system(model, **told).whisper)
    return open_ctranslate2(model, **told)


def open_voiced_engine(
    engine: EngineName, base: str, adapters: Mapping[str, str], **told: Any
) -> tuple[Engine, dict[str, Voice]]:
    """Load a base with its adapters; see `asr_lora.model.locate.open_voices` for what they may be told."""
    if engine is EngineName.TORCH:
        whisper, voices = open_voices(base, adapters, **told)
        return TorchEngine(whisper), voices
    return open_ctranslate2_voices(base, adapters, **told)
