"""What an oracle test says: what of ours was compared with whose values, and how closely they agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

GOLDEN = Path(__file__).parent / "golden"
PROPERTY = "agreement"


@dataclass(frozen=True)
class Agreement:
    """One comparison, a row of the table that `nox -s oracles` prints.

    Attributes:
        subject: what of ours is compared: a method, metric or dataset.
        check: which of its values.
        oracle: whose values they are compared with, and in which version.
        difference: the largest difference found.
        allowed: the largest that passes.
        unit: what the differences are of: ``relative``, ``absolute``, ``items``.
    """

    subject: str
    check: str
    oracle: str
    difference: float
    allowed: float
    unit: str = "relative"

    def as_property(self) -> str:
        """As text, which the report of a test can carry between processes."""
        return json.dumps(asdict(self))


Agree = Callable[..., None]


def noise(count: int, key: float) -> NDArray[np.float32]:
    """frac(sin(12.9898 i + 78.233 key) · 43758.5453) for i < count: in [0, 1), from a formula alone."""
    x = np.sin(12.9898 * np.arange(count, dtype=np.float64) + 78.233 * key) * 43758.5453
    return (x - np.floor(x)).astype(np.float32)


def filled(shape: tuple[int, ...], key: float) -> torch.Tensor:
    """A tensor of :func:`noise`, row-major."""
    return torch.from_numpy(noise(int(np.prod(shape)), key)).reshape(shape)


def golden(name: str) -> dict[str, Any]:
    """Returns the values in ``golden/<name>.json``; ``golden/README.md`` says how each was made."""
    found: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    return found


def relative(ours: ArrayLike, theirs: ArrayLike) -> float:
    """The largest difference between two arrays, relative to the largest value of theirs."""
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    assert a.shape == b.shape, f"shapes differ: {a.shape} and {b.shape}"
    assert np.isfinite(a).all()
    return float(np.abs(a - b).max() / np.abs(b).max())


def against(entry: dict[str, Any], ours: torch.Tensor) -> float:
    """The largest relative difference to a golden entry: shape, mean, std, and every n-th element."""
    assert list(ours.shape) == entry["shape"]
    x = ours.detach().double().numpy()
    found = [relative(x.ravel()[:: entry["every"]], entry["values"])]
    scale = float(np.abs(entry["values"]).max())
    found += [abs(float(x.mean()) - entry["mean"]) / scale, abs(float(x.std()) - entry["std"]) / scale]
    return max(found)
