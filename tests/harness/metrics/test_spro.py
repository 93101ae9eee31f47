"""sPRO against a slow reference written from the definition, and against cases computed by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

import harness.metrics.spro
from harness.metrics.spro import LIMITS, Annotated, Annotation, saturation_area, split_spro


def slow_spro(images: list[Annotated], limit: float) -> float:
    """The definition: every distinct value is a threshold; trapezoids, cut linearly at the limit."""
    annotations = [(image.map, a.mask != 0, a.saturation) for image in images for a in image.annotations]
    normal = []
    for image in images:
        free = np.ones(image.map.shape, bool)
        for a in image.annotations:
            free &= a.mask == 0
        normal.append(image.map[free])
    negatives = np.concatenate(normal)
    points = [(0.0, 0.0)]
    for threshold in np.unique(np.concatenate([image.map.ravel() for image in images]))[::-1]:
        overlaps = [min((m[mask] >= threshold).sum() / s, 1) for m, mask, s in annotations]
        points.append((float((negatives >= threshold).mean()), float(np.mean(overlaps))))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= limit:
            break
        if x1 > limit:
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def made(seed: int, levels: int) -> list[Annotated]:
    """Images of different sizes; annotations overlap, saturate absolutely and relatively."""
    rng = np.random.default_rng(seed)
    images = []
    for kind in ["normal", "structural", "logical", "normal", "logical", "structural", "other"]:
        shape = tuple(rng.integers(8, 14, size=2))
        annotations = []
        for _ in range(0 if kind == "normal" else rng.integers(1, 4)):
            mask = np.zeros(shape, np.uint8)
            y, x = rng.integers(0, 6, size=2)
            mask[y : y + rng.integers(1, 6), x : x + rng.integers(1, 6)] = 255
            area = int((mask != 0).sum())
            relative = bool(rng.integers(2))
            threshold = rng.choice([0.3, 0.5, 1.0]) if relative else rng.choice([1, 4, 50])
            annotations.append(Annotation(mask, saturation_area(area, float(threshold), relative)))
        values = rng.integers(0, levels, size=shape).astype(np.float32)
        for annotation in annotations:
            values += (annotation.mask != 0) * rng.integers(0, 2, size=shape).astype(np.float32)
        images.append(Annotated(values, kind, annotations))
    return images


@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition(seed: int, levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = made(seed, levels)
    whole = split_spro(images, ["structural", "logical"])
    for split in ("structural", "logical"):
        chosen = [image for image in images if image.kind in ("normal", split)]
        for limit in LIMITS:
            assert whole[split][f"spro_{limit:g}"] == pytest.approx(slow_spro(chosen, limit), abs=1e-9)
    for name, value in whole["mean"].items():
        assert value == pytest.approx((whole["structural"][name] + whole["logical"][name]) / 2, abs=1e-12)
    # Chunks and blocks are of no consequence.
    monkeypatch.setattr(harness.metrics.spro, "_CHUNK", 100)
    monkeypatch.setattr(harness.metrics.spro, "_BLOCK", 3)
    again = split_spro(iter(images), ["structural", "logical"])
    for split, values in whole.items():
        assert again[split] == pytest.approx(values, abs=1e-12)


def one(values: list[float], *annotations: tuple[list[int], int]) -> float:
    """sPRO to the limit 1 of an image of one row."""
    marks = [Annotation(np.array([mask], np.uint8), s) for mask, s in annotations]
    images = [Annotated(np.array([values], np.float32), "logical", marks)]
    return split_spro(images, ["logical"], [1.0])["logical"]["spro_1"]


def test_by_hand() -> None:
    # One pixel found before any false positive: all of it where one pixel saturates, else a half.
    assert one([9, 0, 5, 5], ([1, 1, 0, 0], 1)) == 1
    # The other half comes with threshold 0, after all false positives.
    assert one([9, 0, 5, 5], ([1, 1, 0, 0], 2)) == 0.5
    # Relative 0.5 of two pixels is one pixel.
    assert one([9, 0, 5, 5], ([1, 1, 0, 0], saturation_area(2, 0.5, True))) == 1
    # Two annotations: one is found, one never before the end.
    assert one([9, 0, 5, 5], ([1, 0, 0, 0], 1), ([0, 1, 0, 0], 1)) == 0.5
    # They overlap in the pixel found: one saturates, the other has a half.
    assert one([9, 0, 5, 5], ([1, 0, 0, 0], 1), ([1, 1, 0, 0], 2)) == 0.75
    # A constant map is a straight line, saturated or not.
    assert one([1, 1, 1, 1], ([1, 1, 0, 0], 1)) == 0.5
    assert saturation_area(10, 0.79, True) == 7
    assert saturation_area(1, 0.5, True) == 1
    assert saturation_area(10, 50, False) == 10
    assert saturation_area(10, 4, False) == 4


def test_a_constant_map_gives_half_the_limit() -> None:
    mask = np.eye(4, dtype=np.uint8)
    images = [Annotated(np.ones((4, 4), np.float32), "logical", [Annotation(mask, 2)])]
    found = split_spro(images, ["logical"])["logical"]
    assert found == pytest.approx({f"spro_{limit:g}": limit / 2 for limit in LIMITS}, abs=1e-12)


def test_undefined_is_nan() -> None:
    images = [Annotated(np.zeros((2, 2), np.float32))]
    assert math.isnan(split_spro(images, ["logical"])["mean"]["spro_0.05"])
    whole = [Annotated(np.zeros((2, 2), np.float32), "logical", [Annotation(np.ones((2, 2), np.uint8), 1)])]
    assert math.isnan(split_spro(whole, ["logical"])["logical"]["spro_0.05"])


def test_what_does_not_fit_is_refused() -> None:
    values, mask = np.zeros((2, 2), np.float32), np.eye(2, dtype=np.uint8)
    for saturation in (0, 3):
        with pytest.raises(ValueError, match=r"image 0: saturation .* is not in 1 to 2"):
            split_spro([Annotated(values, "logical", [Annotation(mask, saturation)])], ["logical"])
    with pytest.raises(ValueError, match=r"image 0: map .* differ"):
        split_spro([Annotated(values, "logical", [Annotation(mask[:1], 1)])], ["logical"])
    with pytest.raises(ValueError, match="image 0 is normal"):
        split_spro([Annotated(values, "normal", [Annotation(mask, 1)])], ["logical"])
    with pytest.raises(ValueError, match="image 0: the anomaly map holds NaN"):
        split_spro([Annotated(values + np.nan)], ["logical"])
    with pytest.raises(ValueError, match="image 0: expected a map"):
        split_spro([Annotated(values[0])], ["logical"])
    with pytest.raises(ValueError, match="limit must be in"):
        split_spro([], ["logical"], [0.0])
    with pytest.raises(ValueError, match="are not kinds"):
        split_spro([], ["mean"])
