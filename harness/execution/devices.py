"""Where a run computes, and what makes it deterministic there."""

from __future__ import annotations

import os
import random

import cv2
import numpy as np
import torch

from harness.common.errors import UserError


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
    cv2.setRNGSeed(seed)
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
