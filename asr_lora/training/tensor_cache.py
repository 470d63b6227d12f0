"""Arrays kept on disk between epochs and runs: log-mels, or the outputs of an encoder that does not train."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from asr_lora.folders.atomic import replacing
from asr_lora.folders.digests import fingerprint
from asr_lora.system.cache import cache_folder


class TensorCache:
    """One file a tensor, up to a number of bytes; once full it keeps what it has and takes no more.

    The folder's name is a digest of all that the tensors depend on, so one that is there is right. Several processes
    may use it at once.
    """

    def __init__(self, limit_bytes: float, *depends_on: object, writers: int = 1) -> None:
        self.folder = cache_folder() / "tensors" / fingerprint(*depends_on)
        self.folder.mkdir(parents=True, exist_ok=True)
        # What is free now is shared out among the processes that write.
        self.room = (limit_bytes - sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))) / writers

    def _file(self, key: str) -> Path:
        return self.folder / f"{fingerprint(key)}.safetensors"

    def get(self, key: str) -> torch.Tensor | None:
        """Return a tensor, or None where it is not kept or cannot be read."""
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
