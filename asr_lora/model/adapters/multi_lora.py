"""Load several adapters on one base, and compute each row of a batch with its own adapter."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import LoraConfig

from asr_lora.errors import ConfigError
from asr_lora.model.adapters.files import load_peft
from asr_lora.model.adapters.merging import require_strength
from asr_lora.model.adapters.wrapper import adapted_layers, peft_model
from asr_lora.model.whisper import Whisper

BASE = "__base__"  # PEFT's name of the base among several adapters


def load_adapters(whisper: Whisper, adapters: Mapping[str, tuple[Path, float]]) -> Whisper:
    """Put several saved adapters on one loaded base, each under a name and at a strength; see `using_adapters`.

    Raises:
        ConfigError: an adapter is no plain LoRA, the only kind that PEFT mixes in a batch.
        DataError: an adapter does not fit the base, or is damaged.
    """
    model: Any = None
    for name, (folder, strength) in adapters.items():
        require_strength(strength)
        model = load_peft(whisper.core if model is None else model, folder, whisper.source, adapter_name=name)
        config = model.peft_config[name]
        if type(config) is not LoraConfig or config.use_dora:
            raise ConfigError(f"{folder} is no plain LoRA, so it is not loaded beside others: name it alone, as MODEL")
        for layer in adapted_layers(model).values():
            if name in layer.scaling:
                layer.scaling[name] *= strength
    return replace(whisper, model=model.eval())


@contextmanager
def using_adapters(whisper: Whisper, names: Sequence[str | None]) -> Iterator[None]:
    """Compute each row of a batch with the adapter of that name, or with the `BASE`; None: the model as it is.

    Raises:
        ValueError: some rows have a name and some have none.
    """
    if not any(names):
        yield
        return
    if not all(names):
        raise ValueError("every row of a batch needs an adapter, or none")
    if all(name == BASE for name in names):
        with peft_model(whisper).disable_adapter():
            yield
        return
    failure: BaseException | None = None
    with peft_model(whisper).base_model._enable_peft_forward_hooks(adapter_names=list(names)):
        try:
            yield
        except BaseException as error:  # noqa: BLE001 (raised below: PEFT does not remove its hooks after an exception)
            failure = error
    if failure is not None:
        raise failure
