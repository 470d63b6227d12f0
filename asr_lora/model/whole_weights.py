"""Load every weight of a Whisper from a Transformers folder or hub id, or refuse: nothing stays at random numbers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

from asr_lora.errors import DataError
from asr_lora.model.weight_names import renamed, some_names, transformers_name
from asr_lora.system.progress import say


def load_every_weight(path: str, source: str, **options: Any) -> WhisperForConditionalGeneration:
    """Load a model whose weights are exactly those of its config.

    Weights that another program named otherwise are renamed, which one line says.

    Args:
        path: Transformers folder or hub id.
        source: the name that the user gave the model.
        options: of `from_pretrained`.

    Raises:
        DataError: weights are missing, unknown or of another shape.
        Exception: whatever transformers and safetensors raise about a damaged file.
    """
    model, found = WhisperForConditionalGeneration.from_pretrained(
        path, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    unknown, missing = sorted(found["unexpected_keys"]), sorted(found["missing_keys"])
    names = {name: transformers_name(name) for name in unknown}
    wanted = set(missing) - {"proj_out.weight"}  # it is the embedding
    if unknown and Path(path).is_dir() and wanted <= set(names.values()) <= set(model.state_dict()):
        changed = next(name for name in unknown if names[name] != name)
        say(f"{source}: {len(unknown)} weights are named otherwise; {changed} is read as {names[changed]}")
        del model
        state = _read_state(Path(path))
        names = {name: names.get(name, name) for name in state}
        config = options.pop("config", None) or WhisperConfig.from_pretrained(path)
        model, found = WhisperForConditionalGeneration.from_pretrained(
            None, config=config, state_dict=renamed(state, names, source), output_loading_info=True,
            ignore_mismatched_sizes=True, **options,
        )  # fmt: skip
        if (Path(path) / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(path)
    if fault := _fault(found):
        raise DataError(
            f"model {source!r} is not the Whisper that its config.json describes: {fault}. Copy its weights and "
            "config.json again from where they were trained"
        )
    return model


def _fault(found: Mapping[str, Any]) -> str:
    """Return what is wrong with loaded weights, in words; "" for nothing."""
    shapes = [
        f"{name} has shape {list(theirs)} and needs {list(ours)}" for name, theirs, ours in found["mismatched_keys"]
    ]
    if shapes:
        return shapes[0] + (f", and {len(shapes) - 1} more" if shapes[1:] else "")
    faults = (("its weights lack", found["missing_keys"]), ("its weights have the unknown", found["unexpected_keys"]))
    return "; ".join(f"{says} {some_names(list(names))}" for says, names in faults if names)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a file of tensors: safetensors, or a pickle that holds nothing else.

    Raises:
        Exception: whatever safetensors and torch raise about a damaged file.
    """
    state: dict[str, torch.Tensor]
    if path.suffix == ".safetensors":
        state = load_file(path)
    else:
        state = torch.load(path, weights_only=True, map_location="cpu")
    return state


def _read_state(folder: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a folder from the files that transformers chooses."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        index, paths = folder / f"{name}.index.json", [folder / name]
        if not paths[0].is_file() and index.is_file():
            listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            paths = [folder / file for file in sorted(set(listed))]
        if not paths[0].is_file():
            continue
        state: dict[str, torch.Tensor] = {}
        for path in paths:
            state |= read_tensors(path)
        return state
    raise DataError(f"{folder} has no weights: copy model.safetensors into it")
