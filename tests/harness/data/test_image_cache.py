"""Decoding, resizing, and the cache of decoded arrays."""

from __future__ import annotations

import multiprocessing
import os
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from harness.common import files
from harness.common.errors import UserError
from harness.data import decoding, file_hashes
from harness.data import image_cache as images
from harness.data.samples import CategoryData, Sample
from harness.spec.protocols import ImageFit

RNG = np.random.default_rng(5)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = []
    for i in range(4):
        path = tmp_path / "data" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (50 + i, 60, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    return paths


def arrays(cache: Path) -> list[Path]:
    return sorted((cache / "images").iterdir())


def test_resize_equals_pillow_and_opencv(photos: list[Path], tmp_path: Path) -> None:
    antialiased = images.load_images(photos, ImageFit(16, "antialiased"), tmp_path)
    opencv = images.load_images(photos, ImageFit(16, "opencv"), tmp_path)
    assert antialiased.shape == (4, 16, 16, 3)
    assert antialiased.dtype == np.uint8
    for i, path in enumerate(photos):
        image = Image.open(path)
        np.testing.assert_array_equal(
            antialiased[i], np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR))
        )
        np.testing.assert_array_equal(opencv[i], cv2.resize(np.asarray(image), (16, 16)))
    assert (antialiased != opencv).any()


def test_every_mode_becomes_rgb(tmp_path: Path) -> None:
    grey = RNG.integers(0, 256, (9, 7), dtype=np.uint8)
    colour = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    wide = grey.astype(np.uint16) * 257

    def read(image: Image.Image, name: str) -> np.ndarray:
        path = tmp_path / name
        image.save(path)
        return decoding.read_rgb(path)

    tripled = np.repeat(grey[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(read(Image.fromarray(grey), "l.bmp"), tripled)
    np.testing.assert_array_equal(read(Image.fromarray(wide), "w.png"), tripled)
    np.testing.assert_array_equal(read(Image.fromarray(wide), "w.tif"), tripled)
    np.testing.assert_array_equal(read(Image.fromarray(colour), "c.BMP"), colour)
    palette = Image.fromarray(colour).quantize(16)
    np.testing.assert_array_equal(read(palette, "p.png"), np.asarray(palette.convert("RGB")))
    alpha = np.dstack([colour, grey])
    np.testing.assert_array_equal(read(Image.fromarray(alpha), "a.png"), colour)
    inked = Image.fromarray(colour).convert("CMYK")
    np.testing.assert_array_equal(read(inked, "k.tif"), np.asarray(inked.convert("RGB")))
    np.testing.assert_array_equal(read(Image.fromarray(grey > 9), "1.png"), np.where(tripled > 9, 255, 0))
    with pytest.raises(UserError, match="floating-point"):
        read(Image.fromarray(grey.astype(np.float32)), "f.tif")


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "turned.jpg", exif=exif)
    assert decoding.read_rgb(tmp_path / "turned.jpg").shape == (20, 10, 3)


def test_masks_unite_and_any_value_counts(tmp_path: Path) -> None:
    first, second = np.zeros((32, 24), np.uint8), np.zeros((32, 24), np.uint8)
    first[:8, :6] = 1  # labels as VisA writes them: 1, 2, 3 … and not 255
    second[16:, 12:] = 7
    Image.fromarray(first).save(tmp_path / "a.png")
    Image.fromarray(second).save(tmp_path / "b.bmp")
    groups = [[tmp_path / "a.png", tmp_path / "b.bmp"], [], [tmp_path / "b.bmp"]]
    masks = images.load_masks(groups, ImageFit(16), tmp_path)
    assert masks.dtype == np.uint8
    assert masks.sum(axis=(1, 2)).tolist() == [16 + 64, 0, 64]
    nearest = cv2.resize((first > 0).astype(np.uint8), (16, 16), interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(masks[0] - masks[2], nearest)
    coloured = np.zeros((4, 4, 3), np.uint8)
    coloured[0, 0] = (0, 0, 1)
    Image.fromarray(coloured).save(tmp_path / "c.png")
    assert decoding.read_mask(tmp_path / "c.png").sum() == 1


def test_nothing_to_load(tmp_path: Path) -> None:
    assert images.load_images([], ImageFit(8, "opencv"), tmp_path).shape == (0, 8, 8, 3)
    assert images.load_masks([[], []], ImageFit(8), tmp_path).sum() == 0


def test_unreadable_files_are_named(
    tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = photos[1].read_bytes()
    photos[1].write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image")
    for path in (photos[1], tmp_path / "empty.png", tmp_path / "text.png"):
        with pytest.raises(UserError, match=path.name):
            images.load_images([photos[0], path], ImageFit(16, "antialiased"), tmp_path / "cache")
    with pytest.raises(UserError, match=r"gone\.png"):
        images.content_hashes([tmp_path / "gone.png"], tmp_path)
    assert not list((tmp_path / "cache/images").iterdir())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="too many pixels"):
        decoding.read_rgb(photos[0])


def png(path: Path, width: int, height: int) -> Path:
    """A PNG file whose header claims a size, with hardly anything behind it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + body)
    return path


@pytest.mark.parametrize(
    ("width", "height"), [(60_000, 60_000), (10_000, 10_000), (100_000, 1), (1, 100_000)]
)
def test_bombs_are_refused_by_their_header(tmp_path: Path, width: int, height: int) -> None:
    path = png(tmp_path / "bomb.png", width, height)
    for read in (decoding.read_rgb, decoding.read_mask, decoding.image_size):
        with pytest.raises(UserError, match=r"bomb\.png has too many pixels"):
            read(path)


def test_several_images_in_one_file_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(3)]
    for name in ("moving.png", "pages.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(UserError, match=f"{name} holds 3 images: save the one that counts by itself"):
            decoding.read_rgb(tmp_path / name)


@pytest.mark.parametrize("kind", ["EPS", "GIF", "PDF", "WEBP"])
def test_only_the_formats_of_the_suffixes_are_read(tmp_path: Path, kind: str) -> None:
    """Pillow starts Ghostscript for an EPS file, whatever its name."""
    path = tmp_path / "image.png"
    Image.new("RGB", (8, 8)).save(path, kind)
    with pytest.raises(UserError, match=r"image\.png cannot be read as an image"):
        decoding.read_rgb(path)


def test_decoded_once_and_shared_by_content(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = images.load_images(photos, ImageFit(16, "opencv"), cache)
    twin = tmp_path / "twin.png"
    twin.write_bytes(photos[0].read_bytes())
    monkeypatch.setattr(images, "read_resized", lambda *_: pytest.fail("decoded again"))
    again = images.load_images([twin, *photos[1:]], ImageFit(16, "opencv"), cache)
    np.testing.assert_array_equal(first, again)
    assert not again.flags.writeable
    assert len(arrays(cache)) == 1


def test_changed_file_is_noticed(photos: list[Path], tmp_path: Path) -> None:
    before = images.load_images(photos, ImageFit(16, "opencv"), tmp_path)[0].copy()
    Image.new("RGB", (60, 50)).save(photos[0])
    assert (images.load_images(photos, ImageFit(16, "opencv"), tmp_path)[0] != before).any()


def test_hashes_are_remembered(photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = time.time() - 100
    for path in photos:
        os.utime(path, (old, old))
    hashes = images.content_hashes([*photos, photos[0]], tmp_path)
    assert hashes[0] == hashes[-1]
    assert len(set(hashes)) == 4
    monkeypatch.setattr(file_hashes, "_sha256", lambda _: pytest.fail("hashed again"))
    assert images.content_hashes(photos, tmp_path) == hashes[:4]


def test_damaged_memo_is_made_anew(photos: list[Path], tmp_path: Path) -> None:
    memo = tmp_path / "cache/hashes.sqlite"
    memo.parent.mkdir()
    memo.write_bytes(b"rubbish" * 1000)
    with pytest.warns(UserWarning, match="damaged"):
        hashes = images.content_hashes(photos, tmp_path / "cache")
    assert images.content_hashes(photos, tmp_path / "cache") == hashes


@pytest.mark.parametrize("damage", ["bit", "cut", "empty"])
def test_damaged_array_is_rebuilt(photos: list[Path], tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache"
    good = images.load_images(photos, ImageFit(16, "opencv"), cache).copy()
    (path,) = arrays(cache)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes({"bit": content, "cut": content[:-7], "empty": b""}[damage])
    with pytest.warns(UserWarning, match="damaged"):
        rebuilt = images.load_images(photos, ImageFit(16, "opencv"), cache)
    np.testing.assert_array_equal(rebuilt, good)
    assert arrays(cache) == [path]


def _load(paths: list[Path], cache: Path, barrier: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    for size in range(8, 24):
        images.load_images(paths, ImageFit(size, "antialiased"), cache)


def test_processes_build_at_once(photos: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    workers = [context.Process(target=_load, args=(photos, cache, barrier)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert len(arrays(cache)) == 16
    assert all(path.suffix == ".npy" for path in arrays(cache))


def test_leftovers_of_dead_processes_go(photos: list[Path], tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder = tmp_path / "images"
    folder.mkdir()
    gone = folder / f"key.0123abcd.{dead.pid}@{socket.gethostname()}.tmp"
    ours = folder / files.temporary_name("key")
    elsewhere = folder / f"key.0123abcd.{dead.pid}@another.tmp"
    for path in (gone, ours, elsewhere):
        path.touch()
    images.load_images(photos, ImageFit(8, "opencv"), tmp_path)
    assert (gone.exists(), ours.exists(), elsewhere.exists()) == (False, True, True)


def test_unusable_cache(photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="hashed again"), pytest.raises(UserError, match="BENCH_CACHE"):
        images.load_images(photos, ImageFit(8, "opencv"), tmp_path / "file")


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    assert files.cache_dir() == tmp_path
    monkeypatch.delenv("BENCH_CACHE")
    assert "ulsad-bench" in str(files.cache_dir())


def test_fingerprint_is_of_content_and_role(photos: list[Path], tmp_path: Path) -> None:
    a, b, c, d = photos
    data = CategoryData((Sample(a),), (), (Sample(b), Sample(c, (d,), "anomalous")))
    print_of = file_hashes.data_fingerprint(data, tmp_path)
    moved = tmp_path / "moved.png"
    moved.write_bytes(a.read_bytes())
    assert file_hashes.data_fingerprint(CategoryData((Sample(moved),), (), data.test), tmp_path) == print_of
    others = [
        CategoryData((), data.train, data.test),
        CategoryData((Sample(b),), (), data.test),
        CategoryData(data.train, (), (Sample(b), Sample(c, (d,), "logical"))),
        CategoryData(data.train, (), (Sample(b), Sample(c, (a,), "anomalous"))),
        CategoryData(data.train, (), (Sample(b), Sample(c, (), "anomalous"))),
    ]
    assert len({print_of, *(file_hashes.data_fingerprint(other, tmp_path) for other in others)}) == 6
