"""Curves over the pixels of maps."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.metrics.exact import Pixels

# Thresholds of a curve; its area then is off by less than 0.0005.
_POINTS = 200
# Anomalous pixels that are weighed at a time.
_BLOCK = 1 << 20
_SIDES: tuple[Literal["right"], Literal["left"]] = ("right", "left")


def curve(maps: NDArray[np.float32], masks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns points of the ROC curve and of the PRO curve over the pixels of all maps.

    Both are those whose areas :func:`harness.metrics.exact.pixel_metrics` returns as ``pixel_auroc`` and
    ``aupro``. The points lie on them, close together where few normal pixels are above the threshold.

    Args:
        maps: ``[N, H, W]``.
        masks: ``[N, H, W]``, non-zero for anomalous.

    Returns:
        ``[3, K]``: false-positive rate, true-positive rate, and mean overlap of the 8-connected regions,
        ascending from 0 to 1; ``[3, 0]`` unless there are both anomalous and normal pixels.
    """
    pixels = Pixels(maps, masks, range(len(maps)), [m.size for m in maps])
    normal, anomalous = pixels.normal, pixels.anomalous
    if not len(normal) or not len(anomalous):
        return np.empty((3, 0), np.float32)
    ranks = np.rint(len(normal) * (np.arange(_POINTS + 1) / _POINTS) ** 2).astype(np.int64)
    at = np.unique(normal[len(normal) - np.clip(ranks, 1, None)])
    # What lies above a threshold, and with it what equals it: between the two, equal scores are a line.
    found: list[NDArray[np.float64]] = [
        np.stack([1 - np.searchsorted(values, at, side) / len(values) for side in _SIDES])
        for values in (normal, anomalous)
    ]
    overlap = np.zeros((2, len(at)))
    for values, weights in pixels.weighted(_BLOCK):
        below = np.concatenate([[0.0], np.cumsum(weights)])
        overlap += [below[-1] - below[np.searchsorted(values, at, side)] for side in _SIDES]
    found.append(overlap / pixels.regions)
    # From the highest threshold to the lowest.
    rows = [np.concatenate([[0.0], rates[:, ::-1].T.ravel(), [1.0]]) for rates in found]
    points: NDArray[np.float32] = np.clip(np.stack(rows), 0, 1).astype(np.float32)
    return points
