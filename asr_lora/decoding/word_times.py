"""Compute when each word is spoken, from the cross-attention of the decoder's alignment heads.

As in openai/whisper, timing.py: the attention of the heads that the model's settings name is normalised over tokens and
smoothed over time, and dynamic time warping finds the best monotonic path through it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from asr_lora.errors import ConfigError
from asr_lora.model.whisper import Whisper, evaluating

SMOOTHED = 7  # width of the median filter in encoder frames, as Whisper's config.median_filter_width
STEP_SECONDS = 0.02  # of an encoder frame
WITHOUT_BLANKS = {"zh", "ja", "th", "lo", "my", "km", "yue"}


def token_times(
    whisper: Whisper,
    encoder_outputs: torch.Tensor,
    prompts: torch.Tensor,
    tokens: Sequence[Sequence[int]],
    seconds: Sequence[float],
) -> list[np.ndarray]:
    """Compute the start of each token of windows, and the end of the last one.

    Args:
        encoder_outputs: shape (windows, frames / 2, width).
        prompts: end in the no-timestamps token, shape (windows, prompt tokens).
        tokens: text tokens of each window, without timestamps.
        seconds: length of each window.

    Returns:
        For each window, seconds from its start, shape (tokens + 1,), never decreasing.

    Raises:
        ConfigError: the model's settings name no alignment heads.
    """
    heads = require_alignment_heads(whisper)
    longest = max(map(len, tokens), default=0)
    given = torch.full((len(tokens), longest), whisper.end_token, device=encoder_outputs.device)
    for row, written in enumerate(tokens):
        given[row, : len(written)] = torch.tensor(written, dtype=torch.long)
    with evaluating(whisper.model), _attention_of(whisper.core, heads) as scores:
        whisper.core.model.decoder(
            input_ids=torch.cat([prompts, given], dim=1), encoder_hidden_states=encoder_outputs, use_cache=False
        )
    found = torch.stack(
        [scores[layer][:, head] for layer, head in heads], 1
    ).float()  # (windows, heads, tokens, frames)
    first = prompts.shape[1] - 1  # the attention of the token before belongs to the token that is predicted
    times = []
    for row, written in enumerate(tokens):
        frames = max(1, min(round(seconds[row] / STEP_SECONDS), found.shape[-1]))
        matrix = _smooth(found[row, :, first : first + len(written) + 1, :frames].softmax(-1))
        times.append(path_times(matrix.cpu().double().numpy()))
    return times


def alignment_heads(whisper: Whisper) -> list[tuple[int, int]]:
    """Return layer and number of the alignment heads that the model's settings name; perhaps none."""
    named = getattr(whisper.core.generation_config, "alignment_heads", None) or []
    fits = all(layer < whisper.core.config.decoder_layers for layer, _ in named)
    return [(layer, head) for layer, head in named] if fits else []


def require_alignment_heads(whisper: Whisper) -> list[tuple[int, int]]:
    """Return the alignment heads of a model that must have some.

    Raises:
        ConfigError: the model's settings name none.
    """
    heads = alignment_heads(whisper)
    if not heads:
        raise ConfigError(
            f"{whisper.source} has no alignment_heads of its own in generation_config.json, so it cannot compute "
            "word times: copy the line from its base model's, or use --no-words"
        )
    return heads


@contextmanager
def _attention_of(core: Any, heads: Sequence[tuple[int, int]]) -> Iterator[dict[int, torch.Tensor]]:
    """Collect the cross-attention scores of some layers, before the softmax, during a forward pass.

    They are computed here once more, since the fused kernels return no probabilities.
    """
    scores: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = kwargs.get("hidden_states", args[0] if args else None)
            query, key = attention.q_proj(hidden) * attention.scaling, attention.k_proj(kwargs["key_value_states"])
            query, key = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in (query, key))
            scores[layer] = query @ key.transpose(-1, -2)  # (windows, heads, tokens, frames)

        return hook

    layers = sorted({layer for layer, _ in heads})
    hooks = [
        core.model.decoder.layers[layer].encoder_attn.register_forward_pre_hook(keep(layer), with_kwargs=True)
        for layer in layers
    ]
    try:
        yield scores
    finally:
        for hook in hooks:
            hook.remove()


def _smooth(weights: torch.Tensor) -> torch.Tensor:
    """Normalise, smooth and average the attention of heads: (heads, tokens, frames) -> (tokens, frames)."""
    deviation, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    weights = (weights - mean) / deviation.clamp(min=1e-8)
    half = SMOOTHED // 2
    if weights.shape[-1] > half:
        padded = torch.nn.functional.pad(weights, (half, half), mode="reflect")
        weights = padded.unfold(-1, SMOOTHED, 1).median(dim=-1).values
    return weights.mean(dim=0)


def path_times(gain: np.ndarray) -> np.ndarray:
    """Return the start of each row, in seconds, on the path of highest gain through (rows, frames)."""
    rows, frames = gain.shape
    # The cells (row, d - row) of a diagonal d do not depend on each other, so they are computed as one vector.
    came = np.zeros((rows + frames, rows), np.int8)  # from 0: row and frame before, 1: row before, 2: frame before
    before, last = np.full((2, rows + 1), np.inf)  # costs of diagonals d - 2 and d - 1, by row + 1
    before[0] = 0.0
    for diagonal in range(rows + frames - 1):
        low, high = max(0, diagonal - frames + 1), min(rows, diagonal + 1)
        places = np.arange(low, high)
        both, down, along = before[places], last[places], last[places + 1]
        came[diagonal, places] = np.where(
            (both < down) & (both < along), 0, np.where((down < both) & (down < along), 1, 2)
        )
        now = np.full(rows + 1, np.inf)
        now[places + 1] = np.minimum(np.minimum(both, down), along) - gain[places, diagonal - places]
        before, last = last, now
    starts = np.zeros(rows)
    row, frame = rows - 1, frames - 1
    while row > 0 or frame > 0:
        step = came[row + frame, row] if row and frame else (2 if frame else 1)
        if step != 2:
            starts[row] = frame
            row -= 1
        frame -= step != 1
    return starts * STEP_SECONDS


def split_words(whisper: Whisper, tokens: Sequence[int], language: str | None) -> list[tuple[str, int]]:
    """Split text tokens into words, each with its blank and punctuation and the number of its tokens."""
    words: list[tuple[str, int]] = []
    piece: list[int] = []
    whole = whisper.tokenizer.decode(list(tokens))
    for place, token in enumerate(tokens):
        piece.append(token)
        text = whisper.tokenizer.decode(piece)
        if "\ufffd" in text and "\ufffd" not in whole and place + 1 < len(tokens):
            continue  # a character may take several tokens
        alone = language in WITHOUT_BLANKS and any(sign.isalnum() for sign in text)
        if not words or text.startswith(" ") or alone:
            words.append((text, len(piece)))
        else:
            words[-1] = (words[-1][0] + text, words[-1][1] + len(piece))
        piece = []
    return words
