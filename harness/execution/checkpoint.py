"""Checkpoints of a training: what was interrupted goes on at its last saved epoch, to the same numbers.

One file beside the record that is to be, ``<key>.checkpoint.safetensors``, replaced in one step and removed
when the run has its record. It holds the state of all that a method names to
:meth:`harness.method.TrainingData.epochs`, of all random generators, and what the harness itself gathered.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from harness.common.defaults import CHECKPOINT_EVERY
from harness.common.files import write_atomically

# Saving may take this share of the time.
_SHARE = 0.02
_VERSION = 1

SavedProgress = dict[str, Any]


class Interrupted(BaseException):
    """A training was saved and left, because that had been asked for."""


class Resumable(Protocol):
    """What the harness gathers of a training."""

    def progress(self) -> SavedProgress:
        """Returns it: JSON values, arrays and tensors."""

    def go_on(self, saved: SavedProgress) -> None:
        """Takes it up again."""


class Checkpoint:
    """Saves and restores one training.

    Args:
        path: the file.
        environment: hardware and versions; a checkpoint made under others is not gone on with.
        device: where the method computes.
        gathered: what the harness gathers of the training, for it is saved and taken up too.
        every: seconds between two checkpoints at least.
        asked: tells whether the training shall be saved and left as soon as may be.
    """

    def __init__(
        self,
        path: Path,
        environment: Mapping[str, Any],
        device: torch.device,
        gathered: Resumable,
        every: float = CHECKPOINT_EVERY,
        asked: Callable[[], bool] = lambda: False,
    ) -> None:
        self._path, self._device, self._every = path, device, every
        self._environment = json.dumps(environment, sort_keys=True, default=str)
        self._gathered, self._asked = gathered, asked
        self._last, self._cost = time.monotonic(), 0.0

    def restore(self, parts: Mapping[str, Any]) -> int:
        """Restores what was saved last; returns the number of the last epoch that is in it, 0 for none.

        A file that is damaged, or of another environment or form, is as if it were not there.

        Args:
            parts: what has ``state_dict`` and ``load_state_dict``, or is a ``torch.Generator``.
        """
        found = self._read()
        if found is None:
            return 0
        saved, tensors = found
        if set(saved["parts"]) != set(parts):
            return 0
        for name, part in parts.items():
            state = _joined(saved["parts"][name], tensors)
            if isinstance(part, torch.Generator):
                part.set_state(state)
            else:
                part.load_state_dict(state)
        self._gathered.go_on(_joined(saved["progress"], tensors))
        _set_random(_joined(saved["random"], tensors), self._device)
        return int(saved["epoch"])

    def offer(self, epoch: int, parts: Mapping[str, Any]) -> None:
        """Saves after an epoch, if the last time is long enough ago or the training is to be left.

        Raises:
            OSError: the file cannot be written; an older one stays.
            Interrupted: the training is to be left, and is saved.
        """
        now, leave = time.monotonic(), self._asked()
        if not leave and now - self._last < max(self._every, self._cost / _SHARE):
            return
        tensors: dict[str, Tensor] = {}
        states = {
            name: _split(
                part.get_state() if isinstance(part, torch.Generator) else part.state_dict(), tensors
            )
            for name, part in parts.items()
        }
        saved = {
            "version": _VERSION,
            "environment": self._environment,
            "epoch": epoch,
            "parts": states,
            "progress": _split(self._gathered.progress(), tensors),
            "random": _split(_random(self._device), tensors),
        }
        write_atomically(self._path, save(tensors, {"saved": json.dumps(saved)}))
        self._last = time.monotonic()
        self._cost = self._last - now
        if leave:
            raise Interrupted

    def _read(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        try:
            with safe_open(self._path, framework="pt") as file:
                saved = json.loads((file.metadata() or {})["saved"])
                if saved["version"] != _VERSION or saved["environment"] != self._environment:
                    return None
                return saved, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, ValueError):
            return None


def _split(state: Any, tensors: dict[str, Tensor]) -> Any:
    """Returns a state as JSON, its tensors put aside under numbers."""
    if isinstance(state, Tensor):
        name = str(len(tensors))
        # A copy on the CPU: tensors that share memory cannot be saved as they are.
        tensors[name] = state.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(state, np.ndarray):
        return {"array": _split(torch.from_numpy(state.copy()), tensors)}
    if isinstance(state, Mapping):
        return {"map": [[_split(k, tensors), _split(v, tensors)] for k, v in state.items()]}
    if isinstance(state, (list, tuple)):
        return {type(state).__name__: [_split(item, tensors) for item in state]}
    if state is None or isinstance(state, (bool, int, float, str)):
        return state
    raise TypeError(f"a training state cannot hold a {type(state).__name__}")


def _joined(state: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undoes :func:`_split`."""
    if not isinstance(state, dict):
        return state
    ((kind, value),) = state.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "array":
        return _joined(value, tensors).numpy()
    if kind == "map":
        return {_joined(k, tensors): _joined(v, tensors) for k, v in value}
    items = [_joined(item, tensors) for item in value]
    return tuple(items) if kind == "tuple" else items


def _random(device: torch.device) -> dict[str, Any]:
    numpy: Any = np.random.get_state()
    states = {"python": random.getstate(), "numpy": numpy, "torch": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _set_random(states: Mapping[str, Any], device: torch.device) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
