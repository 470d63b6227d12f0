"""Waveform -> log-mel of its true length, in the frames that Whisper's own extractor would give."""

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
FULL_SECONDS = 30.0  # what Whisper was trained on
FULL_FRAMES = int(FULL_SECONDS * FRAMES_PER_SECOND)  # 3000
TAIL_SECONDS = 0.5  # silence kept after the speech at true length, so that the decoder hears the end
MIN_CONTEXT_SECONDS = 3.0  # a word alone in less than this makes Whisper repeat it without end


@lru_cache
def _filters(mel_bins: int) -> torch.Tensor:  # (mel_bins, 201)
    banks = mel_filter_bank(N_FFT // 2 + 1, mel_bins, 0.0, 8000.0, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(banks.T.astype(np.float32))


def log_mel(waveform: np.ndarray, mel_bins: int, frames: int) -> torch.Tensor:
    """Compute Whisper's log-mel spectrogram over `frames` frames, silence following the speech.

    The extractor of Whisper pads the waveform with zeros to 30 s, so the frames around the end of the speech see
    zeros, and only the very end of a full window sees the reflection that `torch.stft` makes. The same rule here:
    the result equals the first `frames` frames of `transformers.WhisperFeatureExtractor` (openai/whisper audio.py).

    Args:
        waveform: samples, shape (samples,), float32, 16 kHz. What lies beyond 30 s is cut.
        mel_bins: 80, or 128 for large-v3.
        frames: at most 3000, 10 ms each.

    Returns:
        Log-mel, shape (mel_bins, frames), float32.
    """
    samples = torch.from_numpy(np.ascontiguousarray(waveform[: FULL_FRAMES * HOP], dtype=np.float32))
    # One window more than asked, so that no frame that is kept sees a reflection; a full window ends in one.
    length = FULL_FRAMES * HOP if frames >= FULL_FRAMES else max(frames * HOP + N_FFT, len(samples))
    samples = torch.nn.functional.pad(samples, (0, length - len(samples)))
    window = torch.hann_window(N_FFT)
    spectrum = torch.stft(samples, N_FFT, HOP, window=window, return_complex=True)[:, :-1]  # (201, length / HOP)
    mel = _filters(mel_bins) @ spectrum.abs().square()
    log = mel.clamp(min=1e-10).log10()
    log = torch.maximum(log, log.max() - 8.0)  # the maximum of the whole utterance, as the extractor takes it
    return ((log + 4.0) / 4.0)[:, :frames]


def context_seconds(seconds: float, context: Context) -> float:
    """Seconds of input that the encoder sees for an utterance: its silent tail included, between 3 and 30 s."""
    if context is Context.FULL:
        return FULL_SECONDS
    return min(max(seconds + TAIL_SECONDS, MIN_CONTEXT_SECONDS), FULL_SECONDS)


def context_frames(seconds: float, context: Context) -> int:
    """The same in frames."""
    return frames_of(context_seconds(seconds, context))


def frames_of(seconds: float) -> int:
    """Frames of a context: even, as the encoder halves them; at most 3000."""
    return 2 * math.ceil(round(min(seconds, FULL_SECONDS) * FRAMES_PER_SECOND, 3) / 2)
