"""Open an engine by its name, with a model in it."""

from enum import StrEnum

from asr_lora.config import Context, Precision
from asr_lora.decoding.ctranslate2_engine import open_ctranslate2, open_ctranslate2_adapters
from asr_lora.decoding.engine import Engine, TorchEngine
from asr_lora.errors import ConfigError
from asr_lora.language import ForcedPrompt
from asr_lora.model.find_model import AdapterSet, NamedModel
from asr_lora.model.open_model import open_adapters, open_model
from asr_lora.system.device import default_device


class EngineName(StrEnum):
    TORCH = "torch"
    CTRANSLATE2 = "ctranslate2"


def engine_named(name: str | None, precision: Precision = Precision.AUTO, *, needs_torch: bool = False) -> EngineName:
    """Return the engine of a name; None takes CTranslate2 on a CPU, where it is twice as fast, and PyTorch on a GPU.

    Args:
        precision: CTranslate2 does not compute in bf16, so None takes PyTorch for it.
        needs_torch: whether the caller wants what CTranslate2 cannot do, or does with a copy of the model each.

    Raises:
        ConfigError: there is no such engine.
    """
    if name is None:
        fast = default_device().type == "cpu" and precision is not Precision.BF16 and not needs_torch
        return EngineName.CTRANSLATE2 if fast else EngineName.TORCH
    if name not in list(EngineName):
        raise ConfigError(f"--engine: {name} is not one of {', '.join(EngineName)}")
    return EngineName(name)


def computed_in(name: str | None, precision: Precision, engine: EngineName) -> Precision:
    """Return the precision of an engine: float32 where CTranslate2 was taken without being named.

    Eight bits, which CTranslate2 takes by itself on a CPU, cost whisper-base words.
    """
    automatic = name is None and precision is Precision.AUTO and engine is EngineName.CTRANSLATE2
    return Precision.FP32 if automatic else precision


def open_engine(
    engine: EngineName,
    model: NamedModel,
    prompt: ForcedPrompt,
    *,
    context: Context | None = None,
    precision: Precision = Precision.AUTO,
) -> Engine:
    """Load a model into an engine; see `asr_lora.model.open_model.open_model`."""
    if engine is EngineName.TORCH:
        return TorchEngine(open_model(model, prompt, context=context, precision=precision))
    return open_ctranslate2(model, prompt, context=context, precision=precision)


def open_adapter_engine(engine: EngineName, adapters: AdapterSet, precision: Precision = Precision.AUTO) -> Engine:
    """Load a base with its adapters into an engine; see `asr_lora.model.open_model.open_adapters`."""
    if engine is EngineName.TORCH:
        return TorchEngine(open_adapters(adapters, precision))
    return open_ctranslate2_adapters(adapters, precision)
