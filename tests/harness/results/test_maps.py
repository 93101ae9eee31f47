"""Kept maps: they come back to the last bit, so that no metric moves, and damage is noticed."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from harness.metrics.exact import split_metrics
from harness.metrics.spro import Annotated, Annotation, split_spro
from harness.results.maps import DamagedMapsError, load_maps, save_maps

Maps = NDArray[np.float32]
N, SIZE = 16, 192


def scene(seed: int, side: int = 30, lift: float = 2.0) -> tuple[Maps, NDArray[np.uint8]]:
    """Smooth maps as networks make them, upsampled; every second image has a defect that is lifted."""
    rng = np.random.default_rng(seed)
    maps, masks = np.empty((N, SIZE, SIZE), np.float32), np.zeros((N, SIZE, SIZE), np.uint8)
    for i in range(N):
        grid = cv2.resize(rng.gamma(2, 1, (24, 24)).astype(np.float32), (SIZE, SIZE))
        if i % 2:
            y, x = rng.integers(0, SIZE - side, 2)
            masks[i, y : y + side, x : x + side] = 1
            grid += np.float32(lift) * masks[i]
        maps[i] = cv2.GaussianBlur(grid, (0, 0), 4)
    return maps, masks


def noisy(maps: Maps) -> Maps:
    return maps + np.random.default_rng(1).normal(0, 0.5, maps.shape).astype(np.float32)


def cauchy(maps: Maps) -> Maps:
    return maps + np.random.default_rng(1).standard_cauchy(maps.shape).astype(np.float32)


KINDS: dict[str, Callable[[Maps], Maps]] = {
    "smooth": lambda maps: maps,
    "noisy": noisy,
    "heavy-tailed": lambda maps: np.exp(maps),
    "two heavy tails": cauchy,
    "large offset": lambda maps: maps + np.float32(1e4),
    "huge offset": lambda maps: maps - np.float32(1e7),
    "tiny": lambda maps: maps * np.float32(1e-38),
    "few values": lambda maps: np.round(2 * maps),
    "many ties": lambda maps: np.maximum(maps - 2, 0),
    "ties in the middle": lambda maps: np.where(abs(maps - 2) < 0.5, np.float32(2), maps),
    "ties at the top": lambda maps: np.minimum(maps, np.float32(3)),
    "constant": lambda maps: np.full_like(maps, 7),
}


def through_file(path: Path, maps: Maps) -> tuple[Maps, float]:
    scores = maps.max(axis=(1, 2))
    save_maps(path, maps, scores)
    found, found_scores = load_maps(path)
    assert (found.dtype, found.shape) == (np.float32, maps.shape)
    assert found_scores.tobytes() == scores.tobytes()
    return found, path.stat().st_size / maps.size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("side", "lift"), [(30, 2.0), (3, 60.0), (30, 50.0)], ids=["plain", "small", "clear"]
)
def test_no_bit_moves_and_the_size_has_its_bound(tmp_path: Path, kind: str, side: int, lift: float) -> None:
    maps = KINDS[kind](scene(0, side, lift)[0])
    kept, bytes_a_pixel = through_file(tmp_path / "k.maps.safetensors", maps)
    assert kept.tobytes() == maps.tobytes()
    # A gigabyte for the 1,568 test images of MVTec LOCO at 256 pixels would be 9.7.
    assert bytes_a_pixel < 4.01


@pytest.mark.parametrize("kind", KINDS)
def test_no_metric_of_a_split_with_few_anomalous_pixels_moves(tmp_path: Path, kind: str) -> None:
    maps, masks = scene(3)
    masks[1::4, ...] = 0
    masks[1::4, 40:43, 50:56] = 1
    maps = KINDS[kind](maps)
    kept, _ = through_file(tmp_path / "k.maps.safetensors", maps)
    kinds = ["normal" if i % 2 == 0 else "few" if i % 4 == 1 else "many" for i in range(N)]

    def metrics(own: Maps) -> list[dict[str, dict[str, float]]]:
        annotated = [
            Annotated(image, kind, [Annotation(mask, 5)] if mask.any() else [])
            for image, kind, mask in zip(own, kinds, masks, strict=True)
        ]
        found = split_metrics(own.max(axis=(1, 2)), own, kinds, masks, ["few", "many"])
        return [found, split_spro(annotated, ["few", "many"])]

    assert metrics(kept) == metrics(maps)


def test_odd_values_and_shapes_come_back(tmp_path: Path) -> None:
    odd = [0.0, -0.0, 1e-45, -1e-45, 3.4e38, -3.4e38, 1.0, np.nextafter(np.float32(1), np.float32(2))]
    for shape in ((2, 2, 2), (1, 1, 8), (8, 1, 1), (1, 8, 1), (4, 1, 2)):
        maps = np.array(odd, np.float32).reshape(shape)
        assert through_file(tmp_path / "k", maps)[0].tobytes() == maps.tobytes()
    whatever = np.random.default_rng(0).integers(0, 0x7F800000, (3, 5, 7), dtype=np.uint32).view(np.float32)
    assert through_file(tmp_path / "k", whatever)[0].tobytes() == whatever.tobytes()
    # Maps of a method need be neither contiguous nor in the processor's order of rows.
    turned = scene(1)[0].transpose(0, 2, 1)
    assert (through_file(tmp_path / "k", turned)[0] == turned).all()


def test_files_of_the_second_format_are_read(tmp_path: Path) -> None:
    levels = np.array([-2.5, 0, 1, 70_000], np.float32)
    codes = np.random.default_rng(0).integers(0, len(levels), (3, 4, 5)).astype(np.uint16)
    planes = b""
    for image in codes:
        change = np.diff(np.diff(image, axis=1, prepend=np.uint16(0)), axis=0, prepend=np.uint16(0))
        planes += (change >> 8).astype(np.uint8).tobytes() + change.astype(np.uint8).tobytes()
    scores = np.array([1, 2, 3], np.float32)
    arrays = {"codes": np.frombuffer(zlib.compress(planes), np.uint8), "levels": levels, "scores": scores}
    sums = zlib.crc32(scores.tobytes() + levels.tobytes())
    described = {"format": "ranked-16", "shape": "3,4,5", "crc32": f"{sums:08x}"}
    save_file(arrays, tmp_path / "k", described)
    maps, found = load_maps(tmp_path / "k")
    assert maps.tobytes() == levels[codes].tobytes()
    assert found.tobytes() == scores.tobytes()
    save_file(arrays, tmp_path / "k", described | {"crc32": "0"})
    with pytest.raises(DamagedMapsError, match="checksum"):
        load_maps(tmp_path / "k")
    save_file(arrays, tmp_path / "k", described | {"format": "of tomorrow"})
    with pytest.raises(DamagedMapsError, match="unknown format 'of tomorrow'"):
        load_maps(tmp_path / "k")


def test_files_of_the_first_format_are_read(tmp_path: Path) -> None:
    maps, _ = scene(1)
    scores = maps.max(axis=(1, 2))
    save_file({"maps": maps, "scores": scores}, tmp_path / "k")
    found = load_maps(tmp_path / "k")
    assert (found[0] == maps).all()
    assert (found[1] == scores).all()


def test_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "k.maps.safetensors"
    with pytest.raises(DamagedMapsError, match="no maps were kept"):
        load_maps(path)
    maps, _ = scene(2)
    save_maps(path, maps, maps.max(axis=(1, 2)))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in [*rng.integers(0, len(whole), 60), *range(0, 300, 10)]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        try:  # a flipped bit may fall on a space of the header, or into zlib's own bits without a meaning
            found = load_maps(path)[0]
        except DamagedMapsError:
            continue
        assert (found == maps).all(), at
    for end in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(DamagedMapsError):
            load_maps(path)
    save_file({"maps": maps.astype(np.float64), "scores": maps[:, 0, 0]}, path)
    with pytest.raises(DamagedMapsError, match="float32"):
        load_maps(path)
