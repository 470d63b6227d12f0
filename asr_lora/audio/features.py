"""Compute log-mel spectrograms at the true length of an utterance, equal to those of Whisper's own extractor."""

import math
from functools import lru_cache

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank

from asr_lora.audio.decode import SAMPLE_RATE
from asr_lora.config import Context

N_FFT = 400  # samples, 25 ms
HOP = 160  # samples, 10 ms
FRAMES_PER_SECOND = SAMPLE_RATE // HOP  # 100
FULL_SECONDS = 30.0  # the input that Whisper was trained on
FULL_FRAMES = int(FULL_SECONDS * FRAMES_PER_SECOND)  # 3000
TAIL_SECONDS = 0.5  # silence after the speech at true length, which tells the decoder that the speech has ended
MIN_CONTEXT_SECONDS = 3.0  # with less input than this, Whisper repeats a single word without end


@lru_cache
def _filters(mel_bins: int) -> torch.Tensor:  # (mel_bins, 201)
    banks = mel_filter_bank(N_FFT // 2 + 1, mel_bins, 0.0, 8000.0, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(banks.T.astype(np.float32))


def log_mel(waveform: np.ndarray, mel_bins: int, frames: int) -> torch.Tensor:
    """Compute Whisper's log-mel spectrogram over `frames` frames; silence follows the speech.

    Whisper's extractor pads the waveform with zeros to 30 s, so the frames around the end of the speech see zeros, and
    only the end of a full window sees the reflection that `torch.stft` makes. The same holds here: the result equals
    the first `frames` frames of `transformers.WhisperFeatureExtractor` (openai/whisper, audio.py).

    Args:
        waveform: shape (samples,), float32, 16 kHz. Samples beyond 30 s are cut off.
        mel_bins: 80, or 128 for large-v3.
        frames: number of frames of 10 ms, at most 3000.

    Returns:
        Log-mel, shape (mel_bins, frames), float32.
    """
    samples = torch.from_numpy(np.ascontiguousarray(waveform[: FULL_FRAMES * HOP], dtype=np.float32))
    # One window more than asked for, so that no frame that is kept sees a reflection; a full window ends in one.
    length = FULL_FRAMES * HOP if frames >= FULL_FRAMES else max(frames * HOP + N_FFT, len(samples))
    samples = torch.nn.functional.pad(samples, (0, length - len(samples)))
    window = torch.hann_window(N_FFT)
    spectrum = torch.stft(samples, N_FFT, HOP, window=window, return_complex=True)[:, :-1]  # (201, length / HOP)
    mel = _filters(mel_bins) @ spectrum.abs().square()
    log = mel.clamp(min=1e-10).log10()
    log = torch.maximum(log, log.max() - 8.0)  # the maximum of the whole utterance, as the extractor takes it
    return ((log + 4.0) / 4.0)[:, :frames]


def context_seconds(seconds: float, context: Context) -> float:
    """Seconds of input that the encoder gets for an utterance, its silent tail included: from 3 to 30 s."""
    if context is Context.FULL:
        return FULL_SECONDS
    return min(max(seconds + TAIL_SECONDS, MIN_CONTEXT_SECONDS), FULL_SECONDS)


def context_frames(seconds: float, context: Context) -> int:
    """The same as `context_seconds`, in frames of 10 ms."""
    return frames_of(context_seconds(seconds, context))


def frames_of(seconds: float) -> int:
    """Frames of so many seconds: an even number, since the encoder halves it, and at most 3000."""
    return 2 * math.ceil(round(min(seconds, FULL_SECONDS) * FRAMES_PER_SECOND, 3) / 2)
