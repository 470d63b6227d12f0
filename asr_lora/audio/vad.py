"""Detect speech with silero's voice activity detector, over blocks of any length.

The weights come with the package `silero-vad`; the network is written out here, because the package's own model takes
one chunk of 32 ms at a time, which is ten times as slow, and importing the package sets torch to one thread.
"""

import warnings
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn

from asr_lora.errors import ConfigError

CHUNK = 512  # samples per probability, 32 ms
GROUP = 128  # chunks per forward pass, 4 s: always the same number, since PyTorch keeps memory for every shape
CONTEXT = 64  # samples of the previous chunk that the network also sees
TAIL = 64  # samples reflected at the end of a chunk
BINS = 129  # frequency bins of the spectrum
LEVELLED = 32  # chunks over which the level is measured, 1 s
QUIET, LOUD_ENOUGH, MOST_GAIN = 0.003, 0.05, 1000.0  # RMS: what is below -50 dB is brought to -26 dB, by up to 60 dB
WEIGHTS = "data/silero_vad.jit"  # within the package
INSTALL = "pip install 'silero-vad>=6.2,<7', or switch voice activity detection off with --no-vad"
NAMES = {  # our name of each weight -> the package's name
    "stft_conv.weight": "stft.forward_basis_buffer",
    **{f"conv{n}.{kind}": f"encoder.{n - 1}.reparam_conv.{kind}" for n in (1, 2, 3, 4) for kind in ("weight", "bias")},
    **{f"lstm.{name}_l0": f"decoder.rnn.{name}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")},
    **{f"final_conv.{kind}": f"decoder.decoder.2.{kind}" for kind in ("weight", "bias")},
}


class SileroNetwork(nn.Module):
    """The network of silero-vad 6 at 16 kHz: a spectrum, four convolutions, an LSTM over chunks."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 2 * BINS, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(BINS, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm = nn.LSTM(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def forward(
        self, chunks: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Map chunks with context, (chunks, 576), and the LSTM's state to P(speech), (chunks,), and a new state."""
        padded = nn.functional.pad(chunks, (0, TAIL), mode="reflect")[:, None]
        spectrum = self.stft_conv(padded)
        hidden = (spectrum[:, :BINS].square() + spectrum[:, BINS:].square()).sqrt()
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            hidden = torch.relu(layer(hidden))
        output, state = self.lstm(hidden.squeeze(-1), state)
        return torch.sigmoid(self.final_conv(torch.relu(output)[..., None])).flatten(), state


@lru_cache(maxsize=1)
def load_silero() -> SileroNetwork:
    """Load the network with the weights that the package contains.

    Raises:
        ConfigError: the package is missing, or its network has other layers.
    """
    spec = find_spec("silero_vad")
    path = Path(spec.origin).parent / WEIGHTS if spec and spec.origin else None
    if path is None or not path.is_file():
        raise ConfigError(f"voice activity detection needs a package: {INSTALL}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        weights = torch.jit.load(str(path)).state_dict()  # type: ignore[no-untyped-call]
    network = SileroNetwork()
    try:
        network.load_state_dict({ours: weights[f"_model.{theirs}"] for ours, theirs in NAMES.items()})
    except (KeyError, RuntimeError) as error:
        raise ConfigError(f"this version of silero-vad is not supported: {INSTALL}") from error
    return network.eval().requires_grad_(False)


class SpeechDetector:
    """Detect speech along one stream; keep the state between blocks, and the samples that fill no group yet.

    The network misses speech that is 50 dB down, so it is given quiet seconds at the level of speech. The level is that
    of the moment, since a recording may begin loud and end quiet; a second beside a louder one is not raised, so that
    what is heard in the pauses of loud speech stays quiet.
    """

    def __init__(self, network: SileroNetwork) -> None:
        self.network = network
        self.state: tuple[torch.Tensor, torch.Tensor] | None = None
        self.before = np.zeros(CONTEXT, np.float32)
        self.level = 0.0  # of the second before
        self.rest = np.zeros(0, np.float32)

    def probabilities(self, block: np.ndarray) -> np.ndarray:
        """P(speech) of every chunk in the groups that a block of samples completes, shape (chunks,)."""
        samples = np.concatenate([self.rest, block])
        whole = len(samples) // (GROUP * CHUNK) * GROUP * CHUNK
        self.rest = samples[whole:]
        groups = samples[:whole].reshape(-1, GROUP * CHUNK)
        return np.concatenate([np.zeros(0, np.float32), *map(self._group, groups)])

    def finish(self) -> np.ndarray:
        """P(speech) of the chunks that fill no group, shape (chunks,); the last chunk is padded with silence."""
        chunks = -(-len(self.rest) // CHUNK)
        return self.probabilities(np.zeros(-len(self.rest) % (GROUP * CHUNK), np.float32))[:chunks]

    def _group(self, samples: np.ndarray) -> np.ndarray:
        seen = np.concatenate([self.before, self._raised(samples)])
        self.before = seen[-CONTEXT:]
        with torch.inference_mode():
            found, self.state = self.network(torch.from_numpy(seen).unfold(0, CONTEXT + CHUNK, CHUNK), self.state)
        return np.asarray(found)

    def _raised(self, samples: np.ndarray) -> np.ndarray:
        """Raise the quiet seconds of a group, and cut off clicks in them, which are no part of the level."""
        loudness = samples.reshape(-1, LEVELLED, CHUNK).std(axis=-1)  # (seconds, chunks)
        levels = np.array([self.level, *np.percentile(loudness, 90, axis=1), 0.0])
        self.level = float(levels[-2])
        level = np.maximum(np.maximum(levels[:-2], levels[1:-1]), levels[2:])
        gain = np.where(level < QUIET, np.minimum(MOST_GAIN, LOUD_ENOUGH / np.maximum(level, 1e-9)), 1.0)
        if (gain == 1.0).all():
            return samples
        seconds = samples.reshape(len(gain), -1)
        centred = seconds - seconds.mean(axis=1, keepdims=True)  # an offset would be raised too
        raised = np.where(gain[:, None] == 1.0, seconds, np.clip(centred * gain[:, None], -1.0, 1.0))
        return raised.astype(np.float32).ravel()
