"""Log-mel at true length against Whisper's own extractor."""

import numpy as np
import pytest
import torch
from conftest import speech
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor

from asr_lora.audio.features import FULL_FRAMES, context_frames, context_seconds, log_mel
from asr_lora.config import Context


@pytest.mark.parametrize("mel_bins", [80, 128])
@pytest.mark.parametrize("seconds", [0.1, 1.0, 4.237, 12.5, 29.9, 30.0, 31.0])
def test_equals_the_extractor_on_the_shared_frames(mel_bins, seconds):
    waveform = speech(seconds)
    extractor = WhisperFeatureExtractor(feature_size=mel_bins)
    theirs = torch.from_numpy(extractor(waveform, sampling_rate=16_000).input_features[0])
    for frames in (context_frames(seconds, Context.TRUE_LENGTH), FULL_FRAMES):
        ours = log_mel(waveform, mel_bins, frames)
        assert ours.shape == (mel_bins, frames)
        assert (ours - theirs[:, :frames]).abs().max() < 1e-5


@settings(max_examples=25, deadline=None)
@given(samples=st.integers(1, 120_000), scale=st.sampled_from([0.0, 1e-5, 0.1, 1.0]))
def test_equals_the_extractor_whatever_the_audio(samples, scale):
    waveform = (np.random.default_rng(samples).standard_normal(samples) * scale).astype(np.float32)
    frames = context_frames(samples / 16_000, Context.TRUE_LENGTH)
    theirs = WhisperFeatureExtractor()(waveform, sampling_rate=16_000).input_features[0][:, :frames]
    assert np.abs(log_mel(waveform, 80, frames).numpy() - theirs).max() < 1e-5


@given(st.floats(0.0, 60.0))
def test_context_holds_the_speech_in_whole_pairs_of_frames(seconds):
    frames = context_frames(seconds, Context.TRUE_LENGTH)
    assert frames % 2 == 0
    assert frames <= FULL_FRAMES
    assert frames >= min(seconds * 100, FULL_FRAMES) - 1e-6
    assert frames <= context_seconds(seconds, Context.TRUE_LENGTH) * 100 + 2
    assert context_frames(seconds, Context.FULL) == FULL_FRAMES
