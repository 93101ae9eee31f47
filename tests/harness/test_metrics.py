"""Conformance: exact metrics against scikit-learn and against a slow reference from the definition."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from harness.metrics import image_metrics, pixel_metrics, split_metrics

Array = NDArray[np.float32]


def slow_aupro(maps: Array, masks: NDArray[np.uint8], limit: float) -> float:
    """The definition: mean overlap of regions against false-positive rate, at every threshold."""
    regions = []
    for index, mask in enumerate(masks):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [maps[index][labels == k + 1] for k in range(count)]
    normal = maps[masks == 0]
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        fpr = float((normal >= threshold).mean())
        points.append((fpr, float(np.mean([(region >= threshold).mean() for region in regions]))))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= limit:
            break
        if x1 > limit:
            y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            x1 = limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def sklearn_metrics(scores: Array, labels: NDArray[np.uint8]) -> tuple[float, float, float]:
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    return roc_auc_score(labels, scores), average_precision_score(labels, scores), f1.max()


def blobs(seed: int, shape: tuple[int, int, int] = (4, 24, 24), levels: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    masks = (ndimage.gaussian_filter(rng.normal(size=shape), (0, 2, 2)) > 0.15).astype(np.uint8)
    masks[0] = 0
    maps = (rng.normal(size=shape) + masks).astype(np.float32)
    if levels:
        maps = np.round(maps * levels) / levels
    return maps.astype(np.float32), masks


def golden() -> dict[str, tuple[Array, NDArray[np.uint8]]]:
    maps, masks = blobs(0)
    border = np.zeros((2, 8, 8), np.uint8)
    border[0, 0, :3] = border[0, :, 7] = border[1, 7, 0] = 1
    diagonal = np.zeros((2, 12, 12), np.uint8)
    diagonal[0][np.eye(12, dtype=bool)] = 1
    diagonal[1, 2:4, 2:4] = 1
    pixels = np.zeros((2, 8, 8), np.uint8)
    pixels[0, 1, 1] = pixels[0, 5, 5] = pixels[1, 3, 3] = 1
    rng = np.random.default_rng(7)
    return {
        "plain": (maps, masks),
        "ties": blobs(1, levels=2),
        "two levels": ((maps > 0).astype(np.float32), masks),
        "constant": (np.ones_like(maps), masks),
        "border": (rng.normal(size=border.shape).astype(np.float32), border),
        "diagonal": (rng.normal(size=diagonal.shape).astype(np.float32) + diagonal, diagonal),
        "one pixel": (rng.normal(size=pixels.shape).astype(np.float32), pixels),
        "tiny": ((maps * np.float32(1e-30)).astype(np.float32), masks),
        "huge": ((maps * np.float32(1e30)).astype(np.float32), masks),
        "negative": (maps - 100, masks),
        "single image": (maps[1:2], masks[1:2]),
        "uint8": (np.clip(maps * 40 + 120, 0, 255).astype(np.uint8), masks),
        "float64": (maps.astype(np.float64) * (1 + 1e-12 * rng.normal(size=maps.shape)), masks),
        "inverted": (-maps, masks),
    }


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("case", golden())
def test_pixel_metrics_equal_the_references(case: str, limit: float) -> None:
    maps, masks = golden()[case]
    found = pixel_metrics(maps, masks, limit)
    auroc, ap, f1 = sklearn_metrics(maps.ravel().astype(np.float64), masks.ravel())
    expected = {
        "pixel_auroc": auroc,
        "pixel_ap": ap,
        "pixel_f1max": f1,
        "aupro": slow_aupro(maps, masks, limit),
    }
    assert found == pytest.approx(expected, abs=1e-9)
    assert pixel_metrics(torch.from_numpy(maps), torch.from_numpy(masks), limit) == found


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_enters_without_loss(dtype: torch.dtype) -> None:
    maps, masks = blobs(3)
    half = torch.from_numpy(maps).to(dtype)
    assert pixel_metrics(half, masks) == pixel_metrics(half.float().numpy(), masks)
    if dtype == torch.float16:
        assert pixel_metrics(half.numpy(), masks) == pixel_metrics(half.float().numpy(), masks)


@pytest.mark.parametrize("seed", range(5))
def test_image_metrics_equal_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 60)
    scores = np.round(rng.normal(size=60) + labels, seed % 3)
    found = image_metrics(scores, labels)
    auroc, ap, f1 = sklearn_metrics(scores, labels)
    assert found == pytest.approx({"image_auroc": auroc, "image_ap": ap, "image_f1max": f1}, abs=1e-9)
    whole = (scores - scores.min()).astype(np.uint8)
    assert image_metrics(whole, labels)["image_auroc"] == pytest.approx(
        roc_auc_score(labels, whole), abs=1e-9
    )


def test_diagonal_neighbours_are_one_region() -> None:
    maps = np.zeros((1, 4, 4), np.float32)
    masks = np.zeros((1, 4, 4), np.uint8)
    masks[0, 0, 0] = masks[0, 1, 1] = masks[0, 3, 3] = 1
    maps[0, 3, 3] = 1
    # Two regions: one is found before any false positive, half of the other never is.
    maps[0, 1, 1] = 1
    maps[0, 0, 0] = -1
    assert pixel_metrics(maps, masks, limit=0.5)["aupro"] == pytest.approx(0.75)


def test_rising_transforms_change_nothing() -> None:
    maps, masks = blobs(4, levels=3)
    assert pixel_metrics(np.exp(maps.astype(np.float64)), masks) == pixel_metrics(maps, masks)


def test_undefined_is_nan_not_zero() -> None:
    maps, masks = blobs(5)
    none = pixel_metrics(maps, np.zeros_like(masks))
    assert all(math.isnan(value) for value in none.values())
    everything = pixel_metrics(maps, np.ones_like(masks))
    assert math.isnan(everything["pixel_auroc"])
    assert math.isnan(everything["aupro"])
    assert math.isnan(image_metrics([0.1, 0.2], [0, 0])["image_auroc"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(bad: float) -> None:
    maps, masks = blobs(6)
    maps[2, 3, 3] = bad
    with pytest.raises(ValueError, match="image 2"):
        pixel_metrics(maps, masks)
    with pytest.raises(ValueError, match="image 1"):
        image_metrics([0.0, bad, 1.0], [0, 0, 1])


def test_wrong_shapes_and_labels_are_refused() -> None:
    maps, masks = blobs(6)
    with pytest.raises(ValueError, match="must both be"):
        pixel_metrics(maps, masks[:2])
    with pytest.raises(ValueError, match="must both be"):
        image_metrics([1.0, 2.0], [0])
    with pytest.raises(ValueError, match="label 2 of image 1"):
        image_metrics([1.0, 2.0], [0, 2])
    with pytest.raises(ValueError, match="limit"):
        pixel_metrics(maps, masks, limit=0)


def test_inputs_are_left_alone() -> None:
    maps, masks = blobs(8)
    before = maps.copy()
    pixel_metrics(maps, masks)
    np.testing.assert_array_equal(maps, before)


def test_kinds_are_scored_against_the_same_normal_images() -> None:
    maps, masks = blobs(9, shape=(9, 16, 16))
    kinds = ["normal"] * 3 + ["structural"] * 2 + ["logical"] * 4
    masks[:3] = 0
    masks[3:, 0, 0] = 1
    scores = np.random.default_rng(0).normal(size=9)
    found = split_metrics(scores, maps, kinds, masks, ["logical", "structural"])
    rows = [0, 1, 2, 3, 4]
    assert found["structural"] == {
        **image_metrics(scores[rows], [0, 0, 0, 1, 1]),
        **pixel_metrics(maps[rows], masks[rows]),
    }
    pooled = (2 * found["structural"]["image_auroc"] + 4 * found["logical"]["image_auroc"]) / 6
    assert found["all"]["image_auroc"] == pytest.approx(pooled, abs=1e-12)
    masks[1, 2, 2] = 1
    with pytest.raises(ValueError, match="image 1 is normal"):
        split_metrics(scores, maps, kinds, masks)


def test_memory_stays_below_six_bytes_a_pixel() -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(24, 256, 256)).astype(np.float32)
    masks = np.zeros(maps.shape, np.uint8)
    masks[:12, 100:130, 100:130] = 1
    tracemalloc.start()
    pixel_metrics(maps, masks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * maps.size
