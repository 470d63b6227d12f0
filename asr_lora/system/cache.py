"""Find the cache folder, for files that can be made again, such as converted models."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return $ASR_LORA_CACHE, or `asr_lora` under the user's cache folder ($XDG_CACHE_HOME or ~/.cache)."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "asr_lora"
    return Path(os.environ.get("ASR_LORA_CACHE") or default)
