"""The cache folder: everything in it is known, and what is made again can go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.common.cache import OTHER, cache_entries, clear_cache
from harness.data.image_cache import load_images
from harness.spec.protocols import ImageFit
from tests.harness.places import TRAINED, bench, inside, make_place


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with something of each kind, and a file of somebody else's."""
    cache = tmp_path / "cache"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    load_images([tmp_path / "a.png"], ImageFit(8), cache)
    for name in (
        "demo-1/a.png",
        "records-1.cache",
        "seen/1.json",
        "weights/w.safetensors",
        "assets/dtd/a.png",
    ):
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(b"12345")
    (cache / "not-ours").touch()
    return cache


def test_everything_has_its_kind(cache: Path) -> None:
    kinds = {entry.path.name: entry.kind for entry in cache_entries(cache)}
    (array,) = (name for name in kinds if name.startswith("images-"))
    assert kinds == {
        array: "decoded images",
        "hashes.sqlite": "hashes of files",
        "demo-1": "the demo",
        "records-1.cache": "copies of records",
        "1.json": "copies of records",
        "w.safetensors": "downloaded weights",
        "dtd": "downloaded assets",
        "not-ours": OTHER,
    }


def test_clearing_leaves_downloads_and_what_is_not_ours(cache: Path) -> None:
    count, size = clear_cache(cache)
    assert (count, size > 15) == (5, True)
    assert {entry.path.name for entry in cache_entries(cache)} == {"w.safetensors", "dtd", "not-ours"}
    assert clear_cache(cache, downloads=True) == (2, 10)
    assert [entry.path.name for entry in cache_entries(cache)] == ["not-ours"]


def test_a_run_leaves_nothing_that_the_cache_does_not_know(tmp_path: Path) -> None:
    place = make_place(tmp_path)
    with inside(place):
        assert bench("run", "--methods", "mine.py:Mine", *TRAINED).exit_code == 0
        assert bench("report").exit_code == 0
        said = bench("cache")
        assert "decoded images: " in said.output
        assert OTHER not in {entry.kind for entry in cache_entries(place / "cache")}
        assert bench("cache", "clear").exit_code == 0
        assert bench("cache").output.strip().endswith(": 0 entries, 0.0 MB")
