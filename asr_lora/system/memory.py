"""Measure and limit the memory of this process, by the operating system or the GPU's allocator."""

import ctypes
import os
import resource
import sys
from pathlib import Path
from typing import Any

import torch

MMAP_THRESHOLD = -3  # malloc.h: M_MMAP_THRESHOLD


def reset_peak_memory(device: torch.device) -> None:
    """Start measuring the peak again; on systems other than Linux, a process's peak cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        try:
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the high-water mark
        except OSError:
            return


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak since the last reset: of the GPU's allocator, or of this process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident_memory_bytes() -> int:
    """Return this process's resident memory now; on systems other than Linux, its peak."""
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return peak_memory_bytes(torch.device("cpu"))


def available_memory_bytes(device: torch.device) -> int | None:
    """Return the free memory of the GPU or of the machine; None where the system does not state it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def limit_kept_memory(*, at_once: bool = False) -> None:
    """Make the CPU's libraries keep less freed memory; call it before anything is computed.

    By default oneDNN keeps kernels for a thousand shapes, and glibc keeps freed blocks of up to 32 MB.

    Args:
        at_once: return every freed matrix to the system at once, which costs a third of the speed.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    if at_once and (libc := _libc()):
        libc.mallopt(MMAP_THRESHOLD, 1 << 20)


def return_freed_memory() -> None:
    """Return the free parts of the heap to the system."""
    if libc := _libc():
        libc.malloc_trim(0)


def _libc() -> Any:
    """Load the C library, where it is glibc."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "malloc_trim") else None
