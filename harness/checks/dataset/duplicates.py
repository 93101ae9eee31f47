"""Near duplicates: the same photograph twice, however it was saved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.checks.dataset.image_features import Look

# Of 63 bits so many may differ.
BITS = 10
# Correlation of fine detail from which two images are one photograph. Different MVTec screws in the same
# position reach 0.92; a copy at JPEG quality 50, or at half the resolution, stays above 0.97.
ALIKE = 0.95


def duplicates(
    one: Sequence[Look], other: Sequence[Look], usual: NDArray[np.float32]
) -> Iterator[tuple[int, int, int, float]]:
    """Yields pairs that are nearly the same image, each with its differing bits and its correlation.

    Hashes alone do not tell aligned objects apart: two good parts under one camera have the same coarse
    structure. So the fine detail must agree too, after what all images of the category share is taken off.

    Args:
        one: images; of each, the pair with the highest correlation is yielded.
        other: images; if it is the same sequence, images are not compared with themselves, and a pair is
            yielded once.
        usual: mean detail of the training images.
    """
    if not one or not other:
        return
    hashes = [np.stack([look.hash for look in side]) for side in (one, other)]
    details = [_standardised(np.stack([look.detail for look in side]) - usual) for side in (one, other)]
    for at, (bits, detail) in enumerate(zip(hashes[0], details[0], strict=True)):
        distance = (hashes[1] != bits).sum(axis=1)
        alike = details[1] @ detail
        alike[distance > BITS] = -1
        if one is other:
            alike[: at + 1] = -1
        best = int(alike.argmax())
        if alike[best] >= ALIKE:
            yield at, best, int(distance[best]), float(alike[best])


def _standardised(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1; what is constant, an empty picture, stays 0 and is like nothing."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1), np.float32)
