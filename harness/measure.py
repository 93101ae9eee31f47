"""Time, memory and size of a method; docs/efficiency.md defines each number."""

from __future__ import annotations

import ctypes
import gc
import math
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from torch import nn

from harness.efficiency import Quantity

# A batch counts as warmed up when it takes as long as the one before, within this share.
_STABLE = 0.1
_WARM_UPS = 8
_LEAST = 3
_MOST = 200


def synchronise(device: torch.device) -> None:
    """Waits for everything that was asked of a device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Stopwatch:
    """Adds up seconds between ``start`` and ``stop``, the device's queue drained at both."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._since = 0.0
        self.seconds = 0.0

    def start(self) -> None:
        """Begins to count."""
        synchronise(self._device)
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Stops counting."""
        synchronise(self._device)
        self.seconds += time.perf_counter() - self._since


def repeat(work: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    """Returns the seconds that repetitions of some work took, each waited for, after an untimed warm-up.

    The warm-up ends when two repetitions in a row take equally long, or a third of the time is used up. At
    least three repetitions are timed, then as many as fit.

    Args:
        work: what to time; may leave work behind on the device.
        device: where it computes.
        seconds: for warm-up and repetitions together.
    """

    def once() -> float:
        begun = time.perf_counter()
        work()
        synchronise(device)
        return time.perf_counter() - begun

    synchronise(device)
    start = time.perf_counter()
    last = math.inf
    for _ in range(_WARM_UPS):
        now = once()
        if abs(now - last) <= _STABLE * now or time.perf_counter() - start > seconds / 3:
            break
        last = now
    taken: list[float] = []
    while len(taken) < _LEAST or (len(taken) < _MOST and time.perf_counter() - start < seconds):
        taken.append(once())
    return taken


def quantity(values: Sequence[float]) -> Quantity:
    """Returns the median with an interval of at least 95 % by order statistics, whatever the distribution.

    The k-th least and k-th greatest value enclose the median unless fewer than k values lie on one side of
    it, a binomial probability (W. J. Conover, "Practical Nonparametric Statistics", 3.2). Below six values no
    interval holds 95 %, and the least and greatest stand for it.
    """
    ordered = sorted(values)
    n, k, outside = len(ordered), 0, 0.5 ** len(ordered)
    while 2 * (outside := outside + math.comb(n, k + 1) * 0.5**n) <= 0.05:
        k += 1
    return Quantity(median=statistics.median(ordered), low=ordered[k], high=ordered[n - 1 - k], count=n)


def rate(images: int, seconds: Sequence[float]) -> Quantity:
    """Returns images per second from the seconds that so many images took each time."""
    return quantity([images / max(s, 1e-9) for s in seconds])


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


_PEAK = Path("/proc/self/clear_refs")


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


def count_parameters(*owners: object) -> int:
    """Returns the parameters of all modules that these are or hold as attributes, each counted once."""
    found: dict[int, int] = {}

    def visit(value: object) -> None:
        if isinstance(value, nn.Module):
            found.update({id(p): p.numel() for p in value.parameters()})
        elif isinstance(value, list | tuple):
            for item in value:
                visit(item)
        elif isinstance(value, dict):
            visit(list(value.values()))

    for owner in owners:
        visit(owner if isinstance(owner, nn.Module | list | tuple) else vars(owner))
    return sum(found.values())
