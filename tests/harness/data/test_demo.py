"""The demo dataset: made the same everywhere, and rebuilt when damaged."""

from __future__ import annotations

import hashlib
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.checks.dataset.completeness import check_dataset
from harness.common.errors import UserError
from harness.data import demo
from harness.data.card import load_card
from harness.data.samples import read_category

SMALL = [(f"tray/train/good/{i:03d}.png", np.full((4, 4), i, np.uint8)) for i in range(5)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the pictures by a few tiny ones, for tests of the building itself."""

    def pictures() -> Iterator[tuple[str, np.ndarray]]:
        yield from SMALL

    digest = hashlib.sha256()
    for name, pixels in SMALL:
        digest.update(f"{name} {pixels.shape}".encode() + pixels.tobytes())
    monkeypatch.setattr(demo, "_pictures", pictures)
    monkeypatch.setattr(demo, "PIXELS_SHA256", digest.hexdigest())


def test_the_whole_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage")
    card = load_card("demo")
    # The building itself compares the pixels with the checksum; the counts are those of the card.
    assert check_dataset(card, None, None, tmp_path) == []
    root = demo.ensure_demo(tmp_path)
    assert root.parent == tmp_path
    for category, kinds in {"texture": {"structural"}, "tray": {"structural", "logical"}}.items():
        data = read_category(card, category, None, tmp_path)
        assert {sample.kind for sample in data.test} == {"normal", *kinds}
        for sample in data.test:
            assert Image.open(sample.image).size == (256, 256)
            for mask in sample.masks:
                share = (np.asarray(Image.open(mask)) > 0).mean()
                assert 0.0002 < share < 0.1, mask
    tray = read_category(card, "tray", None, tmp_path)
    assert max(len(sample.masks) for sample in tray.test) == 2
    monkeypatch.setattr(demo, "_pictures", lambda: pytest.fail("made again"))
    assert demo.ensure_demo(tmp_path) == root


@pytest.mark.usefixtures("small")
def test_damaged_demo_is_rebuilt(tmp_path: Path) -> None:
    root = demo.ensure_demo(tmp_path)
    image = root / SMALL[3][0]
    good = image.read_bytes()
    for damage in (lambda: image.write_bytes(b""), image.unlink, (root / "complete.json").unlink):
        damage()
        assert demo.ensure_demo(tmp_path) == root
        assert image.read_bytes() == good
        assert [path.name for path in tmp_path.iterdir()] == [root.name]


@pytest.mark.usefixtures("small")
def test_built_by_many_at_once(tmp_path: Path) -> None:
    demo.ensure_demo(tmp_path / "other")
    shutil.copytree(tmp_path / "other", tmp_path / "cache")
    (tmp_path / "cache/demo-1" / SMALL[0][0]).unlink()
    barrier = threading.Barrier(6)
    roots: list[Path] = []

    def build() -> None:
        barrier.wait()
        roots.append(demo.ensure_demo(tmp_path / "cache"))

    threads = [threading.Thread(target=build) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert roots == [tmp_path / "cache/demo-1"] * 6
    assert len(list(roots[0].rglob("*.png"))) == 5
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["demo-1"]


def test_other_pixels_and_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_pictures", lambda: iter(SMALL))
    with pytest.raises(UserError, match=r"other pixels.*ulsad-bench\[demo\]"):
        demo.ensure_demo(tmp_path)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with pytest.raises(UserError, match=r"pip install \"ulsad-bench\[demo\]\""):
        demo.ensure_demo(tmp_path)
    assert list(tmp_path.iterdir()) == []
