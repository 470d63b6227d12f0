"""Load a model, or a base with several adapters, by name: ready to transcribe."""

from collections.abc import Mapping
from dataclasses import replace

from asr_lora.config import Context, Precision
from asr_lora.language import ForcedPrompt, Task
from asr_lora.model.adapters.merging import load_merged
from asr_lora.model.adapters.multi_lora import load_adapters
from asr_lora.model.find_model import AdapterSelection, NamedModel, find_adapters, find_model
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
    if model.weights is not None and model.strength is not None:
        whisper = load_merged(model.base, model.weights, prompt, dtype, device=device, strength=model.strength)
    else:
        whisper = load_whisper(str(model.weights or model.base), prompt, dtype=dtype, device=device)
    return replace(whisper, context=context or model.context, source=model.name)


def open_adapters(
    base: str,
    adapters: Mapping[str, str],
    *,
    task: Task | None = None,
    context: Context | None = None,
    precision: Precision = Precision.AUTO,
) -> tuple[Whisper, dict[str, AdapterSelection]]:
    """Load one base with several runs or adapters on it, each under a name and perhaps at a strength.

    Args:
        base: the model that all of them were trained from.
        adapters: names, such as language codes, and the models that they stand for, such as `runs/nl@0.7`.

    Returns:
        The model, and the selection of each name. The language of an adapter without a run is its name.

    Raises:
        ConfigError: a model is no adapter, has another base, or its language is not known.
        DataError: base or adapters are not there, or do not fit.
    """
    models, selections = find_adapters(base, adapters, task=task, context=context)
    device = default_device()
    prompt = next(iter(selections.values())).prompt
    whisper = load_whisper(base, prompt, dtype=compute_dtype(precision, device), device=device)
    folders = {name: (model.weights, model.strength) for name, model in models.items()}
    return load_adapters(whisper, folders), selections  # type: ignore[arg-type]
