"""Exact image-level and pixel-level metrics: AUROC, average precision, maximal F1, AUPRO.

Nothing is binned and no curve is built. Every metric is a sum, or a maximum, over the P anomalous values,
once each is placed among the N sorted normal ones; equal scores enter together. For an anomalous value v
let f0 = #{normal > v} / N, f1 = #{normal ≥ v} / N and t = #{anomalous ≥ v}:

- AUROC = 1 − mean((f0 + f1) / 2), the Mann–Whitney statistic with ties counted half (Hanley and McNeil, "The
  meaning and use of the area under a receiver operating characteristic curve", Radiology 1982).
- Average precision = mean(t / (t + N f1)): recall changes only at anomalous values, which is the
  step-wise sum of scikit-learn's ``average_precision_score``.
- Maximal F1 = max(2 t / (t + N f1 + P)), for between two anomalous values F1 only falls.
- AUPRO to the limit L (Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021): every region of a
  mask counts alike, so an anomalous pixel weighs w = 1 / (size of its region · regions), and the area under
  the mean overlap against the false-positive rate is (1/L) Σ w g with g = L − (f0 + f1)/2 where f1 ≤ L,
  (L − f0)² / (2 (f1 − f0)) where f0 < L < f1, and 0 elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from harness.data.card import NORMAL

if TYPE_CHECKING:
    import torch

# By what a run is evaluated at (``RunSpec.evaluate``): raised where its numbers change, and only there.
# native 2: sPRO's saturation areas are whole pixels, as in MVTec's code.
METRICS_VERSIONS: Mapping[str, int] = {"input": 1, "native": 2}
LIMIT = 0.3

# So many anomalous values are placed at a time: the 128th part of all values, for placing takes about 100
# bytes for each, and is several times faster for many sorted values than for few; but no less than this.
_BLOCK = 1 << 12


def image_metrics(scores: Any, labels: Any) -> dict[str, float]:
    """Detection: how well image-level scores tell anomalous images from normal ones.

    Args:
        scores: ``[N]``, NumPy or torch, any real type; higher is more anomalous. Only ranks matter.
        labels: ``[N]``, 1 for anomalous, 0 for normal.

    Returns:
        ``image_auroc``, ``image_ap``, ``image_f1max``, each in [0, 1]; all NaN unless both classes are there.

    Raises:
        ValueError: shapes differ, a label is neither 0 nor 1, or a score is not finite (with its image).
    """
    values, truth = _array(scores), _array(labels)
    if values.ndim != 1 or values.shape != truth.shape:
        raise ValueError(f"scores {values.shape} and labels {truth.shape} must both be [N]")
    wrong = np.flatnonzero((truth != 0) & (truth != 1))
    if len(wrong):
        raise ValueError(f"image {wrong[0]}: label {truth[wrong[0]]} is neither 0 nor 1")
    check_finite(values, "score")
    # To the pixel metrics the scores are one image that is N pixels wide.
    one = Pixels(values.reshape(1, 1, -1), truth.reshape(1, 1, -1), [0], [len(values)])
    found = _measure([one], LIMIT)
    return {f"image_{name}": found[name] for name in ("auroc", "ap", "f1max")}


def pixel_metrics(maps: Any, masks: Any, limit: float = LIMIT) -> dict[str, float]:
    """Localisation: how well anomaly maps tell anomalous pixels from normal ones, over all images together.

    Takes about as much memory again as the maps, however many pixels are anomalous. Half precision becomes
    float32, which changes no rank; every other type is ranked as it is.

    Args:
        maps: ``[N, H, W]``, NumPy or torch, any real type, or a sequence of N maps ``[H, W]`` of one type,
            which may differ in size and be made when asked for; higher is more anomalous. Only ranks matter.
        masks: the same, non-zero for anomalous; regions are 8-connected, within one image.
        limit: false-positive rate up to which AUPRO is integrated, in (0, 1]; 0.3 is Bergmann et al.'s.

    Returns:
        ``pixel_auroc``, ``pixel_ap``, ``pixel_f1max``, ``aupro``, each in [0, 1]; all NaN unless there are
        both anomalous and normal pixels.

    Raises:
        ValueError: shapes differ, the limit is out of range, or a map is not finite (with its image).
    """
    if not 0 < limit <= 1:
        raise ValueError(f"limit must be in (0, 1], not {limit}")
    values, truth, sizes = _checked_maps(maps, masks)
    return _pixel_names(_measure([Pixels(values, truth, range(len(values)), sizes)], limit))


def split_metrics(
    scores: Any,
    maps: Any,
    kinds: Sequence[str],
    masks: Any,
    splits: Sequence[str] = (),
    device: torch.device | None = None,
) -> dict[str, dict[str, float]]:
    """All metrics over all test images, and for each named kind of anomaly against the same normal images.

    The images of another kind are left out of a split altogether, with their normal pixels.

    Args:
        scores: ``[N]``, as for :func:`image_metrics`.
        maps: N maps, as for :func:`pixel_metrics`.
        kinds: N strings, for each image ``normal`` or its kind of anomaly.
        masks: N masks, non-zero for anomalous; empty for normal images.
        splits: the kinds to report beside ``all``; a kind that no image has is all NaN.
        device: a GPU to sort the pixels on.

    Returns:
        All seven metrics for ``all`` and for each of ``splits``.

    Raises:
        ValueError: as the metrics; the counts of images differ; a normal image has a mask (with its index);
            a split is called ``normal`` or ``all``.
        RuntimeError: the pooled image AUROC is not the count-weighted mean of the kinds' AUROCs, which it
            must be where the splits cover all anomalous images: the metrics would be wrong.
    """
    values = _array(scores)
    pixels, truth, sizes = _checked_maps(maps, masks)
    if not len(values) == len(pixels) == len(kinds):
        counts = f"{len(values)} scores, {len(pixels)} maps and {len(kinds)} kinds"
        raise ValueError(f"{counts}: there must be one of each per image")
    for split in splits:
        if split in (NORMAL, "all"):
            raise ValueError(f"'{split}' is not a kind of anomaly, and cannot be a split")
    for index, kind in enumerate(kinds):
        if kind == NORMAL and _array(truth[index]).any():
            raise ValueError(f"image {index} is normal but its mask is not empty")

    # Each group of images is sorted once, and serves all splits that it is part of.
    rows: dict[str | None, list[int]] = {kind: [] for kind in (NORMAL, *splits, None)}
    for index, kind in enumerate(kinds):
        rows[kind if kind in rows else None].append(index)
    groups = {kind: Pixels(pixels, truth, part, sizes, device) for kind, part in rows.items()}
    labels = np.array([kind != NORMAL for kind in kinds], dtype=bool)

    found = {"all": image_metrics(values, labels) | _pixel_names(_measure(groups.values(), LIMIT))}
    for split in splits:
        chosen = rows[NORMAL] + rows[split]
        localisation = _measure([groups[NORMAL], groups[split]], LIMIT)
        found[split] = image_metrics(values[chosen], labels[chosen]) | _pixel_names(localisation)
    _check_identity(found, {split: len(rows[split]) for split in splits}, int(labels.sum()))
    return found


def _check_identity(found: dict[str, dict[str, float]], counts: dict[str, int], anomalous: int) -> None:
    """Every pair of an anomalous and a normal image is in exactly one split, so AUROCs must average."""
    if anomalous == 0 or sum(counts.values()) != anomalous:
        return
    mean = sum(n * found[split]["image_auroc"] for split, n in counts.items() if n) / anomalous
    pooled = found["all"]["image_auroc"]
    if math.isnan(pooled) and math.isnan(mean):
        return
    if not math.isclose(pooled, mean, rel_tol=0, abs_tol=1e-9):
        raise RuntimeError(f"pooled image AUROC {pooled} is not the mean {mean} of its kinds' AUROCs")


def _pixel_names(found: dict[str, float]) -> dict[str, float]:
    return {(name if name == "aupro" else f"pixel_{name}"): value for name, value in found.items()}


def _stack(values: Any) -> Any:
    """Returns a torch tensor or a sequence of images as it is, all else as a NumPy array."""
    if hasattr(values, "detach"):
        return values
    images = isinstance(values, Sequence) and len(values) and getattr(values[0], "ndim", 0) == 2
    return values if images else np.asarray(values)


def _array(values: Any) -> NDArray[Any]:
    """Returns a NumPy array of real numbers; of half precision a float32 copy, which holds it exactly."""
    values = _stack(values)
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # NumPy has no bfloat16.
        values = (values.float() if values.is_floating_point() and values.itemsize < 4 else values).numpy()
    array: NDArray[Any] = values.astype(np.float32) if values.dtype == np.float16 else values
    if array.dtype.kind not in "biuf":
        raise ValueError(f"expected real numbers, not {array.dtype}")
    return array


def _checked_maps(maps: Any, masks: Any) -> tuple[Any, Any, list[int]]:
    """Returns both, and each image's pixels; they are converted image by image: nothing large is copied."""
    values, truth = _stack(maps), _stack(masks)
    if hasattr(values, "shape") and hasattr(truth, "shape"):
        if len(values.shape) != 3 or tuple(values.shape) != tuple(truth.shape):
            shapes = f"maps {tuple(values.shape)} and masks {tuple(truth.shape)}"
            raise ValueError(f"{shapes} must both be [N, H, W]")
        check_finite(values, "anomaly map")
        return values, truth, [int(np.prod(values.shape[1:]))] * len(values)
    if len(values) != len(truth):
        raise ValueError(f"{len(values)} maps and {len(truth)} masks: there must be one of each per image")
    sizes, types = [], set()
    for index in range(len(values)):
        value, mask = _array(values[index]), truth[index]
        if value.ndim != 2 or value.shape != tuple(mask.shape):
            shapes = f"map {value.shape} and mask {tuple(mask.shape)}"
            raise ValueError(f"image {index}: {shapes} must both be [H, W]")
        check_finite(value[None], "anomaly map", index)
        sizes.append(value.size)
        types.add(value.dtype)
    if len(types) > 1:
        raise ValueError(f"the maps are of several types: {', '.join(sorted(map(str, types)))}")
    return values, truth, sizes


def check_finite(values: Any, what: str, first: int = 0) -> None:
    """Raises a ValueError that names the first image with a value that is not finite."""
    for index in range(len(values)):
        if not np.isfinite(_array(values[index])).all():
            raise ValueError(f"image {first + index}: the {what} holds NaN or infinite values")


class Pixels:
    """The pixels of a group of images: their values sorted, normal and anomalous ones apart.

    Attributes:
        normal: ascending.
        anomalous: ascending.
        regions: how many regions the masks have; known once :meth:`weighted` has run.
    """

    def __init__(
        self,
        maps: Any,
        masks: Any,
        rows: Sequence[int],
        sizes: Sequence[int],
        device: torch.device | None = None,
    ) -> None:
        self._maps, self._masks, self._rows = maps, masks, rows
        size = sum(sizes[row] for row in rows)
        # Normal values fill one array from its start, anomalous ones from its end.
        values = np.empty(size, _array(maps[0] if len(maps) else maps).dtype)
        start, end = 0, size
        for value, mask in self._images():
            anomalous = value[mask]
            values[end - len(anomalous) : end] = anomalous
            end -= len(anomalous)
            normal = value[np.logical_not(mask, out=mask)]
            values[start : start + len(normal)] = normal
            start += len(normal)
        self.normal, self.anomalous = values[:start], values[start:]
        _sort(self.normal, device)
        _sort(self.anomalous, device)
        self.regions = 0

    def _images(self) -> Iterator[tuple[NDArray[Any], NDArray[np.bool_]]]:
        for row in self._rows:
            yield _array(self._maps[row]), np.ascontiguousarray(_array(self._masks[row]) != 0)

    def weighted(self, block: int) -> Iterator[tuple[NDArray[Any], NDArray[np.float64]]]:
        """Yields all anomalous values in sorted blocks, and for each value 1 / (pixels of its region)."""
        self.regions, waiting = 0, 0
        values: list[NDArray[Any]] = []
        weights: list[NDArray[np.float64]] = []
        for value, mask in self._images():
            if not mask.any():
                continue
            count, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
            self.regions += count - 1
            inside = labels[mask]
            values.append(value[mask])
            weights.append((1.0 / np.bincount(inside, minlength=count)[1:])[inside - 1])
            waiting += len(inside)
            if waiting >= block:
                yield from _blocks(np.concatenate(values), np.concatenate(weights), block)
                values, weights, waiting = [], [], 0
        if waiting:
            yield from _blocks(np.concatenate(values), np.concatenate(weights), block)


def _sort(values: NDArray[Any], device: torch.device | None) -> None:
    """Sorts in place, on a GPU where one is given that has room for it."""
    if device is not None and values.dtype.kind == "f":
        import torch

        with suppress(torch.OutOfMemoryError):
            values[:] = torch.from_numpy(values).to(device).sort().values.cpu().numpy()
            return
    values.sort()


def _blocks(
    values: NDArray[Any], weights: NDArray[np.float64], block: int
) -> Iterator[tuple[NDArray[Any], NDArray[np.float64]]]:
    # A stable order: the sums are the same to the last bit for all types that hold the same values.
    order = np.argsort(values, kind="stable")
    for first in range(0, len(order), block):
        chosen = order[first : first + block]
        yield values[chosen], weights[chosen]


def _measure(groups: Iterable[Pixels], limit: float) -> dict[str, float]:
    """Returns ``auroc``, ``ap``, ``f1max`` and ``aupro`` of all groups together, by the closed forms."""
    groups = list(groups)
    n, p = sum(len(g.normal) for g in groups), sum(len(g.anomalous) for g in groups)
    if n == 0 or p == 0:
        return dict.fromkeys(("auroc", "ap", "f1max", "aupro"), math.nan)
    size = max(_BLOCK, (n + p) // 128)
    misplaced, precision, f1max, overlap = 0, 0.0, 0.0, 0.0
    for values, weights in (block for group in groups for block in group.weighted(size)):
        above = n - _count(groups, "normal", values, "right")
        at_least = n - _count(groups, "normal", values, "left")
        found = p - _count(groups, "anomalous", values, "left")
        misplaced += int((above + at_least).sum())
        precision += float((found / (found + at_least)).sum())
        f1max = max(f1max, float((2 * found / (found + at_least + p)).max()))
        f0, f1 = above / n, at_least / n
        gain = np.where(f1 <= limit, limit - (f0 + f1) / 2, 0.0)
        cut = (f0 < limit) & (limit < f1)
        gain[cut] = (limit - f0[cut]) ** 2 / (2 * (f1[cut] - f0[cut]))
        overlap += float(weights @ gain)
    regions = sum(g.regions for g in groups)
    # Rounding may carry a sum of many terms just past 1.
    return {
        "auroc": (2 * n * p - misplaced) / (2 * n * p),
        "ap": min(1.0, precision / p),
        "f1max": f1max,
        "aupro": min(1.0, overlap / regions / limit),
    }


def _count(groups: Sequence[Pixels], part: str, values: NDArray[Any], side: Any) -> NDArray[np.int64]:
    """Returns how many normal or anomalous values lie below each value (with ``right``: or equal it)."""
    counts = np.zeros(len(values), np.int64)
    for group in groups:
        counts += np.searchsorted(getattr(group, part), values, side=side)
    return counts
