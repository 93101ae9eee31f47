"""Conformance: exact metrics against scikit-learn and against a slow reference from the definition."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from harness.metrics.exact import image_metrics, pixel_metrics, split_metrics

Maps = NDArray[Any]
Masks = NDArray[np.uint8]

EIGHT = np.ones((3, 3))
FOUR = ndimage.generate_binary_structure(2, 1)


def slow_aupro(maps: Maps, masks: Masks, limit: float, neighbours: NDArray[Any] = EIGHT) -> float:
    """The definition: mean overlap of regions against false-positive rate, at every threshold."""
    regions = []
    for index, mask in enumerate(masks):
        labels, count = ndimage.label(mask, structure=neighbours)
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


def sklearn_metrics(scores: Maps, labels: NDArray[Any]) -> dict[str, float]:
    scores, labels = scores.ravel().astype(np.float64), labels.ravel()
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    return {
        "auroc": roc_auc_score(labels, scores),
        "ap": average_precision_score(labels, scores),
        "f1max": f1.max(),
    }


def reference(maps: Maps, masks: Masks, limit: float = 0.3) -> Any:
    found = {f"pixel_{name}": value for name, value in sklearn_metrics(maps, masks).items()}
    return pytest.approx(found | {"aupro": slow_aupro(maps, masks, limit)}, abs=1e-9)


def blobs(seed: int, shape: tuple[int, int, int] = (4, 24, 24), levels: int = 0) -> tuple[Maps, Masks]:
    """Maps that see the anomalies dimly, rounded to so many levels per unit; the first image is normal."""
    rng = np.random.default_rng(seed)
    masks = (ndimage.gaussian_filter(rng.normal(size=shape), (0, 2, 2)) > 0.15).astype(np.uint8)
    masks[0] = 0
    maps = rng.normal(size=shape) + masks
    if levels:
        maps = np.round(maps * levels) / levels
    return maps.astype(np.float32), masks


def golden() -> dict[str, tuple[Maps, Masks]]:
    maps, masks = blobs(0)
    border = np.zeros((2, 8, 8), np.uint8)
    border[0, 0, :3] = border[0, :, 7] = border[1, 7, 0] = 1
    diagonal = np.zeros((2, 12, 12), np.uint8)
    diagonal[0][np.eye(12, dtype=bool)] = 1
    diagonal[1, 2:4, 2:4] = 1
    pixels = np.zeros((2, 8, 8), np.uint8)
    pixels[0, 1, 1] = pixels[0, 5, 5] = pixels[1, 3, 3] = 1
    rng = np.random.default_rng(7)
    almost = 1 - pixels
    return {
        "plain": (maps, masks),
        "ties": blobs(1, levels=2),
        "heavy ties": blobs(2, levels=1),
        "two levels": ((maps > 0).astype(np.float32), masks),
        "boolean": (maps > 1, masks),
        "constant": (np.ones_like(maps), masks),
        "perfect": (masks.astype(np.float32), masks),
        "inverted": (-maps, masks),
        "border": (rng.normal(size=border.shape).astype(np.float32), border),
        "diagonal": (rng.normal(size=diagonal.shape).astype(np.float32) + diagonal, diagonal),
        "one pixel": (rng.normal(size=pixels.shape).astype(np.float32), pixels),
        "speckled": (maps[:2, :16, :16], (rng.random((2, 16, 16)) < 0.2).astype(np.uint8)),
        "few normal pixels": (rng.normal(size=pixels.shape).astype(np.float32), almost),
        "tiny": (maps * np.float32(1e-30), masks),
        "huge": (maps * np.float32(1e30), masks),
        "signed zeros": (np.where(maps > 0, 0.0, -0.0).astype(np.float32), masks),
        "negative": (maps - 100, masks),
        "single image": (maps[1:2], masks[1:2]),
        "not square": (maps[:, :, :7], masks[:, :, :7]),
        "uint8": (np.clip(maps * 40 + 120, 0, 255).astype(np.uint8), masks),
        "int64": ((maps * 3).astype(np.int64), masks),
        "float64": (maps.astype(np.float64) * (1 + 1e-12 * rng.normal(size=maps.shape)), masks),
        # More anomalous values than are placed at a time, in one image and over several.
        "many small images": blobs(3, (40, 32, 32), levels=8),
        "a large image": blobs(4, (2, 160, 160), levels=8),
    }


GOLDEN = golden()


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("case", GOLDEN)
def test_pixel_metrics_equal_the_references(case: str, limit: float) -> None:
    maps, masks = GOLDEN[case]
    found = pixel_metrics(maps, masks, limit)
    assert found == reference(maps, masks, limit)
    assert all(0 <= value <= 1 for value in found.values())
    assert pixel_metrics(torch.from_numpy(maps), torch.from_numpy(masks), limit) == found


@pytest.mark.parametrize("seed", range(30))
def test_random_ties_equal_the_references(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(2, 9, 3))
    masks = (rng.random(shape) < rng.uniform(0.1, 0.9)).astype(np.uint8)
    masks[0, 0, 0], masks[1, 1, 1] = 0, 1
    maps = rng.integers(0, rng.integers(1, 12), shape).astype(np.float32) / 7
    limit = rng.uniform(0.01, 1)
    assert pixel_metrics(maps, masks, limit) == reference(maps, masks, limit)


def test_images_of_different_sizes_are_a_sequence() -> None:
    maps, masks = blobs(11, (6, 20, 20), levels=3)
    shapes = [(20, 20), (7, 20), (20, 3), (11, 13), (1, 20), (20, 20)]
    few = [m[:h, :w] for m, (h, w) in zip(maps, shapes, strict=True)]
    true = [m[:h, :w] for m, (h, w) in zip(masks, shapes, strict=True)]
    flat = np.concatenate([m.ravel() for m in few]), np.concatenate([m.ravel() for m in true])
    found = pixel_metrics(few, true)
    for name, value in sklearn_metrics(*flat).items():
        assert found[f"pixel_{name}"] == pytest.approx(value, abs=1e-9)
    # The same pixels in one image, its regions kept apart by normal pixels that are lowest everywhere.
    low = np.float32(maps.min() - 1)
    extra = sum(400 - h * w for h, w in shapes)
    wide, marked = np.full((6, 20, 20), low), np.zeros((6, 20, 20), np.uint8)
    for index, (h, w) in enumerate(shapes):
        wide[index, :h, :w], marked[index, :h, :w] = few[index], true[index]
    n = int((flat[1] == 0).sum())
    assert found["aupro"] == pytest.approx(slow_aupro(wide, marked, 0.3 * n / (n + extra)), abs=1e-9)
    assert pixel_metrics([torch.from_numpy(m) for m in few], true) == found
    assert pixel_metrics(list(maps), list(masks)) == pixel_metrics(maps, masks)
    with pytest.raises(ValueError, match=r"image 1: map \(7, 20\) and mask \(20, 20\) must both be"):
        pixel_metrics(few, [true[0], masks[1], *true[2:]])
    with pytest.raises(ValueError, match="6 maps and 5 masks"):
        pixel_metrics(few, true[:5])
    with pytest.raises(ValueError, match="several types: float32, float64"):
        pixel_metrics([few[0].astype(np.float64), *few[1:]], true)
    with pytest.raises(ValueError, match="image 3: the anomaly map holds NaN"):
        pixel_metrics([*few[:3], few[3] * np.nan, *few[4:]], true)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_enters_without_loss(dtype: torch.dtype) -> None:
    maps, masks = blobs(3)
    half = torch.from_numpy(maps).to(dtype)
    exact = half.double().numpy()
    assert pixel_metrics(half, masks) == pixel_metrics(exact, masks)
    assert pixel_metrics(half, masks) == reference(exact, masks)
    assert pixel_metrics(half, masks) != pixel_metrics(maps, masks)
    if dtype == torch.float16:
        assert pixel_metrics(half.numpy(), masks) == pixel_metrics(exact, masks)
    labels = masks[:, 12, :].ravel()
    assert image_metrics(half[:, 12].flatten(), labels) == image_metrics(exact[:, 12].flatten(), labels)


@pytest.mark.parametrize("values", [[1.0, 1.0 + 1e-15], [2**60, 2**60 + 1]])
def test_double_precision_makes_no_ties(values: list[float]) -> None:
    assert image_metrics(np.array(values), [0, 1])["image_auroc"] == 1
    found = pixel_metrics(np.array(values).reshape(1, 1, 2), np.array([[[0, 1]]]))
    assert found == {"pixel_auroc": 1, "pixel_ap": 1, "pixel_f1max": 1, "aupro": 1}


def test_image_metrics_take_arrays_tensors_and_lists() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    scores = np.round(rng.normal(size=60) + labels, 1)
    for values in (scores, (scores - scores.min()).astype(np.uint8), np.ones(60), scores * 1e-300):
        found = image_metrics(values, labels)
        assert found == image_metrics(torch.from_numpy(values), torch.from_numpy(labels) == 1)
        assert found == image_metrics(values.tolist(), labels.tolist())


@pytest.mark.parametrize("case", ["diagonal", "speckled"])
def test_regions_are_8_connected(case: str) -> None:
    maps, masks = GOLDEN[case]
    found = pixel_metrics(maps, masks)["aupro"]
    assert found == pytest.approx(slow_aupro(maps, masks, 0.3, EIGHT), abs=1e-9)
    assert abs(found - slow_aupro(maps, masks, 0.3, FOUR)) > 1e-3


def test_a_region_ends_with_its_image() -> None:
    maps = np.zeros((2, 1, 3), np.float32)
    masks = np.zeros((2, 1, 3), np.uint8)
    masks[0, 0, :2] = masks[1, 0, 0] = 1
    maps[1, 0, 0] = 1
    # One of two regions is found before any false positive, the other one only with all of them.
    assert pixel_metrics(maps, masks, limit=1)["aupro"] == pytest.approx(0.75)


def test_equal_scores_enter_together() -> None:
    # Two of three images share the top score: its one threshold has precision 1/2 and recall 1.
    found = image_metrics([1.0, 1.0, 0.0], [1, 0, 0])
    assert found == pytest.approx({"image_auroc": 0.75, "image_ap": 0.5, "image_f1max": 2 / 3})


RISING: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "scaled": lambda x: x * 1e-30,
    "shifted": lambda x: 1e3 * x - 7e5,
    "exponential": np.exp,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "cubic": lambda x: x**3,
}


@pytest.mark.parametrize("transform", RISING)
def test_rising_transforms_change_nothing(transform: str) -> None:
    maps, masks = blobs(4, levels=3)
    rows = masks.any((1, 2))
    moved = RISING[transform](maps.astype(np.float64))
    assert pixel_metrics(moved, masks) == pixel_metrics(maps, masks)
    assert image_metrics(moved[:, 0, 0], rows) == image_metrics(maps[:, 0, 0], rows)


def test_undefined_is_nan_not_zero() -> None:
    maps, masks = blobs(5)
    for one_class in (np.zeros_like(masks), np.ones_like(masks)):
        assert all(math.isnan(value) for value in pixel_metrics(maps, one_class).values())
    assert len(pixel_metrics(maps, one_class)) == 4
    for labels in ([0, 0], [1, 1]):
        assert all(math.isnan(value) for value in image_metrics([0.1, 0.2], labels).values())
    assert all(math.isnan(value) for value in image_metrics([], []).values())
    assert all(math.isnan(value) for value in pixel_metrics(maps[:0], masks[:0]).values())


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(bad: float, dtype: str) -> None:
    maps, masks = blobs(6)
    maps = maps.astype(dtype)
    maps[2:, 3, 3] = bad
    for given in (maps, torch.from_numpy(maps)):
        with pytest.raises(ValueError, match="image 2: the anomaly map holds NaN or infinite values"):
            pixel_metrics(given, masks)
    # The first image counts, in whatever order the kinds come.
    with pytest.raises(ValueError, match="image 2: the anomaly map"):
        split_metrics([0, 1, 2, 3], maps, ["normal", "a", "b", "a"], masks, ["a", "b"])
    with pytest.raises(ValueError, match="image 1: the score holds NaN or infinite values"):
        image_metrics([0.0, bad, bad], [0, 0, 1])


def test_wrong_shapes_labels_and_types_are_refused() -> None:
    maps, masks = blobs(6)
    for bad_maps, bad_masks in ((maps, masks[:2]), (maps[0], masks[0]), (maps, masks[:, :, :5])):
        with pytest.raises(ValueError, match=r"maps .* and masks .* must both be \[N, H, W\]"):
            pixel_metrics(bad_maps, bad_masks)
    for scores, labels in (([1.0, 2.0], [0]), ([[1.0], [2.0]], [[0], [1]])):
        with pytest.raises(ValueError, match=r"scores .* and labels .* must both be \[N\]"):
            image_metrics(scores, labels)
    for label in (2, -1, 0.5, np.nan):
        with pytest.raises(ValueError, match=f"image 1: label {label}"):
            image_metrics([1.0, 2.0, 3.0], [0, label, 1])
    for limit in (0, -0.3, 1.1, np.nan):
        with pytest.raises(ValueError, match="limit"):
            pixel_metrics(maps, masks, limit)
    with pytest.raises(ValueError, match="real numbers, not complex"):
        image_metrics(np.array([1j, 2j]), [0, 1])


def test_masks_are_anomalous_where_not_zero() -> None:
    maps, masks = blobs(7)
    expected = pixel_metrics(maps, masks)
    for same in (masks.astype(bool), masks * 255, masks * np.float32(0.5), torch.from_numpy(masks).bool()):
        assert pixel_metrics(maps, same) == expected


def test_inputs_are_left_alone_and_may_have_any_layout() -> None:
    maps, masks = blobs(8)
    before = maps.copy(), masks.copy()
    expected = pixel_metrics(maps, masks)
    scores, labels = maps[:, 0, 0], masks.any((1, 2))
    image_metrics(scores, labels)
    split_metrics(scores, maps, np.where(labels, "scratch", "normal").tolist(), masks, ["scratch"])
    for now, then in zip((maps, masks), before, strict=True):
        np.testing.assert_array_equal(now, then)
        now.flags.writeable = False
    assert pixel_metrics(maps, masks) == expected
    assert pixel_metrics(np.asfortranarray(maps), np.asfortranarray(masks)) == expected
    assert pixel_metrics(np.repeat(maps, 2, axis=2)[:, :, ::2], np.repeat(masks, 2, 1)[:, ::2]) == expected
    assert pixel_metrics(torch.tensor(maps, requires_grad=True), masks) == expected


KINDS = ["normal", "structural", "logical", "normal", "logical", "normal", "logical", "structural", "logical"]


def nine() -> tuple[NDArray[np.float64], Maps, Masks]:
    maps, masks = blobs(9, (9, 16, 16), levels=4)
    masks[:, 0, 0] = 1
    masks[[kind == "normal" for kind in KINDS]] = 0
    return np.random.default_rng(0).normal(size=9).round(1), maps, masks


def expected_on(rows: list[int]) -> Any:
    scores, maps, masks = nine()
    labels = [KINDS[row] != "normal" for row in rows]
    return pytest.approx(
        image_metrics(scores[rows], labels) | pixel_metrics(maps[rows], masks[rows]), abs=1e-12
    )


def test_kinds_are_scored_against_the_same_normal_images() -> None:
    scores, maps, masks = nine()
    found = split_metrics(scores, maps, KINDS, masks, ["logical", "structural"])
    assert list(found) == ["all", "logical", "structural"]
    for split, values in found.items():
        rows = [i for i, kind in enumerate(KINDS) if split == "all" or kind in ("normal", split)]
        assert values == expected_on(rows)
    pooled = (2 * found["structural"]["image_auroc"] + 4 * found["logical"]["image_auroc"]) / 6
    assert found["all"]["image_auroc"] == pytest.approx(pooled, abs=1e-12)
    tensors = torch.from_numpy(scores), torch.from_numpy(maps), KINDS, torch.from_numpy(masks)
    assert split_metrics(*tensors, ["logical", "structural"]) == found


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_a_device_sorts_alike(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU's own way of sorting, here by the CPU; and without room for it."""
    generator = np.random.default_rng(0)
    maps = generator.integers(-40, 40, (6, 16, 16)).astype(dtype)
    kinds = ["normal", "normal", "logical", "logical", "structural", "structural"]
    masks = generator.integers(0, 2, maps.shape, dtype=np.uint8) * (np.arange(6) > 1)[:, None, None]
    given = (generator.normal(size=6), maps, kinds, masks, ["logical", "structural"])
    expected = split_metrics(*given)
    assert split_metrics(*given, device=torch.device("cpu")) == expected

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "from_numpy", full)
    assert split_metrics(*given, device=torch.device("cpu")) == expected


def test_exactly_the_named_splits_are_reported() -> None:
    given = scores, maps, _, masks = *nine()[:2], KINDS, nine()[2]
    found = split_metrics(*given)
    assert list(found) == ["all"]
    assert found["all"] == expected_on(list(range(9)))
    found = split_metrics(*given, ["logical", "absent", "logical"])
    assert list(found) == ["all", "logical", "absent"]
    assert found["all"] == expected_on(list(range(9)))
    assert len(found["absent"]) == 7
    assert all(math.isnan(value) for value in found["absent"].values())
    renamed = ["other" if kind == "structural" else kind for kind in KINDS]
    again = split_metrics(scores, maps, renamed, masks, ["other"])
    assert again == {"all": found["all"], "other": expected_on([0, 1, 3, 5, 7])}


def test_splits_without_normal_images_are_nan() -> None:
    scores, maps, masks = nine()
    rows = [1, 2, 4]
    kinds = [KINDS[row] for row in rows]
    found = split_metrics(scores[rows], maps[rows], kinds, masks[rows], ["logical", "structural"])
    assert all(math.isnan(values["image_auroc"]) for values in found.values())
    assert found["all"]["aupro"] > 0
    found = split_metrics(scores[:1], maps[:1], ["normal"], masks[:1], ["logical"])
    assert all(math.isnan(value) for values in found.values() for value in values.values())


def test_splits_that_do_not_average_to_the_whole_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, maps, masks = nine()

    def wrong(scores: Any, labels: Any) -> dict[str, float]:
        found = image_metrics(scores, labels)
        # Only the pooled value, and by little.
        return found | {"image_auroc": found["image_auroc"] + 1e-8 * (len(scores) == 9)}

    monkeypatch.setattr("harness.metrics.exact.image_metrics", wrong)
    with pytest.raises(RuntimeError, match=r"pooled image AUROC .* is not the mean"):
        split_metrics(scores, maps, KINDS, masks, ["logical", "structural"])
    # Nothing is known of the whole where a kind is not asked for.
    split_metrics(scores, maps, KINDS, masks, ["logical"])


def test_splits_refuse_what_does_not_fit() -> None:
    scores, maps, masks = nine()
    for split in ("all", "normal"):
        with pytest.raises(ValueError, match=f"'{split}' is not a kind of anomaly"):
            split_metrics(scores, maps, KINDS, masks, [split])
    with pytest.raises(ValueError, match="8 scores, 9 maps and 9 kinds"):
        split_metrics(scores[:8], maps, KINDS, masks)
    with pytest.raises(ValueError, match="9 scores, 9 maps and 8 kinds"):
        split_metrics(scores, maps, KINDS[:8], masks)
    masks[[3, 5], 2, 2] = 1
    with pytest.raises(ValueError, match="image 3 is normal but its mask is not empty"):
        split_metrics(scores, maps, KINDS, masks)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("anomalous", [0.02, 0.5])
def test_memory_stays_below_six_bytes_a_pixel(anomalous: float, dtype: str) -> None:
    rng = np.random.default_rng(0)
    maps = (rng.random((24, 256, 256)) * 255).astype(dtype)
    masks = np.zeros(maps.shape, np.uint8)
    masks[1:, : round(256 * anomalous)] = 1
    kinds = ["normal"] + ["logical"] * 11 + ["structural"] * 12

    def peak(call: Callable[[], Any]) -> int:
        tracemalloc.start()
        call()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(lambda: pixel_metrics(maps, masks)) < 6 * maps.size
    assert peak(lambda: split_metrics(np.arange(24), maps, kinds, masks, ["logical"])) < 6 * maps.size


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's high-water mark")
def test_the_process_grows_by_less_than_six_bytes_a_pixel() -> None:
    code = """
import numpy as np
from pathlib import Path
from harness.metrics.exact import pixel_metrics
def kilobytes(what):
    return int(Path("/proc/self/status").read_text().split(what + ":")[1].split()[0])
maps = np.random.default_rng(0).random((160, 256, 256), dtype=np.float32)
masks = np.zeros(maps.shape, np.uint8)
masks[:80, 50:150, 50:150] = 1
pixel_metrics(maps[:4], masks[:4])
before = kilobytes("VmRSS")
pixel_metrics(maps, masks)
print((kilobytes("VmHWM") - before) * 1024 / maps.size)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 3 < float(done.stdout) < 6


def test_importing_the_metrics_does_not_import_torch() -> None:
    code = "import sys, harness.metrics.exact; assert not {'torch', 'sklearn', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
