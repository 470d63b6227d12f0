"""Choose the device and the precision that a process computes in."""

import os

import torch

from asr_lora.config import Precision
from asr_lora.errors import ConfigError

CPU = torch.device("cpu")


def default_device() -> torch.device:
    """Return this process's GPU (the first one where there is one process), or the CPU."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else CPU


def compute_dtype(precision: Precision, device: torch.device | str) -> torch.dtype:
    """Return bfloat16 or float32 for a precision.

    Raises:
        ConfigError: bf16 is asked of a GPU that cannot compute in it.
    """
    kind = torch.device(device).type
    native = torch.cuda.is_bf16_supported(False) if kind == "cuda" else kind == "cpu" and _cpu_has_bf16()
    if precision is Precision.BF16 and kind == "cuda" and not native:
        raise ConfigError("model.precision: this GPU does not compute in bf16; set --set model.precision=fp32")
    return torch.bfloat16 if precision is Precision.BF16 or (precision is Precision.AUTO and native) else torch.float32


def _cpu_has_bf16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported()) or bool(torch.cpu._is_amx_tile_supported())
