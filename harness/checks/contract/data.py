"""Small synthetic images for the contract test, and a test set that must not be touched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from harness.method import Images


def synthetic(count: int, size: int, seed: int, defects: bool = False) -> NDArray[np.uint8]:
    """Returns images of a wavy texture, uint8 ``[count, size, size, 3]``, the same for the same arguments.

    Args:
        count: how many.
        size: side in pixels.
        seed: of the phases and the noise.
        defects: whether each image but the first has a square blob at a place of its own.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size * 2 * np.pi
    images = np.empty((count, size, size, 3), np.uint8)
    for i in range(count):
        phase = rng.uniform(0, 0.5, 3)
        waves = [np.sin((c + 3) * x + phase[c]) + np.cos((c + 2) * y - phase[c]) for c in range(3)]
        pixels = 128 + 40 * np.stack(waves, axis=2) + rng.normal(0, 6, (size, size, 3))
        if defects and i:
            side = max(2, size // 8)
            top, left = rng.integers(0, size - side, 2)
            pixels[top : top + side, left : left + side] = rng.uniform(0, 255, 3)
        images[i] = pixels.clip(0, 255).astype(np.uint8)
    return images


class PoisonedImages(Images):
    """Test images that refuse to be looked at while ``fit`` runs."""

    def __init__(self, array: NDArray[np.uint8]) -> None:
        super().__init__(array)
        self._armed = False
        self._touched = False

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Refuses within the block."""
        self._armed = True
        try:
            yield
        finally:
            self._armed = False

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Returns images as :class:`Images` does, unless armed.

        Raises:
            PermissionError: the images are looked at during ``fit``.
        """
        if self._armed:
            self._touched = True
            raise PermissionError("the test set was touched during fit")
        return super().batch(indices)

    def said(self) -> str:
        """Returns the sentence of the breach, empty if there was none."""
        return "fit looked at the test images." if self._touched else ""
