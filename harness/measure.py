"""What is measured beside the scores: time, memory, and the machine that a run had."""

from __future__ import annotations

import contextlib
import os
import platform
import random
import re
import shutil
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.errors import UserError

_PACKAGES = (
    "ulsad-bench",
    "torch",
    "torchvision",
    "timm",
    "anomalib",
    "numpy",
    "opencv-python-headless",
    "pillow",
)


def find_devices(names: str) -> tuple[str, ...]:
    """Returns the devices to compute on, as typed: ``cuda:0,cuda:1``, or ``all`` for every GPU there is.

    Raises:
        UserError: one of them is not on this machine.
    """
    if names.strip() == "all":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return tuple(f"cuda:{i}" for i in range(count)) or ("cpu",)
    return tuple(find_device(name.strip()) for name in names.split(","))


def find_device(name: str) -> str:
    """Returns one device to compute on: ``auto`` is the first GPU, else the CPU.

    Raises:
        UserError: there is no such device on this machine.
    """
    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"There is no device '{name}': give auto, cpu, cuda or cuda:N.") from None
    if device.type == "cpu" and device.index in (None, 0):
        return "cpu"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type != "cuda" or (device.index or 0) >= count:
        there = ", ".join(["cpu", *(f"cuda:{i}" for i in range(count))])
        raise UserError(f"Device '{name}' is not on this machine (there: {there}): give another --device.")
    return f"cuda:{device.index or 0}"


def seed_everything(seed: int) -> None:
    """Seeds every generator and asks for deterministic, full-precision arithmetic."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


class GeneratorState:
    """Puts every random generator back to where it was: ``with GeneratorState(device): ...``."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __enter__(self) -> None:
        self._python, self._numpy = random.getstate(), np.random.get_state()
        self._torch = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None

    def __exit__(self, *_: object) -> None:
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self._device)


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


def environment(device: torch.device) -> dict[str, Any]:
    """Returns hardware, versions and the git commit that a run had."""
    found: dict[str, Any] = {
        "device": str(device),
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }
    if device.type == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda or ""}
        found |= {"driver": _driver(Path("/proc/driver/nvidia/version"))}
    if commit := _git_commit():
        found["git"] = commit
    return found


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _driver(told: Path) -> str:
    """Returns the version of NVIDIA's driver, empty where the system does not tell."""
    with contextlib.suppress(OSError):
        found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)", told.read_text())
        return found[1] if found else ""
    return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _git_commit() -> str:
    """Returns the commit of the checkout that this code runs from, empty outside one."""
    root = Path(__file__).parent.parent
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return ""
    command = [git, "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed arguments
    return done.stdout.strip()
