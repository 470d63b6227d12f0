"""Save and load trained weights: a plain PEFT adapter, or a whole Transformers model."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import save_file
from transformers import WhisperForConditionalGeneration

from asr_lora.errors import DataError, first_line
from asr_lora.model.adapters.adalora import rank_allocator
from asr_lora.model.adapters.pissa import as_lora, is_pissa
from asr_lora.model.adapters.saved_adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_config, adapter_weights
from asr_lora.model.adapters.wrapper import ONLY
from asr_lora.model.weight_names import some_names
from asr_lora.model.whisper import Whisper, force_prompt


def save_weights(whisper: Whisper, folder: Path) -> None:
    """Save a plain PEFT adapter, or a whole Transformers model with tokenizer and generation settings."""
    if isinstance(whisper.model, PeftModel):
        _save_adapter(whisper.model, folder)
        return
    from transformers import WhisperFeatureExtractor

    force_prompt(whisper)
    whisper.core.save_pretrained(folder)
    whisper.tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=whisper.mel_bins).save_pretrained(folder)


def _save_adapter(model: Any, folder: Path) -> None:
    """Save an adapter that works on the unchanged base model."""
    config = model.peft_config[ONLY]
    if is_pissa(config):
        config, weights = as_lora(model)
        folder.mkdir(parents=True, exist_ok=True)
        config.save_pretrained(str(folder))
        save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        return
    kept = config.rank_pattern
    if rank_allocator(model) is not None and kept is not None:
        # Between two allocations PEFT's pattern lacks ranks that are no longer zero; the weights have them.
        weights = model.base_model.model.named_parameters()
        config.rank_pattern = {name: (value != 0).flatten().tolist() for name, value in weights if ".lora_E." in name}
    with _quiet_about_ranks():
        # The base keeps the user's name; PEFT's own look-up of embeddings would ask a hub.
        model.save_pretrained(folder, save_embedding_layers=False)
    config.rank_pattern = kept  # saving renames its keys


def load_adapted(base: str, folder: Path) -> Any:
    """Load a base and a saved adapter by plain Transformers and PEFT, without this package's changes to Whisper.

    Raises:
        DataError: the adapter does not fit the base, or is damaged.
    """
    core = WhisperForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    with fitting(folder, base), _strict_about_weights():
        return PeftModel.from_pretrained(core, str(folder))


def load_peft(
    core: Any, folder: Path, source: str, *, adapter_name: str = ONLY, trainable: bool = False, config: Any = None
) -> Any:
    """Put a saved adapter on the Transformers model of a base, or beside the adapters on a model that PEFT wraps.

    Args:
        core: the base, or PEFT's wrapper around it.
        folder: the adapter.
        source: name of the base.
        adapter_name: PEFT's name of the adapter.
        trainable: whether it is trained further.
        config: PEFT's configuration, where it is not the saved one.

    Raises:
        DataError: the adapter is damaged; or its weights are not exactly those that its settings describe on this base.
    """
    config = config or adapter_config(folder)
    config.inference_mode = not trainable
    weights = adapter_weights(folder)
    with fitting(folder, source), _strict_about_weights():
        model = core if isinstance(core, PeftModel) else PeftModel(core, config, adapter_name)
        if model is core:
            model.add_adapter(adapter_name, config)
        found = set_peft_model_state_dict(model, weights, adapter_name=adapter_name)
    lacking = [name for name in found.missing_keys if "lora_" in name and adapter_name in name.split(".")]
    if lacking or found.unexpected_keys:
        faults = {"its weights lack": lacking, "its weights have the unknown": found.unexpected_keys}
        says = "; ".join(
            f"{fault} {some_names([name.replace(f'.{adapter_name}', '') for name in names])}"
            for fault, names in faults.items()
            if names
        )
        raise DataError(
            f"{folder} cannot be put on {source} ({says}): name the base that it was trained on, or copy "
            f"{ADAPTER_CONFIG} and the weights again from where it was trained"
        )
    return model if trainable else model.eval()


@contextmanager
def fitting(folder: Path, source: str) -> Iterator[None]:
    """Report any error of a block as a DataError: the adapter does not fit the base."""
    try:
        yield
    except Exception as error:  # PEFT, safetensors and torch each raise their own kinds
        raise DataError(f"{folder} cannot be put on {source} ({first_line(error)})") from error


@contextmanager
def _strict_about_weights() -> Iterator[None]:
    """Raise PEFT's warnings about an adapter as errors, but for those of AdaLoRA's ranks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning, module="peft")
        warnings.filterwarnings("error", category=RuntimeWarning, module="peft")
        _ignore_ranks()
        yield


@contextmanager
def _quiet_about_ranks() -> Iterator[None]:
    with warnings.catch_warnings():
        _ignore_ranks()
        yield


def _ignore_ranks() -> None:
    """Silence PEFT's warnings about AdaLoRA's pattern of ranks and about layers without any rank left."""
    warnings.filterwarnings("ignore", message=".*rank_pattern keys did not match")
    warnings.filterwarnings("ignore", message=".*LoRA tensor.* have invalid shape")
