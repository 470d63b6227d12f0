"""AdaLoRA (arXiv 2303.10512) while it trains: the update is B diag(E) A, and the least important of E become zero."""

from typing import Any

import torch
from peft import AdaLoraConfig, PeftModel
from torch import nn

from asr_lora.model.adapters.wrapper import ONLY, adapted_layers, peft_model
from asr_lora.model.trainable import trainable_state
from asr_lora.model.whisper import Whisper

IMPORTANCES = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # what AdaLoRA's allocator remembers of each weight


def first_rank(rank: int) -> int:
    """What AdaLoRA begins with: 1.5 times the final rank (arXiv 2303.10512, 3.3)."""
    return max(rank + 1, round(1.5 * rank))


def rank_schedule(steps: int) -> dict[str, int]:
    """Full rank for a tenth of the steps, then lowered a hundred times; the last 3 tenths learn at the final rank.

    Importance must have been seen once before the last allocation, so a run of one step never reaches it.
    """
    return {
        "total_step": max(2, steps),
        "tinit": steps // 10,
        "tfinal": steps * 3 // 10,
        "deltaT": max(1, steps // 100),
    }


def allocate_rank(whisper: Whisper, step: int) -> None:
    """Tell AdaLoRA that an optimiser step is done, counted from 1: it weighs importances and zeroes what it drops.

    It reads weights and gradients, so it comes after `optimiser.step()` and before `zero_grad()`. Without it the rank
    is never allocated and no error says so. Nothing happens with other methods.
    """
    if rank_allocator(whisper.model) is not None:
        whisper.model.base_model.update_and_allocate(step)  # type: ignore[operator, union-attr]


def regularisation(whisper: Whisper) -> torch.Tensor | None:
    """The term that keeps AdaLoRA's A and B orthogonal, to be added to the loss once a step; None with other methods.

    PEFT adds it to a loss that the model computes itself, and then only if its inner model is called.

    Returns:
        Mean over all A and B of the Frobenius norm of (A A^T - 1) or (B^T B - 1), weighted: a scalar.
    """
    if not isinstance(whisper.model, PeftModel) or not isinstance(whisper.model.peft_config[ONLY], AdaLoraConfig):
        return None
    norms = []
    for layer in adapted_layers(whisper.model).values():
        a, b = layer.lora_A[ONLY], layer.lora_B[ONLY]  # (rank, in), (out, rank)
        norms += [torch.linalg.matrix_norm(gram - torch.eye(len(gram)).to(gram)) for gram in (a @ a.T, b.T @ b)]
    weight: float = whisper.model.peft_config[ONLY].orth_reg_weight
    return weight * torch.stack(norms).mean()


def extra_state(whisper: Whisper) -> dict[str, torch.Tensor]:
    """What AdaLoRA's allocator remembers: importances of each weight, and which ranks are kept; else empty.

    PEFT masks the ranks that it drops and resizes nothing while training, so with this and the weights a resumed run
    is the same bit by bit.
    """
    allocator = rank_allocator(whisper.model)
    if allocator is None:
        return {}
    kept = peft_model(whisper).peft_config[ONLY].rank_pattern or {}
    state = {f"{kind}/{name}": value for kind in IMPORTANCES for name, value in getattr(allocator, kind).items()}
    return state | {f"kept/{name}": torch.tensor(flags) for name, flags in kept.items()}


def extra_bytes(whisper: Whisper) -> int:
    """Bytes of what AdaLoRA's allocator remembers once it has seen a step; 0 with other methods."""
    if rank_allocator(whisper.model) is None:
        return 0
    values = trainable_state(whisper.model).items()
    return len(IMPORTANCES) * sum(value.numel() * value.element_size() for name, value in values if "lora_" in name)


def load_extra_state(whisper: Whisper, state: dict[str, torch.Tensor]) -> None:
    """Give AdaLoRA's allocator back what `extra_state` took from it; nothing with other methods."""
    allocator = rank_allocator(whisper.model)
    if allocator is None:
        return
    memory: dict[str, dict[str, Any]] = {kind: {} for kind in (*IMPORTANCES, "kept")}
    for key, value in state.items():
        kind, _, name = key.partition("/")
        memory[kind][name] = value.tolist() if kind == "kept" else value.to(whisper.device)
    peft_model(whisper).peft_config[ONLY].rank_pattern = memory.pop("kept") or None
    for kind, values in memory.items():
        setattr(allocator, kind, values)


def rank_allocator(model: nn.Module) -> Any:
    """AdaLoRA's while it trains, else None."""
    return getattr(model.base_model, "rankallocator", None) if isinstance(model, PeftModel) else None
