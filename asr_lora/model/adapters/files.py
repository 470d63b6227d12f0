"""Save and load trained weights: a plain PEFT adapter, or a whole Transformers model."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import WhisperForConditionalGeneration

from asr_lora.errors import DataError, first_line
from asr_lora.model.adapters.adalora import rank_allocator
from asr_lora.model.adapters.pissa import as_lora, is_pissa
from asr_lora.model.adapters.wrapper import ONLY
from asr_lora.model.whisper import Whisper, force_prompt

ADAPTER_CONFIG = "adapter_config.json"  # a folder that has it is a PEFT adapter
ADAPTER_WEIGHTS = "adapter_model.safetensors"


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


def adapter_base(folder: Path) -> str:
    """Return the name of the base model that an adapter was trained on.

    Raises:
        DataError: the folder is no adapter folder.
    """
    base = adapter_settings(folder).get("base_model_name_or_path")
    if not isinstance(base, str):
        raise DataError(f"{folder} is not an adapter folder ({ADAPTER_CONFIG} names no base model)")
    return base


def adapter_settings(folder: Path) -> dict[str, object]:
    """Return the settings of an adapter, as PEFT writes them.

    Raises:
        DataError: the folder is no adapter folder.
    """
    try:
        settings = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{folder} is not an adapter folder ({first_line(error)})") from error
    if not isinstance(settings, dict):
        raise DataError(f"{folder} is not an adapter folder ({ADAPTER_CONFIG} holds no settings)")
    return settings


def load_adapted(base: str, folder: Path) -> Any:
    """Load a base and a saved adapter by plain Transformers and PEFT, without this package's changes to Whisper.

    Raises:
        DataError: the adapter does not fit the base, or is damaged.
    """
    core = WhisperForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    return load_peft(core, folder, base)


def load_peft(core: Any, folder: Path, source: str, **options: Any) -> Any:
    """Put a saved adapter on the Transformers model of a base, with PEFT's own options.

    Raises:
        DataError: the adapter does not fit the base, or is damaged.
    """
    with fitting(folder, source), _quiet_about_ranks():
        return PeftModel.from_pretrained(core, str(folder), **options)


@contextmanager
def fitting(folder: Path, source: str) -> Iterator[None]:
    """Report any error of a block as a DataError: the adapter does not fit the base."""
    try:
        yield
    except Exception as error:  # PEFT, safetensors and torch each raise their own kinds
        raise DataError(f"{folder} cannot be put on {source} ({first_line(error)})") from error


@contextmanager
def _quiet_about_ranks() -> Iterator[None]:
    """Silence PEFT's warnings about AdaLoRA's pattern of ranks and about layers without any rank left."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*rank_pattern keys did not match")
        warnings.filterwarnings("ignore", message=".*LoRA tensor.* have invalid shape")
        yield
