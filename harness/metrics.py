"""Exact image-level and pixel-level metrics: AUROC, average precision, maximal F1, AUPRO.

Nothing is binned and no curve is built. The P anomalous values are placed among the N sorted normal ones;
equal scores enter together. For an anomalous value v let f0 = #{normal > v} / N and f1 = #{normal ≥ v} / N:

- AUROC = 1 − mean((f0 + f1) / 2), the Mann–Whitney statistic with ties counted half.
- AUPRO to the limit L (Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021): every region of a
  mask counts alike, so an anomalous pixel weighs w = 1 / (size of its region · regions), and the area under
  the mean overlap against the false-positive rate is (1/L) Σ w g with g = L − (f0 + f1)/2 where f1 ≤ L,
  (L − f0)² / (2 (f1 − f0)) where f0 < L < f1, and 0 elsewhere.
- Average precision and F1 change only at anomalous values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

METRICS_VERSION = 1
NORMAL = "normal"

Floats = NDArray[Any]


def image_metrics(scores: Any, labels: Any) -> dict[str, float]:
    """Detection: how well image-level scores tell anomalous images from normal ones.

    Args:
        scores: ``[N]``, NumPy or torch, any real type; higher is more anomalous.
        labels: ``[N]``, 1 for anomalous, 0 for normal.

    Returns:
        ``image_auroc``, ``image_ap``, ``image_f1max``, each in [0, 1], NaN where undefined (one class only).

    Raises:
        ValueError: shapes differ, a label is neither 0 nor 1, or a score is not finite (with its image).
    """
    values = _array(scores)
    truth = _labels(labels)
    if values.ndim != 1 or values.shape != truth.shape:
        raise ValueError(f"scores {values.shape} and labels {truth.shape} must both be [N]")
    _check_finite(values, "score")
    auroc, ap, f1max, _ = _curves(values[~truth], values[truth])
    return {"image_auroc": auroc, "image_ap": ap, "image_f1max": f1max}


def pixel_metrics(maps: Any, masks: Any, limit: float = 0.3) -> dict[str, float]:
    """Localisation: how well anomaly maps tell anomalous pixels from normal ones, over all images together.

    Args:
        maps: ``[N, H, W]``, NumPy or torch, any real type; higher is more anomalous.
        masks: ``[N, H, W]``, non-zero for anomalous; regions are 8-connected.
        limit: false-positive rate up to which AUPRO is integrated, in (0, 1].

    Returns:
        ``pixel_auroc``, ``pixel_ap``, ``pixel_f1max``, ``aupro``, each in [0, 1], NaN where undefined.

    Raises:
        ValueError: shapes differ, the limit is out of range, or a map is not finite (with its image).
    """
    values, truth = _array(maps), _array(masks) != 0
    if values.ndim != 3 or values.shape != truth.shape:
        raise ValueError(f"maps {values.shape} and masks {truth.shape} must both be [N, H, W]")
    if not 0 < limit <= 1:
        raise ValueError(f"limit must be in (0, 1], not {limit}")
    _check_finite(values, "anomaly map")
    weights = _region_weights(truth)
    positive = values[truth]
    normal = values[np.logical_not(truth, out=truth)]
    auroc, ap, f1max, aupro = _curves(normal, positive, weights, limit)
    return {"pixel_auroc": auroc, "pixel_ap": ap, "pixel_f1max": f1max, "aupro": aupro}


def split_metrics(
    scores: Any, maps: Any, kinds: Sequence[str], masks: Any, splits: Sequence[str] = ()
) -> dict[str, dict[str, float]]:
    """All metrics over all test images, and for each named kind of anomaly against the same normal images.

    Args:
        scores: ``[N]``.
        maps: ``[N, H, W]``.
        kinds: for each image ``normal`` or its kind of anomaly.
        masks: ``[N, H, W]``, empty for normal images.
        splits: the kinds to report beside ``all``.

    Raises:
        ValueError: as the metrics, or a normal image has a mask (with its index).
        ArithmeticError: the pooled image AUROC is not the count-weighted mean of the kinds' AUROCs, which
            it must be, the kinds being disjoint; the metrics would be wrong.
    """
    values, pixels, truth = _array(scores), _array(maps), _array(masks)
    kind = np.asarray(kinds)
    if not len(values) == len(pixels) == len(truth) == len(kind):
        counts = f"{len(values)} scores, {len(pixels)} maps, {len(kind)} kinds and {len(truth)} masks"
        raise ValueError(f"{counts}: there must be one of each per image")
    stray = np.flatnonzero((kind == NORMAL) & truth.any(axis=(1, 2)))
    if len(stray):
        raise ValueError(f"image {stray[0]} is normal but its mask is not empty")

    def measure(rows: NDArray[np.bool_]) -> dict[str, float]:
        # A view where everything is asked for: maps are large.
        chosen = slice(None) if rows.all() else rows
        detection = image_metrics(values[chosen], kind[chosen] != NORMAL)
        return detection | pixel_metrics(pixels[chosen], truth[chosen])

    found = {"all": measure(np.ones(len(kind), bool))}
    for split in splits:
        found[split] = measure((kind == NORMAL) | (kind == split))
    _check_identity(found, kind, splits)
    return found


def _check_identity(found: dict[str, dict[str, float]], kind: NDArray[Any], splits: Sequence[str]) -> None:
    counts = {split: int((kind == split).sum()) for split in splits}
    if not splits or sum(counts.values()) != int((kind != NORMAL).sum()):
        return
    present = [split for split in splits if counts[split]]
    mean = sum(counts[s] * found[s]["image_auroc"] for s in present) / max(1, sum(counts.values()))
    pooled = found["all"]["image_auroc"]
    if abs(pooled - mean) > 1e-9:
        raise ArithmeticError(f"pooled image AUROC {pooled} is not the mean {mean} of its kinds")


def _array(values: Any) -> NDArray[Any]:
    """Returns a NumPy array, torch tensors and half precision converted without loss."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() and values.itemsize < 4 else values).numpy()
    array = np.asarray(values)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _labels(labels: Any) -> NDArray[np.bool_]:
    array = _array(labels)
    wrong = np.flatnonzero((array != 0) & (array != 1))
    if len(wrong):
        raise ValueError(f"label {array[wrong[0]]} of image {wrong[0]} is neither 0 nor 1")
    return array.astype(bool)


def _check_finite(values: Floats, what: str) -> None:
    for index, one in enumerate(values):
        if not np.isfinite(one).all():
            raise ValueError(f"image {index}: the {what} holds NaN or infinite values")


def _region_weights(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Returns, for each anomalous pixel in order, 1 / (pixels of its region · number of regions)."""
    parts, regions = [np.zeros(0)], 0
    for mask in masks:
        if not mask.any():
            continue
        count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        inside = labels[mask]
        parts.append(1.0 / np.bincount(inside, minlength=count)[inside])
        regions += count - 1
    return np.concatenate(parts) / max(1, regions)


def _curves(
    normal: Floats, positive: Floats, weights: NDArray[np.float64] | None = None, limit: float = 0.3
) -> tuple[float, float, float, float]:
    """Returns AUROC, average precision, maximal F1 and AUPRO; sorts ``normal`` in place."""
    n, p = len(normal), len(positive)
    if n == 0 or p == 0:
        # Without normal values every prediction is right: precision is 1 throughout.
        only_anomalous = p > 0
        return (np.nan, 1.0, 1.0, np.nan) if only_anomalous else (np.nan, np.nan, np.nan, np.nan)
    normal.sort()
    # Thresholds: the distinct anomalous values, descending.
    levels, inverse, multiplicity = np.unique(positive, return_inverse=True, return_counts=True)
    above = n - np.searchsorted(normal, levels, side="right")
    at_least = n - np.searchsorted(normal, levels, side="left")
    f0, f1 = above / n, at_least / n
    auroc = 1.0 - float(np.dot((f0 + f1) / 2, multiplicity)) / p
    true_positives = multiplicity[::-1].cumsum()[::-1]
    precision = true_positives / (true_positives + at_least)
    ap = float(np.dot(precision, multiplicity)) / p
    f1max = float((2 * true_positives / (true_positives + at_least + p)).max())
    if weights is None:
        return auroc, ap, f1max, np.nan
    weight = np.bincount(inverse, weights=weights, minlength=len(levels))
    gain = np.where(f1 <= limit, limit - (f0 + f1) / 2, 0.0)
    cut = (f0 < limit) & (limit < f1)
    gain[cut] = (limit - f0[cut]) ** 2 / (2 * (f1[cut] - f0[cut]))
    return auroc, ap, f1max, float(np.dot(weight, gain)) / limit
