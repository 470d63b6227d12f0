"""Load a model that was found by its name, or a base with several adapters, ready to transcribe."""

from dataclasses import replace

from asr_lora.config import Context, Precision
from asr_lora.language import ForcedPrompt
from asr_lora.model.adapters.averaging import WeightedModel, load_sum
from asr_lora.model.adapters.merging import load_merged
from asr_lora.model.adapters.multi_lora import load_adapters
from asr_lora.model.find_model import AdapterSet, NamedModel, find_model
from asr_lora.model.whisper import Whisper, load_whisper
from asr_lora.system.device import compute_dtype, default_device


def open_model(
    name: str | NamedModel,
    prompt: ForcedPrompt | None = None,
    *,
    context: Context | None = None,
    precision: Precision = Precision.AUTO,
) -> Whisper:
    """Load a model by any name, or one that `find_model` found.

    An adapter is merged into its base in float32 and then brought to the precision, so it costs nothing.

    Args:
        prompt: the recorded one when not given.
        context: the recorded one when not given, or else all 30 s.

    Raises:
        ConfigError: no language is given or recorded; a strength is given without an adapter.
        DataError: the model is not there, the run is unfinished, or the adapter does not fit.
    """
    model = find_model(name)
    prompt = prompt or model.prompt()
    device = default_device()
    dtype = compute_dtype(precision, device)
    if model.parts:
        whisper = load_sum(model.base, weighted_models(model), prompt, dtype, device=device)
    elif model.weights is not None and model.strength is not None:
        whisper = load_merged(model.base, model.weights, prompt, dtype, device=device, strength=model.strength)
    else:
        whisper = load_whisper(str(model.weights or model.base), prompt, dtype=dtype, device=device)
    return replace(whisper, context=context or model.context, source=model.name)


def weighted_models(model: NamedModel) -> list[WeightedModel]:
    """Return the weights and shares of the parts of a mean."""
    return [
        WeightedModel(part.model.trained_weights, part.model.strength is not None, part.share) for part in model.parts
    ]


def open_adapters(adapters: AdapterSet, precision: Precision = Precision.AUTO) -> Whisper:
    """Load a base with several adapters on it, which `adapters.multi_lora.using_adapters` selects by name.

    Raises:
        ConfigError: an adapter is no plain LoRA.
        DataError: the base or an adapter is damaged, or they do not fit.
    """
    device = default_device()
    whisper = load_whisper(adapters.base, adapters.prompt, dtype=compute_dtype(precision, device), device=device)
    folders = {name: (model.weights, model.strength) for name, model in adapters.models.items()}
    return load_adapters(whisper, folders)  # type: ignore[arg-type]
