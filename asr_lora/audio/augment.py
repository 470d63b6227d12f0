"""Augment training utterances: speed, reverberation, noise, gain and SpecAugment, each drawn from a given seed."""

import random
from functools import lru_cache
from pathlib import Path

import numpy as np
import soxr
import torch
import torchaudio

from asr_lora.audio.decode import SAMPLE_RATE, decode, readable_suffixes
from asr_lora.config import AugmentationSettings
from asr_lora.errors import AudioError, ConfigError

NOISE_DB = (5.0, 30.0)  # range of the signal-to-noise ratio
MAX_NOISE_SECONDS = 120.0  # longest recording of noise or of a room accepted
TIME_MASK_SHARE = 0.05  # widest time mask, as a share of the utterance
FREQUENCY_MASK_SHARE = 27 / 80  # widest frequency mask, as a share of the mel bins (arXiv 1904.08779, table 1)


def augment_waveform(waveform: np.ndarray, speed: float, settings: AugmentationSettings, seed: int) -> np.ndarray:
    """Change speed and pitch, add reverberation, add noise, and change the gain, in this order.

    Args:
        waveform: shape (samples,), float32, 16 kHz.
        speed: 1.1 makes the speech a tenth faster and higher (speed perturbation, Ko et al., Interspeech 2015).
        settings: which augmentations are on.
        seed: of the recordings and levels that are drawn.

    Returns:
        Waveform, shape (samples / speed,), float32.
    """
    generator = random.Random(seed)
    if speed != 1.0:
        waveform = soxr.resample(waveform, SAMPLE_RATE * speed, SAMPLE_RATE)
    if settings.reverb:
        waveform = _reverberated(waveform, _recording(generator.choice(recordings(settings.reverb, "reverb"))))
    if settings.noise:
        noise = _recording(generator.choice(recordings(settings.noise, "noise")))
        waveform = add_noise(waveform, noise, generator.uniform(*NOISE_DB), generator)
    if settings.gain_db:
        waveform = waveform * 10 ** (generator.uniform(-settings.gain_db, settings.gain_db) / 20)
    return np.asarray(np.clip(waveform, -1.0, 1.0), dtype=np.float32)


def add_noise(waveform: np.ndarray, noise: np.ndarray, snr_db: float, generator: random.Random) -> np.ndarray:
    """Add a random part of a noise recording, repeated where it is short, at a signal-to-noise ratio of `snr_db`."""
    start = generator.randrange(len(noise))
    part = np.resize(np.roll(noise, -start), len(waveform))
    power = float(np.mean(np.square(part)))
    if power == 0.0:
        return waveform
    scale = np.sqrt(float(np.mean(np.square(waveform))) / power / 10 ** (snr_db / 10))
    mixed: np.ndarray = waveform + scale * part
    return mixed


def _reverberated(waveform: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolve with a room's impulse response from its loudest sample on, and keep the loudness of the speech."""
    response = response[np.abs(response).argmax() :]
    wet = torchaudio.functional.fftconvolve(torch.from_numpy(waveform), torch.from_numpy(response)).numpy()
    wet = wet[: len(waveform)]
    loudness = np.sqrt(np.mean(np.square(waveform)) / max(float(np.mean(np.square(wet))), 1e-12))
    return np.asarray(wet * loudness, dtype=np.float32)


def mask_features(features: torch.Tensor, frames: int, settings: AugmentationSettings, seed: int) -> torch.Tensor:
    """Apply SpecAugment without time warp: masks of random place and width, filled with the mean (arXiv 1904.08779).

    Args:
        features: log-mel, shape (mel, frames of the context).
        frames: how many of these hold sound; time masks lie within them.
        settings: the number of masks.
        seed: of the places and widths of the masks.
    """
    if not settings.time_masks and not settings.frequency_masks:
        return features
    sound, fill = features[None, :, :frames].clone(), float(features[:, :frames].mean())
    widths = int(FREQUENCY_MASK_SHARE * len(features)), int(TIME_MASK_SHARE * frames)
    with torch.random.fork_rng(devices=[]):  # torchaudio draws from torch's own generator
        torch.manual_seed(seed)
        for axis, count, width in ((1, settings.frequency_masks, widths[0]), (2, settings.time_masks, widths[1])):
            for _ in range(count):
                sound = torchaudio.functional.mask_along_axis(sound, width, fill, axis)
    return torch.cat([sound[0], features[:, frames:]], dim=1)


def no_speech(seconds: float, noise: Path | None, seed: int) -> np.ndarray:
    """Make audio without speech: from a recording in the folder `noise`, or else white noise of -80 to -30 dB."""
    generator = random.Random(seed)
    samples = int(seconds * SAMPLE_RATE)
    if noise is not None:
        recording = _recording(generator.choice(recordings(noise, "noise")))
        return np.resize(np.roll(recording, -generator.randrange(len(recording))), samples)
    hiss = np.random.default_rng(seed).standard_normal(samples, dtype=np.float32)
    return np.asarray(hiss * 10 ** (generator.uniform(-80, -30) / 20), dtype=np.float32)


@lru_cache
def recordings(folder: Path, setting: str) -> tuple[Path, ...]:
    """List the audio files under a user's folder, sorted by path.

    Raises:
        ConfigError: the folder holds no audio file.
    """
    suffixes = readable_suffixes()
    found = tuple(sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes))
    if not found:
        raise ConfigError(f"augmentation.{setting}: {folder} holds no audio; name a folder of recordings")
    return found


@lru_cache(maxsize=256)
def _recording(path: Path) -> np.ndarray:
    try:
        return decode(path, max_seconds=MAX_NOISE_SECONDS)
    except AudioError as error:
        raise ConfigError(f"augmentation: {error}; remove it or cut it to {MAX_NOISE_SECONDS:g} s") from error
