"""Views of maps: curves whose areas are the metrics, and pictures that tell high from low."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from harness.data.samples import Sample
from harness.execution.keep import ShownImages, keep_pictures, keep_view
from harness.metrics.curves import curve
from harness.metrics.exact import LIMIT, pixel_metrics
from harness.results.artefacts import pictures_path, view_path
from harness.results.category_pictures import load_pictures
from harness.results.map_views import View, load_view
from harness.spec.protocols import ImageFit
from tests.harness.results.test_maps import KINDS, Maps, scene


def area(x: NDArray[np.float64], y: NDArray[np.float64], limit: float) -> float:
    """The area under a curve up to a limit, divided by it: from the definition."""
    inside = x < limit
    x, y = np.append(x[inside], limit), np.append(y[inside], np.interp(limit, x, y))
    return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum() / limit)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("side", "lift"), [(30, 2.0), (3, 60.0), (30, 0.0)], ids=["plain", "small", "none"])
def test_areas_under_the_curves_are_the_metrics(kind: str, side: int, lift: float) -> None:
    maps, masks = scene(0, side, lift)
    maps = KINDS[kind](maps)
    false, true, overlap = curve(maps, masks).astype(np.float64)
    found = pixel_metrics(maps, masks)
    assert area(false, true, 1.0) == pytest.approx(found["pixel_auroc"], abs=5e-4)
    assert area(false, overlap, LIMIT) == pytest.approx(found["aupro"], abs=5e-4)
    for rates in (false, true, overlap):
        assert (rates[0], rates[-1]) == (0, 1)
        assert (np.diff(rates) >= 0).all()


def test_points_by_hand() -> None:
    maps = np.array([[[9, 8, 0, 7], [0, 0, 0, 0]], [[1, 1, 6, 1], [1, 1, 6, 1]]], np.float32)
    masks = np.zeros((2, 2, 4), np.uint8)
    masks[0, 0, 0] = masks[0, 0, 3] = 1  # two regions of a pixel each: 9 and 7
    masks[1, 0, 1:3] = 1  # one region of two pixels: 1 and 6
    points = {tuple(np.round(p, 4).tolist()) for p in curve(maps, masks).T.astype(float)}
    normal = 12
    expected = {
        (0, 1 / 4, 1 / 3),  # above the highest normal value, 8
        (1 / normal, 1 / 4, 1 / 3),  # with it
        (1 / normal, 2 / 4, 2 / 3),  # above the next, 6: with the 7
        (2 / normal, 3 / 4, 2.5 / 3),  # with it: one of the two sixes is anomalous
        (7 / normal, 1, 1),  # with the ones
    }
    assert {tuple(np.round(p, 4).tolist()) for p in expected} <= points, points
    for some in (np.zeros_like(masks), np.ones_like(masks)):
        assert curve(maps, some).shape == (3, 0)


def keep(folder: Path, maps: Maps) -> tuple[Path, View | None]:
    samples = []
    for n in range(len(maps)):
        image, mask = folder / f"{n}.png", folder / f"{n}-mask.png"
        Image.fromarray(np.full((*maps.shape[1:], 3), 10 * n, np.uint8)).save(image)
        drawn = np.zeros(maps.shape[1:], np.uint8)
        drawn[3:5, 4] = 255
        Image.fromarray(drawn).save(mask)
        samples.append(Sample(image, (mask,), "structural", "scratch"))
    record = folder / "a" / "b" / "key.json"
    keep_view(
        record,
        maps,
        maps.max(axis=(1, 2)),
        ShownImages(samples, "data", ImageFit(maps.shape[1], "opencv"), folder / "cache"),
    )
    return record, load_view(view_path(record))


def test_pictures_have_the_size_of_maps_and_one_scale(tmp_path: Path) -> None:
    maps = np.zeros((2, 320, 320), np.float32)
    maps[1, 100:200, 100:200] = 5
    record, view = keep(tmp_path, maps)
    assert view is not None
    assert view.grey(0).shape == (320, 320)
    assert view.grey(0).max() < 4
    assert view.grey(1)[110:190, 110:190].min() > 250
    assert view.scores.tolist() == [0, 5]
    pictures = load_pictures(pictures_path(record, "data", 320, "opencv"))
    assert pictures is not None
    (folder,) = (tmp_path / "a").glob("*.images.safetensors")
    assert folder.parent == record.parent.parent
    with Image.open(tmp_path / "1-mask.png") as mask:
        kept = Image.open(io.BytesIO(pictures.masks[1]))
        assert np.array_equal(np.asarray(kept.convert("L")), np.asarray(mask))


def test_smaller_pictures_of_an_earlier_version_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.images.safetensors"
    path.write_bytes(b"no tensors")
    image = tmp_path / "0.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(image)
    samples = [Sample(image, (), "normal", "")]
    keep_pictures(path, samples, ImageFit(64, "opencv"), tmp_path / "cache")
    written = path.stat().st_mtime_ns
    assert load_pictures(path) is not None
    keep_pictures(path, samples, ImageFit(64, "opencv"), tmp_path / "cache")
    assert path.stat().st_mtime_ns == written


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize("fault", [Path.unlink, _cut, lambda path: path.write_bytes(b"no tensors")])
def test_a_damaged_view_is_as_if_missing(tmp_path: Path, fault: Callable[[Path], object]) -> None:
    record, view = keep(tmp_path, np.random.default_rng(0).random((2, 16, 16), np.float32))
    assert view is not None
    fault(view_path(record))
    assert load_view(view_path(record)) is None
