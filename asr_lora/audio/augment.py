"""What may be done to an utterance so that an hour of speech goes further. Each is drawn from the generator given."""

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

NOISE_DB = (5.0, 30.0)  # of the speech over the noise
MAX_NOISE_SECONDS = 120.0  # read of one recording
TIME_MASK_SHARE = 0.05  # of the utterance, at most
FREQUENCY_MASK_SHARE = 27 / 80  # of the mel bins, at most (arXiv 1904.08779, table 1)


def augment_waveform(waveform: np.ndarray, speed: float, settings: AugmentationSettings, seed: int) -> np.ndarray:
    """Change speed and pitch, place in a room, add noise, change loudness, in this order.

    Args:
        waveform: samples, shape (samples,), float32, 16 kHz.
        speed: 1.1 makes it a tenth faster (and higher), as tapes do (Ko et al., Interspeech 2015).
        settings: what is on.
        seed: of what is drawn.

    Returns:
        Samples, shape (samples / speed,), float32.
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
    """Add a random stretch of a recording, repeated where it is short, `snr_db` below the speech's power."""
    start = generator.randrange(len(noise))
    stretch = np.resize(np.roll(noise, -start), len(waveform))
    power = float(np.mean(np.square(stretch)))
    if power == 0.0:
        return waveform
    scale = np.sqrt(float(np.mean(np.square(waveform))) / power / 10 ** (snr_db / 10))
    mixed: np.ndarray = waveform + scale * stretch
    return mixed


def _reverberated(waveform: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolve with a room's impulse response from its loudest sample on, at the loudness before."""
    response = response[np.abs(response).argmax() :]
    wet = torchaudio.functional.fftconvolve(torch.from_numpy(waveform), torch.from_numpy(response)).numpy()
    wet = wet[: len(waveform)]
    loudness = np.sqrt(np.mean(np.square(waveform)) / max(float(np.mean(np.square(wet))), 1e-12))
    return np.asarray(wet * loudness, dtype=np.float32)


def mask_features(features: torch.Tensor, frames: int, settings: AugmentationSettings, seed: int) -> torch.Tensor:
    """SpecAugment without time warp: masks of random place and width, filled with the mean.

    Args:
        features: log-mel, shape (mel, frames of the context).
        frames: of these, how many hold sound; masks in time fall within.
        settings: how many masks.
        seed: of their places.
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
    """Make a stretch without speech: of a noise recording where there are any, else hiss between -80 and -30 dB."""
    generator = random.Random(seed)
    samples = int(seconds * SAMPLE_RATE)
    if noise is not None:
        recording = _recording(generator.choice(recordings(noise, "noise")))
        return np.resize(np.roll(recording, -generator.randrange(len(recording))), samples)
    hiss = np.random.default_rng(seed).standard_normal(samples, dtype=np.float32)
    return np.asarray(hiss * 10 ** (generator.uniform(-80, -30) / 20), dtype=np.float32)


@lru_cache
def recordings(folder: Path, setting: str) -> tuple[Path, ...]:
    """The audio files under a user's folder, in the order of their names.

    Raises:
        ConfigError: there is none.
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
