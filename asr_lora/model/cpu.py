"""Attention in bf16 and dropout that are faster on a CPU than PyTorch's own kernels."""

from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "sdpa_or_plain"  # its name in transformers
PLAIN_POSITIONS = 768  # beyond, keeping probabilities for the backward pass costs too much memory


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute scaled dot-product attention in the fastest way for the device; registered as `ATTENTION`.

    On a CPU the fused kernel's backward pass takes several times as long as plain matrix products at the lengths of
    utterances, and so does its forward pass for a single query. There, scores are rounded to bf16, as in transformers'
    `eager` attention. Everywhere else this is `sdpa`.

    Args:
        module: the attention layer; its `is_causal` says whether later positions are hidden.
        query: (batch, heads, queries, head width).
        key: (batch, heads, positions, head width).
        value: as `key`.

    Returns:
        (batch, queries, heads, head width), and no probabilities.
    """
    queries, positions = query.shape[2], key.shape[2]
    wins = queries == 1 or (query.requires_grad and max(queries, positions) <= PLAIN_POSITIONS)
    # Over an 8-bit base some may be float32, which autocast converts for sdpa alone.
    on_cpu = query.device.type == "cpu" and query.dtype is key.dtype is value.dtype is torch.bfloat16
    if not (wins and on_cpu) or attention_mask is not None or dropout:
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return result
    batch, heads, _, width = query.shape
    factor = width**-0.5 if scaling is None else scaling
    with torch.autocast("cpu", enabled=False):  # it would convert the probabilities to float32 and back
        rows = (query if factor == 1.0 else query * factor).reshape(batch * heads, queries, width)
        columns = key.reshape(batch * heads, positions, width).transpose(1, 2)
        if queries > 1 and getattr(module, "is_causal", False):
            later = torch.full((queries, positions), -torch.inf, dtype=query.dtype).triu(1)
            scores = torch.baddbmm(later, rows, columns)
        else:
            scores = torch.bmm(rows, columns)
        mixed = torch.bmm(torch.softmax(scores, -1), value.reshape(batch * heads, positions, width))
    return mixed.view(batch, heads, queries, width).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class Dropout(torch.nn.Dropout):
    """Dropout whose mask NumPy draws, in a third of the time; the probability is rounded to 1/65536.

    The seed of each mask comes from torch's generator, so that runs stay repeatable.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if not self.training or not 0 < self.p < 1 or values.device.type != "cpu" or isinstance(values, FakeTensor):
            return super().forward(values)
        count = values.numel()
        bits = np.random.SFC64(int(torch.randint(2**62, ()))).random_raw(-(-count // 4))  # 64 bits at a time
        draws = torch.from_numpy(bits.view(np.int16)[:count]).view(values.shape)
        kept = (draws >= round(self.p * 2**16) - 2**15).to(values.dtype)
        return values * kept.div_(1 - self.p)


def draw_dropout_quickly(model: torch.nn.Module) -> None:
    """Replace every nn.Dropout of a model by `Dropout`."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is torch.nn.Dropout:
                parent._modules[name] = Dropout(child.p).train(child.training)
