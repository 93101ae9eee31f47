"""What a report shows of kept maps: pictures of them, and curves over their pixels.

A file ``<key>.view.safetensors`` lies beside the maps and follows from them and the masks. It holds

- ``scores``, float32 ``[N]``;
- ``greys``, bytes: of each map a JPEG file in grey, one after the other, from black at the median of all
  values of the maps to white at their highest thousandth, with ``grey_ends``, int64: where each ends;
- ``curve``, float32 ``[3, K]``, see :func:`curve`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from harness.dataset import Sample
from harness.files import write_atomically
from harness.images import load_masks
from harness.metrics import Pixels
from harness.pictures import Pictures, joined, keep_pictures, parts, pictures_path
from harness.protocols import Crop, Resize
from harness.spec import view

_QUALITY = 85
# Thresholds of a curve; its area then is off by less than 0.0005.
_POINTS = 200
# Anomalous pixels that are weighed at a time.
_BLOCK = 1 << 20
_SIDES: tuple[Literal["right"], Literal["left"]] = ("right", "left")


@dataclass(frozen=True)
class View:
    """Of one run.

    Attributes:
        scores: float32 ``[N]``.
        greys: JPEG files, one for each map, at its size.
        curve: see :func:`curve`.
        rows: of the category's test images, those that the maps are of; empty in earlier views, of all.
    """

    scores: NDArray[np.float32]
    greys: tuple[bytes, ...]
    curve: NDArray[np.float32]
    rows: tuple[int, ...]

    def own(self, pictures: Pictures) -> Pictures | None:
        """Returns those of a category's pictures that the maps are of; ``None`` where they do not fit."""
        rows = self.rows or tuple(range(len(pictures.names)))
        fit = len(rows) == len(self.scores) and max(rows) < len(pictures.names)
        return pictures.only(rows) if fit else None

    def grey(self, n: int) -> NDArray[np.uint8]:
        """Returns a map as uint8 ``[H, W]``."""
        return np.asarray(Image.open(io.BytesIO(self.greys[n])))


def keep_view(
    record: Path,
    maps: NDArray[np.float32],
    scores: NDArray[np.float32],
    samples: Sequence[Sample],
    data: str,
    fitted: tuple[Resize, Crop],
    cache: Path,
    rows: Sequence[int] | None = None,
) -> None:
    """Writes what a report shows of a run's maps, and the pictures of its test images.

    Args:
        record: path of the record.
        maps: ``[N, S, S]``, finite.
        scores: ``[N]``.
        samples: the category's test images.
        data: fingerprint of the category's files.
        fitted: how images came to the size of the maps: resized, then cropped.
        cache: the cache folder.
        rows: of the test images, the N that the maps are of, all by default.

    Raises:
        OSError: the folder cannot be written.
        UserError: an image or a mask cannot be read.
    """
    size, (resize, crop) = maps.shape[1], fitted
    rows = range(len(samples)) if rows is None else rows
    keep_pictures(pictures_path(record, data, size, view(resize, crop)), samples, size, resize, cache, crop)
    masks = load_masks([sample.masks for sample in samples], size, cache, crop)
    if len(rows) < len(samples):
        masks = masks[list(rows)]
    write_atomically(view_path(record), _content(maps, scores, masks, rows))


def view_path(record: Path) -> Path:
    """Returns where the view that belongs to a record lies."""
    return record.with_suffix(".view.safetensors")


def load_view(path: Path) -> View | None:
    """Returns a view, or ``None`` where there is none or the file is damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            scores, curve = file.get_tensor("scores"), file.get_tensor("curve")
            greys = parts(file.get_tensor("greys"), file.get_tensor("grey_ends"))
            rows = tuple(file.get_tensor("rows").tolist()) if "rows" in [*file.keys()] else ()
    except (OSError, SafetensorError, ValueError):
        return None
    whole = len(scores) == len(greys) and len(rows) in (0, len(scores)) and len(curve) == 3
    return View(scores, greys, curve, rows) if whole else None


def curve(maps: NDArray[np.float32], masks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns points of the ROC curve and of the PRO curve over the pixels of all maps.

    Both are those whose areas :func:`harness.metrics.pixel_metrics` returns as ``pixel_auroc`` and ``aupro``.
    The points lie on them, close together where few normal pixels are above the threshold.

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


def _content(
    maps: NDArray[np.float32], scores: NDArray[np.float32], masks: NDArray[np.uint8], rows: Sequence[int]
) -> bytes:
    files = []
    for grey in _greys(maps):
        buffer = io.BytesIO()
        Image.fromarray(grey).save(buffer, "JPEG", quality=_QUALITY)
        files.append(buffer.getvalue())
    arrays: dict[str, NDArray[Any]] = {
        "scores": np.ascontiguousarray(scores, np.float32),
        "curve": curve(maps, masks),
        "rows": np.array(rows, np.int64),
    }
    arrays["greys"], arrays["grey_ends"] = joined(files)
    return save(arrays)


def _greys(maps: NDArray[np.float32]) -> list[NDArray[np.uint8]]:
    """Maps ``[N, H, W]`` on one scale of grey."""
    sample = maps.reshape(-1)[:: max(1, maps.size >> 22)]
    black, white = (float(q) for q in np.quantile(sample, (0.5, 0.999)))
    scale = 255 / max(white - black, float(np.finfo(np.float32).tiny))
    return [np.clip((m - black) * scale, 0, 255).astype(np.uint8) for m in maps]
