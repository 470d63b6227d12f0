"""Attention on a CPU in bf16: plain matrix products where PyTorch's fused kernel is the slower one."""

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_or_plain"
PLAIN_POSITIONS = 768  # beyond, probabilities kept for the backward cost more memory than they save time


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
    """Scaled dot-product attention in the way that is fastest where it runs; registered with transformers as `NAME`.

    On a CPU the backward of the fused kernel takes several times what the products themselves do at the lengths of an
    utterance, and so does its forward for a single query. Scores are rounded to bf16 there, as transformers' own
    `eager` attention rounds them. Everywhere else this is `sdpa`.

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
    on_cpu = query.device.type == "cpu" and query.dtype is torch.bfloat16
    if not (wins and on_cpu) or attention_mask is not None or dropout:
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return result
    batch, heads, _, width = query.shape
    factor = width**-0.5 if scaling is None else scaling
    with torch.autocast("cpu", enabled=False):  # which would bring the probabilities to float32 and back
        rows = (query if factor == 1.0 else query * factor).reshape(batch * heads, queries, width)
        columns = key.reshape(batch * heads, positions, width).transpose(1, 2)
        if queries > 1 and getattr(module, "is_causal", False):
            later = torch.full((queries, positions), -torch.inf, dtype=query.dtype).triu(1)
            scores = torch.baddbmm(later, rows, columns)
        else:
            scores = torch.bmm(rows, columns)
        mixed = torch.bmm(torch.softmax(scores, -1), value.reshape(batch * heads, positions, width))
    return mixed.view(batch, heads, queries, width).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
