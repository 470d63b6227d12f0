"""Compute how likely the model finds each token of a text that it has written, in one decoder pass."""

from collections.abc import Sequence

import numpy as np
import torch

from asr_lora.model.whisper import Whisper, evaluating


def token_scores(
    whisper: Whisper, encoder_outputs: torch.Tensor, prompts: torch.Tensor, tokens: Sequence[Sequence[int]]
) -> list[np.ndarray]:
    """Compute the log-probability of each token, given the sound and the tokens before it.

    Args:
        encoder_outputs: shape (windows, frames / 2, width).
        prompts: end in the no-timestamps token, shape (windows, prompt tokens).
        tokens: text tokens of each window, without timestamps.

    Returns:
        For each window, natural logarithms, shape (tokens,).
    """
    longest = max(map(len, tokens), default=0)
    given = torch.full((len(tokens), longest), whisper.end_token, device=encoder_outputs.device)
    for row, written in enumerate(tokens):
        given[row, : len(written)] = torch.tensor(written, dtype=torch.long)
    with evaluating(whisper.model):
        hidden = whisper.core.model.decoder(
            input_ids=torch.cat([prompts, given], dim=1), encoder_hidden_states=encoder_outputs, use_cache=False
        ).last_hidden_state
        first = prompts.shape[1] - 1  # the output at a token predicts the next one
        logits = whisper.core.proj_out(hidden[:, first : first + longest])  # (windows, tokens, vocabulary)
        scores = logits.float().log_softmax(-1).gather(-1, given[..., None])[..., 0].cpu().numpy()
    return [scores[row, : len(written)] for row, written in enumerate(tokens)]
