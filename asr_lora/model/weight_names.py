"""Rename weights that other programs name otherwise: as Transformers names those of Whisper, and PEFT those of LoRA.

Only names that leave no doubt are changed: wrappers around a model (DistributedDataParallel, `torch.compile`, FSDP),
a missing or doubled `model.`, the name of the adapter itself, and the names of openai/whisper (whisper/model.py).
"""

import re
from collections.abc import Mapping
from typing import TypeVar

from asr_lora.errors import DataError

PREFIX = "base_model.model."  # PEFT's, before the names of Whisper's own modules
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
LEADING = {"base_model", "model", "whisper"}
OPENAI = (
    (r"\.blocks\.", ".layers."),
    (r"\.attn\.", ".self_attn."),
    (r"\.cross_attn\.", ".encoder_attn."),
    (r"_attn\.query\b", "_attn.q_proj"),
    (r"_attn\.key\b", "_attn.k_proj"),
    (r"_attn\.value\b", "_attn.v_proj"),
    (r"_attn\.out\b", "_attn.out_proj"),
    (r"\.attn_ln\.", ".self_attn_layer_norm."),
    (r"\.cross_attn_ln\.", ".encoder_attn_layer_norm."),
    (r"\.mlp\.0\b", ".fc1"),
    (r"\.mlp\.2\b", ".fc2"),
    (r"\.mlp_ln\.", ".final_layer_norm."),
    (r"^encoder\.ln_post\.", "encoder.layer_norm."),
    (r"^decoder\.ln\.", "decoder.layer_norm."),
    (r"^(encoder|decoder)\.positional_embedding$", r"\1.embed_positions.weight"),
    (r"^decoder\.token_embedding\.", "decoder.embed_tokens."),
)
_LORA = re.compile(r"(.+)\.(lora_(?:A|B|E|embedding_A|embedding_B|magnitude_vector))((?:\.\w+)*)")
_SAVED_WHOLE = re.compile(r"\.modules_to_save\.[^.]+\.")  # of a module that an adapter replaces
Value = TypeVar("Value")


def transformers_name(name: str) -> str:
    """Return the name that Transformers gives a module or weight of Whisper; an unknown name stays as it is."""
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    while parts and parts[0] in LEADING:
        parts.pop(0)
    if not parts or parts[0] not in ("encoder", "decoder", "proj_out"):
        return name
    plain = ".".join(parts)
    for theirs, ours in OPENAI:
        plain = re.sub(theirs, ours, plain)
    return plain if parts[0] == "proj_out" else f"model.{plain}"


def peft_name(name: str, *, matrices: bool) -> str:
    """Return the name under which PEFT saves a weight of an adapter; an unknown name stays as it is.

    Args:
        name: the name in a file.
        matrices: whether A and B are bare matrices, as in AdaLoRA, and not weights of linear layers.
    """
    found = _LORA.fullmatch(name)
    module = found[1] if found else _SAVED_WHOLE.sub(".", name)
    plain = transformers_name(module)
    if not re.match(r"model\.|proj_out\b", plain):
        return name
    if not found:
        return PREFIX + plain
    bare = matrices or found[2] not in ("lora_A", "lora_B")
    return f"{PREFIX}{plain}.{found[2]}{'' if bare else '.weight'}"


def renamed(weights: Mapping[str, Value], names: Mapping[str, str], place: object) -> dict[str, Value]:
    """Return weights under new names.

    Raises:
        DataError: two weights have the same new name.
    """
    found: dict[str, Value] = {}
    for old, value in weights.items():
        if names[old] in found:
            first = next(name for name in weights if names[name] == names[old])
            raise DataError(f"{place} has {first} and {old}, which are the same weight: remove one")
        found[names[old]] = value
    return found


def some_names(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    return ", ".join(sorted(names)[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
