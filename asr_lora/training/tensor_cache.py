"""Cache tensors on disk between epochs and runs: log-mels, or the outputs of a frozen encoder."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from asr_lora.folders.atomic import replacing
from asr_lora.folders.digests import fingerprint
from asr_lora.system.cache import cache_folder


class TensorCache:
    """One file for each tensor, up to a number of bytes; a full cache takes no more and removes nothing.

    The folder's name is a digest of everything that the tensors depend on, so a cached tensor is never outdated.
    Several processes may use one cache at the same time.
    """

    def __init__(self, limit_bytes: float, *depends_on: object, writers: int = 1) -> None:
        self.folder = cache_folder() / "tensors" / fingerprint(*depends_on)
        self.folder.mkdir(parents=True, exist_ok=True)
        # The free space is divided among the processes that write.
        self.room = (limit_bytes - sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))) / writers

    def _file(self, key: str) -> Path:
        return self.folder / f"{fingerprint(key)}.safetensors"

    def get(self, key: str) -> torch.Tensor | None:
        """Return a tensor, or None if it is not in the cache or cannot be read."""
        try:
            tensor: torch.Tensor = load_file(self._file(key))["tensor"]
        except (OSError, SafetensorError, KeyError):
            return None
        return tensor

    def put(self, key: str, tensor: torch.Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        if size > self.room:
            return
        with replacing(self._file(key)) as draft:
            save_file({"tensor": tensor.detach().cpu().contiguous()}, draft)
        self.room -= size
