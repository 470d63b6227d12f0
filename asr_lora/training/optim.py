"""Build the optimiser (8-bit Adam of bitsandbytes, or torch's AdamW) and the learning-rate schedule."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from asr_lora.config import Decay, Optimiser, OptimiserSettings

PACKED_FROM = 4096  # elements: bitsandbytes' least for 8 bits
BLOCK = 256  # elements that share a scale
CODES_BYTES = 4 * 256  # one table of the values of 8-bit codes, shared by all weights
STEP_BYTES = 4  # torch's AdamW counts its steps for each weight


def build_optimiser(model: nn.Module, settings: OptimiserSettings) -> torch.optim.Optimizer:
    """Build the optimiser of the trainable weights; biases and norms have no weight decay.

    The 8-bit one keeps Adam's two moments in a byte each (arXiv 2110.02861), those of embeddings in 32 bits, as
    section 2.3 of that paper asks; weights under 4096 elements keep 32 bits too.
    """
    groups = _parameter_groups(model, settings)
    if settings.name is Optimiser.ADAMW:
        return torch.optim.AdamW(groups, lr=settings.learning_rate)
    import bitsandbytes

    manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
    manager.initialize()  # it is one for the process, and would keep the overrides of an earlier run
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.weight.requires_grad:
            manager.register_module_override(module, "weight", {"optim_bits": 32})
    optimiser: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(groups, lr=settings.learning_rate)
    if any(value.dtype is torch.bfloat16 for group in groups for value in group["params"]):
        _round_stochastically(optimiser)
    return optimiser


def _round_stochastically(optimiser: Any) -> None:
    """Update bf16 weights in float32, one matrix at a time, and round each weight stochastically.

    A step of full fine-tuning is smaller than half of the distance between two bf16 numbers, so rounding to the nearest
    would lose it; with stochastic rounding the mean is right (arXiv 2010.06192).
    """
    update = optimiser.update_step

    def update_in_float32(group: dict[str, Any], value: nn.Parameter, gindex: int, pindex: int) -> None:
        if value.dtype is not torch.bfloat16:
            update(group, value, gindex, pindex)
            return
        gradient = value.grad
        assert gradient is not None
        value.data, value.grad = value.data.float(), None
        value.grad = gradient.float()
        update(group, value, gindex, pindex)
        # The same on every machine of several, and when resumed: the step is the optimiser's own.
        chance = torch.Generator(value.device).manual_seed(optimiser.state[value]["step"] << 32 | gindex << 24 | pindex)
        value.grad = None
        value.data = stochastic_bf16(value.data, chance)
        value.grad = gradient

    optimiser.update_step = update_in_float32


def stochastic_bf16(values: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """Round float32 to one of the two nearest bf16 numbers, the nearer one with the higher probability."""
    bits = values.contiguous().view(torch.int32)  # the upper half of a float32 is a bf16
    noise = torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32, device=bits.device, generator=chance)
    return ((bits + noise) & -(1 << 16)).view(torch.float32).to(torch.bfloat16)


def optimiser_bytes(model: nn.Module, settings: OptimiserSettings) -> int:
    """Bytes of the optimiser's state for the trainable weights, counted without building it.

    AdamW keeps two moments in the weight's precision and a step. The 8-bit one keeps a byte a moment, a float32 scale
    for every 256 of them and two tables of codes; small weights and embeddings stay in 32 bits (bitsandbytes).
    """
    values = {id(value): value for value in model.parameters() if value.requires_grad and value.numel()}
    if settings.name is Optimiser.ADAMW:
        return sum(2 * value.numel() * value.element_size() + STEP_BYTES for value in values.values())
    whole = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    packed = [value.numel() for key, value in values.items() if value.numel() >= PACKED_FROM and key not in whole]
    full = sum(value.numel() for value in values.values()) - sum(packed)
    codes = 2 * CODES_BYTES if packed else 0
    return 8 * full + codes + sum(2 * (size + 4 * math.ceil(size / BLOCK)) for size in packed)


def _parameter_groups(model: nn.Module, settings: OptimiserSettings) -> list[dict[str, Any]]:
    """Group the trainable weights by weight decay and learning rate; the first group has the rate of the settings.

    LoRA+ (arXiv 2402.12354): B, which starts at zero, has `plus_ratio` times the learning rate of A. In AdaLoRA's
    B diag(E) A it is E that starts at zero, so it is in the group of B.
    """
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    faster: list[nn.Parameter] = []
    for name, value in model.named_parameters():
        if value.requires_grad:
            plus = settings.plus_ratio != 1 and (".lora_B." in name or ".lora_E." in name)
            (faster if plus else matrices if value.ndim > 1 else vectors).append(value)
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
        {
            "params": faster,
            "weight_decay": settings.weight_decay,
            "lr": settings.learning_rate * settings.plus_ratio,
        },
    ]
    return [group for group in groups if group["params"]]


def build_schedule(optimiser: torch.optim.Optimizer, settings: OptimiserSettings, steps: int) -> LambdaLR:
    """Build the schedule: linear warm-up, then the decay of the settings, which reaches zero at `steps`."""
    return LambdaLR(optimiser, share_of_peak(settings.warmup_steps, steps, settings.decay))


def share_of_peak(warmup_steps: int, steps: int, decay: Decay) -> Callable[[int], float]:
    """Return a function from a step, counted from 0, to the learning rate as a share of its peak."""

    def share(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        progress = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
        if decay is Decay.LINEAR:
            return 1.0 - progress
        return 0.5 * (1.0 + math.cos(math.pi * progress)) if decay is Decay.COSINE else 1.0

    return share
