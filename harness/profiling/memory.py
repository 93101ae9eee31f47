"""Peak memory of a process and of a device."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

_PEAK = Path("/proc/self/clear_refs")


class PeakMemory:
    """Peak memory since construction or :meth:`restart`.

    ``host`` is resident memory above that at construction; ``device`` is the most that PyTorch's allocator
    had given away, what was given away before included, and what CUDA graphs hold.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._baseline = 0
        self.restart()
        if _PEAK.exists():
            self._baseline = resident()

    def restart(self) -> None:
        """Forgets the peak so far, but not where the process began; what is free goes back to the system."""
        release(self._device)
        # Writing 5 makes Linux forget the peak so far; elsewhere the host's peak is not reported.
        if _PEAK.exists():
            _PEAK.write_text("5")
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def read(self) -> dict[str, int]:
        """Returns peak bytes: ``host`` where the system tells, ``device`` on a GPU."""
        peaks = {}
        if self._baseline:
            peaks["host"] = max(0, peak_resident() - self._baseline)
        if self._device.type == "cuda":
            peaks["device"] = torch.cuda.max_memory_allocated(self._device) + _recorded(self._device)
        return peaks


def _recorded(device: torch.device) -> int:
    """Returns the bytes that CUDA graphs hold for their next replay, which the allocator counts as free."""
    index = torch.cuda.current_device() if device.index is None else device.index
    segments = (s for s in torch.cuda.memory_snapshot() if s["device"] == index)  # type: ignore[no-untyped-call]
    return sum(
        int(s["total_size"]) - int(s["allocated_size"])
        for s in segments
        if tuple(s["segment_pool_id"]) != (0, 0)
    )


def peak_resident() -> int:
    """Returns the most bytes that were resident in this process; 0 where the system does not tell."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def resident() -> int:
    """Returns the resident bytes of this process."""
    return int(psutil.Process().memory_info().rss)


def release(device: torch.device) -> None:
    """Gives memory that is not in use back to the system, so that it does not count for what comes next."""
    gc.collect()
    if sys.platform == "linux":
        # glibc keeps freed memory; other C libraries have no such call.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
    if device.type == "cuda":
        torch.cuda.empty_cache()


def in_use(device: torch.device) -> int:
    """Returns the bytes that cannot be given back: the GPU allocator's, or the process's resident ones."""
    release(device)
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else resident()


@contextmanager
def driver_peak(device: torch.device) -> Iterator[dict[str, int]]:
    """Fills a dict with ``driver``: the most memory of the GPU that was in use, as the driver sees it.

    It counts the CUDA context, cuDNN's workspaces and other processes too, and is looked at every 2 ms.
    """
    peak: dict[str, int] = {}
    if device.type != "cuda":
        yield peak
        return
    ended = threading.Event()

    def look() -> None:
        while True:
            free, total = torch.cuda.mem_get_info(device)
            peak["driver"] = max(peak.get("driver", 0), total - free)
            if ended.wait(0.002):
                return

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()
