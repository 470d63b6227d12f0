"""Attach, save, load and merge what is trained: a LoRA adapter (PEFT), or every weight."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import nn

from asr_lora.audio.decode import first_line
from asr_lora.config import AdapterSettings, Quantise, Task
from asr_lora.errors import ConfigError, DataError
from asr_lora.model.whisper import Whisper, force_language, load_whisper

ADAPTER_CONFIG = "adapter_config.json"  # what makes a folder a PEFT adapter


def attach_lora(whisper: Whisper, settings: AdapterSettings, *, quantise: Quantise = Quantise.NONE) -> Whisper:
    """Freeze the base and put a LoRA of `rank` on the target projections (arXiv 2106.09685, section 4.1).

    Only a quantised base is prepared by PEFT, which brings all that is not quantised to float32: on another base
    that would double the memory for nothing. `task_type` stays unset, as PEFT's wrapper for sequence-to-sequence
    models passes arguments that Whisper does not take.

    Raises:
        ConfigError: no layer has the name of a target.
    """
    core = whisper.core
    if quantise is not Quantise.NONE:
        core = prepare_model_for_kbit_training(core, use_gradient_checkpointing=False)
    lora = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        bias="none",
    )
    try:
        model = get_peft_model(core, lora)
    except ValueError as error:
        raise ConfigError(f"adapter.targets: {first_line(error)}") from error
    model.peft_config["default"].base_model_name_or_path = whisper.source
    return replace(whisper, model=model)


def train_everything(whisper: Whisper) -> Whisper:
    """Make every weight trainable but the encoder's fixed sinusoids."""
    whisper.core.requires_grad_(True)
    whisper.core.model.encoder.embed_positions.requires_grad_(False)
    return whisper


def trainable_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that training changes, by name, still the model's own tensors."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return (trainable, all) parameters; the all of a LoRA model include its adapter, quantised ones are unpacked."""
    trainable = sum(value.numel() for value in model.parameters() if value.requires_grad)
    total = 0
    for value in model.parameters():
        packed = value.__class__.__name__ == "Params4bit"  # two weights a byte
        total += value.numel() * (2 * value.element_size() if packed else 1)
    return trainable, total


def require_gradients(model: nn.Module) -> None:
    """Check after the first backward pass that every adapter learns.

    With reentrant gradient checkpointing an encoder's adapter silently gets none.

    Raises:
        DataError: a trainable weight has no gradient.
    """
    dead = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    if dead:
        raise DataError(f"{len(dead)} trainable weights get no gradient, first {dead[0]}: check adapter.targets")


def save_weights(whisper: Whisper, folder: Path) -> None:
    """Save a plain PEFT adapter, or a whole Transformers model with tokenizer and generation settings."""
    if isinstance(whisper.model, PeftModel):
        # The base is named as the user names it; PEFT's own look-up of embeddings would ask a hub.
        whisper.model.save_pretrained(folder, save_embedding_layers=False)
        return
    from transformers import WhisperFeatureExtractor

    force_language(whisper)
    whisper.core.save_pretrained(folder)
    whisper.tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=whisper.mel_bins).save_pretrained(folder)


def adapter_base(folder: Path) -> str:
    """Return the name of the base model that an adapter folder was trained on.

    Raises:
        DataError: not an adapter folder.
    """
    try:
        return str(json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} is not an adapter folder ({first_line(error)})") from error


def load_adapter(whisper: Whisper, folder: Path) -> Whisper:
    """Put a saved adapter on a loaded base, for inference.

    Raises:
        DataError: the adapter does not fit the base, or is damaged.
    """
    try:
        model = PeftModel.from_pretrained(whisper.core, str(folder))
    except Exception as error:  # PEFT, safetensors and torch each raise their own kinds
        raise DataError(f"{folder} cannot be put on {whisper.source} ({first_line(error)})") from error
    return replace(whisper, model=model.eval())


def merge_adapter(whisper: Whisper) -> Whisper:
    """Fold the adapter into the base's weights: W + BA alpha / rank, same logits, no cost at inference.

    Raises:
        ConfigError: the base is quantised; merging there would round the update away.
    """
    if getattr(whisper.core, "is_quantized", False):
        raise ConfigError("an adapter is not merged into 8- or 4-bit weights: load the base in full precision first")
    assert isinstance(whisper.model, PeftModel)
    core = whisper.model.merge_and_unload(safe_merge=True)
    merged = replace(whisper, model=core, core=core)
    force_language(merged)
    return merged


def load_merged(
    base: str,
    folder: Path,
    language: str,
    dtype: torch.dtype,
    *,
    language_token: str | None = None,
    task: Task,
    device: torch.device,
    strength: float = 1.0,
) -> Whisper:
    """Load a base in full precision and fold an adapter into it; the usual way to run an adapted model.

    Args:
        strength: share of the adapter's update that is taken: 0 is the base, 1 the adapter as it was trained.
    """
    whisper = load_whisper(base, language, language_token=language_token, task=task, dtype=torch.float32)
    before = {} if strength == 1 else {name: value.clone() for name, value in whisper.core.state_dict().items()}
    merged = merge_adapter(load_adapter(whisper, folder))
    after = merged.core.state_dict()
    for name, value in before.items():
        after[name].copy_(value.lerp(after[name], strength))
    merged.core.to(device, dtype)
    return merged
