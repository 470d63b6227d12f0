"""Open an engine by its name, with a model in it."""

from collections.abc import Mapping
from enum import StrEnum

from asr_lora.config import Context, Precision
from asr_lora.decoding.ctranslate2_engine import open_ctranslate2, open_ctranslate2_adapters
from asr_lora.decoding.engine import Engine, TorchEngine
from asr_lora.errors import ConfigError
from asr_lora.language import ForcedPrompt, Task
from asr_lora.model.find_model import AdapterSelection, NamedModel
from asr_lora.model.open_model import open_adapters, open_model


class EngineName(StrEnum):
    TORCH = "torch"
    CTRANSLATE2 = "ctranslate2"


def engine_named(name: str) -> EngineName:
    """Return the engine of a name.

    Raises:
        ConfigError: there is no such engine.
    """
    if name not in list(EngineName):
        raise ConfigError(f"--engine: {name} is not one of {', '.join(EngineName)}")
    return EngineName(name)


def open_engine(
    engine: EngineName,
    model: str | NamedModel,
    prompt: ForcedPrompt | None = None,
    *,
    context: Context | None = None,
    precision: Precision = Precision.AUTO,
) -> Engine:
    """Load a model by any name into an engine; see `asr_lora.model.open_model.open_model` for the arguments."""
    if engine is EngineName.TORCH:
        return TorchEngine(open_model(model, prompt, context=context, precision=precision))
    return open_ctranslate2(model, prompt, context=context, precision=precision)


def open_adapter_engine(
    engine: EngineName,
    base: str,
    adapters: Mapping[str, str],
    *,
    task: Task | None = None,
    context: Context | None = None,
    precision: Precision = Precision.AUTO,
) -> tuple[Engine, dict[str, AdapterSelection]]:
    """Load a base with its adapters into an engine; see `asr_lora.model.open_model.open_adapters`."""
    if engine is EngineName.TORCH:
        whisper, selections = open_adapters(base, adapters, task=task, context=context, precision=precision)
        return TorchEngine(whisper), selections
    return open_ctranslate2_adapters(base, adapters, task=task, context=context, precision=precision)
