"""Kept maps: metrics cannot tell them from the original ones, and damage is noticed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from harness.maps import LEVELS, DamagedMapsError, load_maps, quantise, save_maps
from harness.metrics import pixel_metrics

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
    assert found_scores.tobytes() == scores.tobytes(), "scores are kept exactly"
    return found, path.stat().st_size / maps.size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("side", "lift"), [(30, 2.0), (3, 60.0), (30, 50.0)], ids=["plain", "small", "clear"]
)
def test_no_metric_moves_by_a_ten_thousandth(tmp_path: Path, kind: str, side: int, lift: float) -> None:
    maps, masks = scene(0, side, lift)
    maps = KINDS[kind](maps)
    kept, bytes_a_pixel = through_file(tmp_path / "k.maps.safetensors", maps)
    before, after = pixel_metrics(maps, masks), pixel_metrics(kept, masks)
    assert max(abs(after[name] - before[name]) for name in before) < 1e-4
    assert bytes_a_pixel < 2 + 4 * LEVELS / maps.size + 0.01
    # No order is ever turned round: along ascending values the kept ones ascend.
    assert (np.diff(kept.reshape(-1)[np.argsort(maps, axis=None)]) >= 0).all()


def test_few_distinct_values_are_kept_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(1e6, 1e-3, LEVELS).astype(np.float32)
    few = np.concatenate([values, rng.choice(values, 3 * LEVELS)]).reshape(4, 256, 256)
    for maps in (few, few[:1, :5, :7], np.zeros((1, 1, 1), np.float32)):
        kept, _ = through_file(tmp_path / "k", np.ascontiguousarray(maps))
        assert (kept == maps).all()


def test_no_level_holds_more_than_its_share_and_the_highest_stand_alone() -> None:
    maps = np.random.default_rng(0).permutation(np.arange(1 << 20, dtype=np.float32)).reshape(4, 512, 512)
    codes, levels = quantise(maps)
    assert len(levels) <= LEVELS
    assert (np.diff(levels) > 0).all()
    counts = np.bincount(codes.reshape(-1), minlength=len(levels))[::-1]
    assert counts.min() > 0
    assert (counts[:100] == 1).all()
    above = np.cumsum(counts) - counts
    assert (counts <= 2 + above / 9000).all()
    assert counts.max() < maps.size / 10_000


def test_a_frequent_value_shares_its_level_with_no_other() -> None:
    maps = np.random.default_rng(0).normal(size=(4, 512, 512)).astype(np.float32)
    maps[abs(maps) < 0.3] = 0.1
    codes, _ = quantise(maps)
    assert (maps[codes == codes[maps == np.float32(0.1)][0]] == np.float32(0.1)).all()


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
        assert (quantise(found)[0] == quantise(maps)[0]).all(), at
    for end in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(DamagedMapsError):
            load_maps(path)
    save_file({"maps": maps.astype(np.float64), "scores": maps[:, 0, 0]}, path)
    with pytest.raises(DamagedMapsError, match="float32"):
        load_maps(path)
