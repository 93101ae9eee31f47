"""The machine that a run had: hardware, driver, versions, and what else was at work on it."""

from __future__ import annotations

import contextlib
import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

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
    if commit := git_commit():
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


def git_commit() -> str:
    """Returns the commit of the checkout that this code runs from, empty outside one."""
    root = Path(__file__).parents[2]
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return ""
    command = [git, "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed arguments
    return done.stdout.strip()
