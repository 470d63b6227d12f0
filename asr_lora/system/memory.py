"""Peak memory of a stretch of work, measured by the operating system or the GPU's allocator."""

import ctypes
import os
import resource
import sys
from pathlib import Path
from typing import Any

import torch

MMAP_THRESHOLD = -3  # malloc.h: M_MMAP_THRESHOLD


def reset_peak_memory(device: torch.device) -> None:
    """Start measuring anew; on a system other than Linux, a process's peak only grows."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        try:
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the high-water mark
        except OSError:
            return


def peak_memory_bytes(device: torch.device) -> int:
    """Peak since the last reset: of the GPU's allocator, or of this process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident_memory_bytes() -> int:
    """What this process has in memory now; on a system other than Linux, its peak."""
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return peak_memory_bytes(torch.device("cpu"))


def available_memory_bytes(device: torch.device) -> int | None:
    """What can be taken before something must give way: of the GPU, or of the machine; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def keep_little(*, at_once: bool = False) -> None:
    """Keep less of what is freed, on a CPU: call before anything is computed.

    oneDNN keeps a kernel for each of a thousand shapes, and glibc freed blocks of up to 32 MB in a heap full of holes.

    Args:
        at_once: give every freed matrix back to the system at once, which costs a third of the speed: for what would
            not fit otherwise.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    if at_once and (libc := _libc()):
        libc.mallopt(MMAP_THRESHOLD, 1 << 20)


def return_freed_memory() -> None:
    """Give the holes in the heap back to the system."""
    if libc := _libc():
        libc.malloc_trim(0)


def _libc() -> Any:
    """The C library where it is glibc."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "malloc_trim") else None
