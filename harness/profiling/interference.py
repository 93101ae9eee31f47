"""What else was at work on the machine while something was timed."""

from __future__ import annotations

import os
from typing import Any

import psutil
import torch

# Other processes may take this share of the time of this process's cores before a timing counts as disturbed.
OTHERS = 0.1
# NVML's reasons for a lower clock that mean the GPU could not do what it can; a low load and the
# settings of an application are none of them.
_THROTTLES = {
    0x0000000000000004: "power cap",
    0x0000000000000008: "hardware slowdown",
    0x0000000000000020: "thermal limit",
    0x0000000000000040: "hardware thermal limit",
    0x0000000000000080: "power brake",
}


class Guard:
    """Watches processor and GPU from construction to :meth:`flags`."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = Gpu(device) if device.type == "cuda" else None
        self._own = _own_seconds()
        self._all = _busy_seconds()
        self._throttled: set[str] = set()

    def look(self) -> None:
        """Looks at the GPU now; a throttled moment is remembered."""
        if self._gpu:
            self._throttled |= set(self._gpu.throttles())

    def flags(self) -> list[str]:
        """Returns a sentence for everything that disturbed the timing."""
        found = []
        own, (busy, total) = _own_seconds() - self._own, _busy_seconds()
        span = max(total - self._all[1], 1e-9)
        others = max(0.0, busy - self._all[0] - own) / span
        if others > OTHERS:
            found.append(f"busy: other processes used {100 * others:.0f} % of the processor")
        self.look()
        if self._gpu:
            if self._throttled:
                found.append(f"throttled: {', '.join(sorted(self._throttled))}")
            if others := self._gpu.others():
                found.append(f"busy: {others} other processes on the GPU")
        return found

    def gpu(self) -> dict[str, int]:
        """Returns clocks in MHz and the temperature in °C, empty without a GPU."""
        return self._gpu.state() if self._gpu else {}

    def joules(self) -> float | None:
        """Returns the energy that the GPU has used since the driver was loaded, where it tells."""
        return self._gpu.joules() if self._gpu else None


class Gpu:
    """One NVIDIA GPU as its driver's library (NVML) sees it; what it does not tell is left out."""

    def __init__(self, device: torch.device) -> None:
        import pynvml

        self._nvml: Any = pynvml
        self._handle: Any = None
        try:
            pynvml.nvmlInit()
            # The order of CUDA's devices is not NVML's, and a job may see only some of them.
            uuid = torch.cuda.get_device_properties(device).uuid
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        except pynvml.NVMLError:
            self._handle = None

    def _ask(self, question: str, *rest: Any) -> Any:
        """Returns what NVML answers, ``None`` where it does not know (virtual and older GPUs)."""
        if self._handle is None:
            return None
        try:
            return getattr(self._nvml, question)(self._handle, *rest)
        except self._nvml.NVMLError:
            return None

    def throttles(self) -> list[str]:
        """Returns why the clock is lower than it could be right now."""
        reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
        return [name for bit, name in _THROTTLES.items() if reasons & bit]

    def others(self) -> int:
        """Returns how many other processes compute on it."""
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses") or ()
        return sum(process.pid != os.getpid() for process in processes)

    def state(self) -> dict[str, int]:
        """Returns clocks and temperature."""
        told = {
            "clock_mhz": self._ask("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_SM),
            "memory_clock_mhz": self._ask("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_MEM),
            "temperature_c": self._ask("nvmlDeviceGetTemperature", self._nvml.NVML_TEMPERATURE_GPU),
        }
        return {name: value for name, value in told.items() if value is not None}

    def joules(self) -> float | None:
        """Returns its energy counter."""
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1000


def _own_seconds() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system)


def _busy_seconds() -> tuple[float, float]:
    """Returns seconds of this process's cores that were used, and all there were.

    Cores that it may not use are left out: on a machine that several jobs share, each on its own cores,
    the others' work is none of its business.
    """
    cores = psutil.cpu_times(percpu=True)
    if hasattr(os, "sched_getaffinity"):
        cores = [cores[core] for core in sorted(os.sched_getaffinity(0)) if core < len(cores)]
    busy = total = 0.0
    for times in cores:
        # Linux counts a guest's time in user time as well.
        every = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        busy += every - times.idle - getattr(times, "iowait", 0.0)
        total += every
    return busy, total
