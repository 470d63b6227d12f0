"""Where there is speech: silero's voice activity detector, over blocks of any length.

Its weights come with the package `silero-vad`. They are read here and the network is written out, since the package's
own model takes one chunk of 32 ms at a time (ten times as long), and importing the package leaves torch one thread.
"""

import warnings
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn

from asr_lora.errors import ConfigError

CHUNK = 512  # samples that a chance is given for, 32 ms
GROUP = 128  # chunks at a time, 4 s: always as many, since PyTorch keeps memory for every shape that it meets
CONTEXT = 64  # samples of the chunk before that it also sees
TAIL = 64  # samples reflected at its end
BINS = 129  # of its spectrum
WEIGHTS = "data/silero_vad.jit"  # within the package
INSTALL = "pip install 'silero-vad>=6.2,<7', or leave it off with --no-vad"
NAMES = {  # the package's name of each layer
    "stft_conv.weight": "stft.forward_basis_buffer",
    **{f"conv{n}.{kind}": f"encoder.{n - 1}.reparam_conv.{kind}" for n in (1, 2, 3, 4) for kind in ("weight", "bias")},
    **{f"lstm.{name}_l0": f"decoder.rnn.{name}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")},
    **{f"final_conv.{kind}": f"decoder.decoder.2.{kind}" for kind in ("weight", "bias")},
}


class Detector(nn.Module):
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
        """Chunks with their context, (chunks, 576), and the LSTM's state -> chances of speech, (chunks,), and state."""
        padded = nn.functional.pad(chunks, (0, TAIL), mode="reflect")[:, None]
        spectrum = self.stft_conv(padded)
        hidden = (spectrum[:, :BINS].square() + spectrum[:, BINS:].square()).sqrt()
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            hidden = torch.relu(layer(hidden))
        heard, state = self.lstm(hidden.squeeze(-1), state)
        chances = torch.sigmoid(self.final_conv(torch.relu(heard)[..., None])).flatten()
        return chances, state


@lru_cache(maxsize=1)
def load_detector() -> Detector:
    """Read the weights that the package carries.

    Raises:
        ConfigError: the package is missing, or of another make.
    """
    spec = find_spec("silero_vad")
    path = Path(spec.origin).parent / WEIGHTS if spec and spec.origin else None
    if path is None or not path.is_file():
        raise ConfigError(f"finding speech needs a package: {INSTALL}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch.jit is to be replaced
        weights = torch.jit.load(str(path)).state_dict()  # type: ignore[no-untyped-call]
    detector = Detector()
    try:
        detector.load_state_dict({ours: weights[f"_model.{theirs}"] for ours, theirs in NAMES.items()})
    except (KeyError, RuntimeError) as error:
        raise ConfigError(f"this silero-vad is of another make: {INSTALL}") from error
    return detector.eval().requires_grad_(False)


class Ear:
    """The detector along one stream: what it remembers between blocks, and samples that fill no group yet."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.state: tuple[torch.Tensor, torch.Tensor] | None = None
        self.before = np.zeros(CONTEXT, np.float32)
        self.rest = np.zeros(0, np.float32)

    def chances(self, block: np.ndarray) -> np.ndarray:
        """Chances of speech of every chunk in the groups that a block of samples completes, shape (chunks,)."""
        samples = np.concatenate([self.rest, block])
        whole = len(samples) // (GROUP * CHUNK) * GROUP * CHUNK
        self.rest = samples[whole:]
        groups = samples[:whole].reshape(-1, GROUP * CHUNK)
        return np.concatenate([np.zeros(0, np.float32), *map(self._group, groups)])

    def finish(self) -> np.ndarray:
        """Chances of what fills no group; silence fills up the last chunk."""
        left = -(-len(self.rest) // CHUNK)
        return self.chances(np.zeros(-len(self.rest) % (GROUP * CHUNK), np.float32))[:left]

    def _group(self, samples: np.ndarray) -> np.ndarray:
        seen = np.concatenate([self.before, samples])
        self.before = seen[-CONTEXT:]
        with torch.inference_mode():
            found, self.state = self.detector(torch.from_numpy(seen).unfold(0, CONTEXT + CHUNK, CHUNK), self.state)
        return np.asarray(found)
