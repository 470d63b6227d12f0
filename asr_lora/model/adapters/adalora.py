"""Train AdaLoRA (arXiv 2303.10512): the update is B diag(E) A, and the least important of E become zero."""

from typing import Any

import torch
from peft import AdaLoraConfig, PeftModel
from torch import nn

from asr_lora.model.adapters.wrapper import ONLY, adapted_layers, peft_model
from asr_lora.model.trainable import trainable_state
from asr_lora.model.whisper import Whisper

IMPORTANCES = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # that AdaLoRA's allocator keeps for each weight


def first_rank(rank: int) -> int:
    """Return the rank that AdaLoRA begins with: 1.5 times the final one (arXiv 2303.10512, 3.3)."""
    return max(rank + 1, round(1.5 * rank))


def rank_schedule(steps: int) -> dict[str, int]:
    """Keep the first rank for a tenth of the steps, then lower it in 100 steps; train 3 tenths at the final rank.

    A run of one step never reaches the last allocation, which needs importances from an earlier step.
    """
    return {
        "total_step": max(2, steps),
        "tinit": steps // 10,
        "tfinal": steps * 3 // 10,
        "deltaT": max(1, steps // 100),
    }


def allocate_rank(whisper: Whisper, step: int) -> None:
    """Let AdaLoRA update importances and zero the ranks that it drops; other methods are left alone.

    Call it after `optimiser.step()` and before `zero_grad()`, with steps counted from 1: it reads weights and
    gradients. Without this call the rank is never allocated, and no error says so.
    """
    if rank_allocator(whisper.model) is not None:
        whisper.model.base_model.update_and_allocate(step)  # type: ignore[operator, union-attr]


def regularisation(whisper: Whisper) -> torch.Tensor | None:
    """Return AdaLoRA's orthogonality penalty, to be added to the loss once per step; None with other methods.

    PEFT adds it only to a loss that the model itself computes.

    Returns:
        Weighted mean over all A and B of the Frobenius norms of A A^T - 1 and B^T B - 1: a scalar.
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
    """Return the state of AdaLoRA's allocator (importances, and which ranks are kept); empty with other methods.

    PEFT masks the ranks that it drops and resizes nothing while training, so a run that resumes from this state and
    the weights is the same bit by bit.
    """
    allocator = rank_allocator(whisper.model)
    if allocator is None:
        return {}
    kept = peft_model(whisper).peft_config[ONLY].rank_pattern or {}
    state = {f"{kind}/{name}": value for kind in IMPORTANCES for name, value in getattr(allocator, kind).items()}
    return state | {f"kept/{name}": torch.tensor(flags) for name, flags in kept.items()}


def extra_bytes(whisper: Whisper) -> int:
    """Return the bytes of the allocator's state after the first step; 0 with other methods."""
    if rank_allocator(whisper.model) is None:
        return 0
    values = trainable_state(whisper.model).items()
    return len(IMPORTANCES) * sum(value.numel() * value.element_size() for name, value in values if "lora_" in name)


def load_extra_state(whisper: Whisper, state: dict[str, torch.Tensor]) -> None:
    """Restore the allocator's state that `extra_state` returned; nothing with other methods."""
    allocator = rank_allocator(whisper.model)
    if allocator is None:
        return
    memory: dict[str, dict[str, object]] = {kind: {} for kind in (*IMPORTANCES, "kept")}
    for key, value in state.items():
        kind, _, name = key.partition("/")
        memory[kind][name] = value.tolist() if kind == "kept" else value.to(whisper.device)
    peft_model(whisper).peft_config[ONLY].rank_pattern = memory.pop("kept") or None
    for kind, values in memory.items():
        setattr(allocator, kind, values)


def rank_allocator(model: nn.Module) -> Any:
    """Return AdaLoRA's allocator while it trains, else None."""
    return getattr(model.base_model, "rankallocator", None) if isinstance(model, PeftModel) else None
