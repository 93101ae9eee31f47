"""What is measured beside the scores: time and memory."""

from __future__ import annotations

import time
from pathlib import Path

import torch


class Stopwatch:
    """Adds up seconds between ``start`` and ``stop``, the device's queue drained at both."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._since = 0.0
        self.seconds = 0.0

    def start(self) -> None:
        """Begins to count."""
        self._drain()
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Stops counting."""
        self._drain()
        self.seconds += time.perf_counter() - self._since

    def _drain(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class PeakMemory:
    """Peak memory since construction: of this process above where it began, and of the device's allocator."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._baseline = 0
        # Writing 5 makes Linux forget the peak so far; elsewhere the host's peak is not reported.
        peak = Path("/proc/self/clear_refs")
        if peak.exists():
            peak.write_text("5")
            self._baseline = _status_bytes("VmRSS")
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)

    def read(self) -> dict[str, int]:
        """Returns peak bytes: ``host`` where the system tells, ``device`` on a GPU."""
        peaks = {}
        if self._baseline:
            peaks["host"] = max(0, _status_bytes("VmHWM") - self._baseline)
        if self._device.type == "cuda":
            peaks["device"] = torch.cuda.max_memory_allocated(self._device)
        return peaks


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0
