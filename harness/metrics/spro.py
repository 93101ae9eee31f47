"""Exact saturated per-region overlap (sPRO), the localisation metric of MVTec LOCO.

After Bergmann et al., "Beyond Dents and Scratches: Logical Constraints in Unsupervised Anomaly Detection and
Localization", IJCV 2022. An annotation A with saturation area s counts as found in full once s of its
pixels are: its sPRO at a threshold is min(#(A ∩ P) / s, 1). The mean over all annotations is integrated
against the false-positive rate over the pixels that are in no annotation, up to a limit L, and divided by L.

Nothing is binned. The k-th highest pixel of an annotation raises its sPRO by 1 / s while k ≤ s. The
area under a rise depends only on the value at which it happens, so that pixels of equal value, whose order is
arbitrary, add up to the rise of their group; each rise is weighed by g as in :mod:`harness.metrics.exact`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.data.card import NORMAL

LIMITS = (0.01, 0.05, 0.1, 0.3, 1.0)

# Normal values are sorted in chunks of so many, that growing needs no copy of all of them.
_CHUNK = 1 << 25
# So many rises are placed among the normal values at a time.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Annotation:
    """One annotated defect.

    Attributes:
        mask: ``[H, W]``, non-zero inside; not empty.
        saturation: pixels from which on it counts as found in full, from 1 to those of the mask.
    """

    mask: NDArray[np.bool_] | NDArray[np.uint8]
    saturation: int


@dataclass(frozen=True)
class Annotated:
    """The anomaly map of one image with its annotations.

    Attributes:
        map: ``[H, W]``, real; higher is more anomalous. Images may differ in size.
        kind: ``normal``, or the kind of anomaly.
        annotations: may overlap; none for a normal image.
    """

    map: NDArray[np.floating]
    kind: str = NORMAL
    annotations: Sequence[Annotation] = ()


def saturation_area(area: int, threshold: float, relative: bool) -> int:
    """Returns the saturation area in whole pixels of an annotation of ``area`` pixels.

    A share is rounded down, as by MVTec's code (``int(threshold * area)``). Where that leaves no pixel their
    sPRO is 0 / 0 until the annotation is found; here one pixel of it has to be found.

    Args:
        area: pixels of the annotation.
        threshold: a share of the area where ``relative``, else a number of pixels, 1 or more.
        relative: which of both.
    """
    return max(1, int(threshold * area)) if relative else min(int(threshold), area)


def split_spro(
    images: Iterable[Annotated], splits: Sequence[str], limits: Sequence[float] = LIMITS
) -> dict[str, dict[str, float]]:
    """Returns the sPRO of each kind of anomaly against the same normal images, and their mean.

    Images are taken one by one; about four bytes a normal pixel (of float32 maps) are kept.

    Args:
        images: maps and annotations, in any order; of kinds not in ``splits`` nothing is used.
        splits: kinds of anomalies; the official ones are ``structural`` and ``logical``.
        limits: false-positive rates up to which is integrated, in (0, 1].

    Returns:
        ``spro_0.05`` and so on, in [0, 1], for each split and for ``mean``, the mean over the splits; NaN
        where there is no annotation or no normal pixel. The official score is ``spro_0.05`` of ``mean``.

    Raises:
        ValueError: a limit or saturation area is out of range, a shape differs, a map is not finite, an
            annotation is empty, or a normal image has one (with the image's index).
    """
    if not splits or {NORMAL, "mean"} & set(splits):
        raise ValueError(f"{list(splits)} are not kinds of anomalies")
    for limit in limits:
        if not 0 < limit <= 1:
            raise ValueError(f"limit must be in (0, 1], not {limit}")
    groups = {kind: _Group() for kind in (NORMAL, *splits)}
    for index, image in enumerate(images):
        if image.kind in groups:
            groups[image.kind].add(index, image)
    for group in groups.values():
        group.close()
    found = {split: _measure(groups[NORMAL], groups[split], limits) for split in splits}
    names = [f"spro_{limit:g}" for limit in limits]
    mean = {name: sum(found[split][name] for split in splits) / len(splits) for name in names}
    return found | {"mean": mean}


class _Group:
    """The images of one kind: normal values in sorted chunks, and where the annotations' sPRO rises.

    Attributes:
        chunks: normal values, each chunk ascending once the group is closed.
        values: values at which a rise happens.
        rises: by how much the sPRO of the annotation rises there.
        annotations: how many there are.
    """

    def __init__(self) -> None:
        self.chunks: list[NDArray[np.floating]] = []
        self.values: list[NDArray[np.floating]] = []
        self.rises: list[NDArray[np.float64]] = []
        self.annotations = 0
        self._waiting: list[NDArray[np.floating]] = []

    def add(self, index: int, image: Annotated) -> None:
        values = np.asarray(image.map)
        if values.ndim != 2 or values.dtype.kind != "f":
            raise ValueError(f"image {index}: expected a map [H, W] of floats")
        if not np.isfinite(values).all():
            raise ValueError(f"image {index}: the anomaly map holds NaN or infinite values")
        if image.kind == NORMAL and image.annotations:
            raise ValueError(f"image {index} is normal but has annotations")
        normal = np.ones(values.shape, np.bool_)
        for annotation in image.annotations:
            mask = np.asarray(annotation.mask) != 0
            if mask.shape != values.shape:
                raise ValueError(f"image {index}: map {values.shape} and annotation {mask.shape} differ")
            inside = np.sort(values[mask])[::-1]
            s = annotation.saturation
            if not 1 <= s <= len(inside):
                raise ValueError(f"image {index}: saturation {s} is not in 1 to {len(inside)}")
            self.values.append(inside[:s].copy())
            self.rises.append(np.full(s, 1 / s))
            self.annotations += 1
            normal &= ~mask
        self._waiting.append(values[normal])
        if sum(map(len, self._waiting)) >= _CHUNK:
            self.close()

    def close(self) -> None:
        """Sorts what waits into a chunk."""
        if self._waiting:
            chunk = np.concatenate(self._waiting)
            self._waiting = []
            chunk.sort()
            self.chunks.append(chunk)


def _measure(good: _Group, group: _Group, limits: Sequence[float]) -> dict[str, float]:
    """Returns the sPRO of a group's annotations to every limit."""
    chunks = good.chunks + group.chunks
    n = sum(map(len, chunks))
    if not n or not group.annotations:
        return {f"spro_{limit:g}": math.nan for limit in limits}
    values, rises = np.concatenate(group.values), np.concatenate(group.rises)
    order = np.argsort(values, kind="stable")
    areas = dict.fromkeys(limits, 0.0)
    for first in range(0, len(order), _BLOCK):
        chosen = order[first : first + _BLOCK]
        value = values[chosen]
        above, at_least = np.full(len(value), n), np.full(len(value), n)
        for chunk in chunks:
            above -= np.searchsorted(chunk, value, side="right")
            at_least -= np.searchsorted(chunk, value, side="left")
        f0, f1 = above / n, at_least / n
        for limit in limits:
            gain = np.where(f1 <= limit, limit - (f0 + f1) / 2, 0.0)
            cut = (f0 < limit) & (limit < f1)
            gain[cut] = (limit - f0[cut]) ** 2 / (2 * (f1[cut] - f0[cut]))
            areas[limit] += float(rises[chosen] @ gain)
    # Rounding may carry a sum of many terms just past 1.
    return {f"spro_{limit:g}": min(1.0, area / group.annotations / limit) for limit, area in areas.items()}
