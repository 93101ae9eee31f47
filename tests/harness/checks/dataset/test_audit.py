"""What the audit of data finds is what was planted, and nothing else."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image, ImageEnhance

from harness.checks.dataset.image_features import phash
from harness.checks.dataset.shifts import shifts
from harness.cli.main import main
from harness.data.samples import Sample
from tests.reports.browser import opened

CARD = """
schema = 1
title = "Own"
licence = "mine"
homepage = "https://example.org"
folders = ["own"]
[layout]
train = ["{category}/train/good/*"]
test = ["{category}/test/*/*"]
masks = ["{category}/ground_truth/{defect}/{stem}.png"]
"""
SIZE = 256


def photograph(number: int, light: float = 0.0) -> Image.Image:
    """One part under one camera: the same bright disc with a grain of its own."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    disc = 90 + 80 * (np.hypot(x, y) < SIZE / 3)
    grain = cv2.GaussianBlur(rng.normal(0, 200, (SIZE, SIZE)), (0, 0), 4)
    return Image.fromarray(np.clip(disc + grain + light, 0, 255).astype(np.uint8)).convert("RGB")


def square(share: float = 0.05) -> Image.Image:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    side = round(SIZE * share**0.5)
    mask[:side, :side] = 255
    return Image.fromarray(mask)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    (root / "own.toml").write_text(CARD)
    folder = root / "own/part"
    names = [f"train/good/{i:02}" for i in range(12)]
    names += [f"test/{defect}/{i:02}" for defect in ("good", "dent") for i in range(6)]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        photograph(number).save(folder / f"{name}.png")
    (folder / "ground_truth/dent").mkdir(parents=True)
    (folder / "ground_truth/good").mkdir()
    for i in range(6):
        square().save(folder / f"ground_truth/dent/{i:02}.png")
    return root


@pytest.fixture
def part(sound: Path, tmp_path: Path) -> Path:
    """A category in which nothing is wrong: twelve training, six normal and six anomalous test images."""
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    return tmp_path / "own/part"


@pytest.fixture
def audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))

    def call(*words: object) -> Result:
        place = ("--data-root", tmp_path, "-o", tmp_path / "audit.html")
        given = [str(word) for word in ("data", "audit", tmp_path / "own.toml", *place, *words)]
        return CliRunner().invoke(main, given, catch_exceptions=False)

    return call


def found(result: Result) -> list[str]:
    assert result.exit_code == 0, result.stderr
    return [line for line in result.stdout.splitlines() if line.startswith("own/part: ")]


def test_sound_data_has_no_finding(part: Path, tmp_path: Path, audit: Callable[..., Result]) -> None:
    result = audit()
    assert found(result) == []
    assert re.search(r"own/part +12 +0 +12 +0 +0 +0\n", result.stdout)
    assert "Nothing was found." in (tmp_path / "audit.html").read_text()


def as_jpeg(image: Image.Image, path: Path) -> None:
    image.save(path.with_suffix(".jpg"), quality=75)


def as_smaller(image: Image.Image, path: Path) -> None:
    image.resize((SIZE // 2, SIZE // 2), Image.Resampling.BICUBIC).save(path)


def as_brighter(image: Image.Image, path: Path) -> None:
    ImageEnhance.Brightness(image).enhance(1.08).save(path)


@pytest.mark.parametrize("save", [as_jpeg, as_smaller, as_brighter])
def test_copies_are_found_however_they_were_saved(
    part: Path, audit: Callable[..., Result], save: Callable[[Image.Image, Path], None]
) -> None:
    (part / "test/good/03.png").unlink()
    save(photograph(7), part / "test/good/03.png")
    (line,) = (line for line in found(audit()) if "shift: resolution" not in line)
    assert re.search(r"duplicate: test image part/test/good/03\.\w+ is nearly the training image", line)
    assert "part/train/good/07.png" in line


def test_a_training_image_that_is_there_twice_is_said_once(part: Path, audit: Callable[..., Result]) -> None:
    photograph(2).save(part / "train/good/11.png")
    (line,) = found(audit())
    assert "training image part/train/good/02.png is nearly the training image part/train/good/11.png" in line


def soft(share: float) -> Image.Image:
    return square(share).resize((SIZE // 8, SIZE // 8)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("where", "mask", "said"),
    [
        ("dent/00", square(0.0), "part/test/dent/00.png is anomalous, but its mask marks nothing"),
        ("dent/01", square(0.8), "part/test/dent/01.png has a mask over 80 % of it"),
        ("good/02", square(), "part/test/good/02.png is normal, but has a mask that marks something"),
        ("dent/03", square().resize((48, 24), 0), "has a mask of 48×24 pixels, but is 256×256 itself"),
        ("dent/04", soft(0.2), "soft edges count as anomalous up to the faintest"),
        ("dent/05", square().point(lambda v: v and 2).convert("L"), ""),
    ],
)
def test_odd_masks_are_found(
    part: Path, audit: Callable[..., Result], where: str, mask: Image.Image, said: str
) -> None:
    mask.save(part / f"ground_truth/{where}.png")
    lines = found(audit())
    assert len(lines) == bool(said)
    assert not said or said in lines[0]


def test_labels_in_a_mask_are_listed_and_a_missing_mask_said(
    part: Path, audit: Callable[..., Result]
) -> None:
    labels = np.asarray(square()).copy()
    labels[0, :4] = 1
    Image.fromarray(labels).save(part / "ground_truth/dent/00.png")
    (part / "ground_truth/dent/01.png").unlink()
    first, second = found(audit())
    assert first.endswith("has a mask with the values 1, 255: each counts as anomalous")
    assert second.endswith("mask: part/test/dent/01.png has no mask")


def test_the_limit_of_masks_can_be_set(part: Path, audit: Callable[..., Result]) -> None:
    assert len(found(audit("--max-mask", "3"))) == 6


def test_another_exposure_is_a_shift(part: Path, audit: Callable[..., Result]) -> None:
    for i in range(6):
        photograph(12 + i, light=12).save(part / f"test/good/{i:02}.png")
    lines = found(audit())
    assert "shift: brightness, training → normal test" in lines[0]
    assert "δ = +1.00" in lines[0]


def test_another_exposure_of_defects_gives_them_away(part: Path, audit: Callable[..., Result]) -> None:
    for i in range(12):
        photograph(12 + i).save(part / f"test/good/{i:02}.png")
        photograph(24 + i, light=-12).save(part / f"test/dent/{i:02}.png")
        square().save(part / f"ground_truth/dent/{i:02}.png")
    (line,) = found(audit())
    assert "brightness, normal test → anomalous test" in line
    assert line.endswith("alone an image AUROC of 100 %")


def test_a_tiny_shift_of_many_images_is_none() -> None:
    def group(mean: float, scatter: float, seed: int) -> list[Seen]:
        return [Seen(v) for v in np.random.default_rng(seed).normal(mean, scatter, 2000)]

    before = ("training", group(120, 10, 0))
    few, steady, large = (
        next(shifts(before, ("normal test", after)))
        for after in (group(122, 10, 1), group(122, 0.1, 2), group(130, 10, 3))
    )
    assert few.p < 1e-6
    assert abs(few.delta) < 0.2
    assert [few.large, steady.large, large.large] == [False, False, True]
    narrow = next(shifts(("training", group(120, 0.1, 0)), ("normal test", group(121, 0.1, 1))))
    assert narrow.delta > 0.99
    assert not narrow.large, "no network sees one grey level of 255"


class Seen:
    """An image of which only the exposure counts."""

    sample = Sample(Path("x"))

    def __init__(self, brightness: float) -> None:
        self.brightness, self.contrast, self.size = brightness, 30.0, (SIZE, SIZE)


def test_another_resolution_is_a_shift(part: Path, audit: Callable[..., Result]) -> None:
    for i in range(6):
        photograph(12 + i).resize((2 * SIZE, SIZE)).save(part / f"test/good/{i:02}.png")
    (line,) = (line for line in found(audit()) if "resolution" in line)
    assert "6 of 6 normal test images have a size that no training image has, e.g. 512×256" in line


def test_the_hash_is_the_low_frequencies() -> None:
    one = photograph(0).convert("L")
    assert phash(one).shape == (63,)
    assert (phash(one) != phash(ImageEnhance.Brightness(one).enhance(0.8))).sum() <= 2
    assert (phash(one) != phash(one.transpose(Image.Transpose.ROTATE_90))).sum() > 10


def test_what_cannot_be_read_is_a_sentence(part: Path, tmp_path: Path, audit: Callable[..., Result]) -> None:
    (part / "train/good/00.png").write_bytes(b"nothing")
    result = audit()
    assert result.exit_code == 2
    assert "train/good/00.png cannot be read as an image" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "audit.html").exists()
    result = audit("--categories", "nut")
    assert (result.exit_code, "no category 'nut'" in result.stderr) == (2, True)


def test_the_page_shows_pictures_and_asks_no_network(
    part: Path, tmp_path: Path, audit: Callable[..., Result]
) -> None:
    photograph(7).save(part / "test/good/03.png")
    square(0.9).save(part / "ground_truth/dent/01.png")
    (part / "test/dent/01.png").rename(part / "test/dent/<b>.png")
    (part / "ground_truth/dent/01.png").rename(part / "ground_truth/dent/<b>.png")
    assert len(found(audit())) == 2
    with opened(tmp_path / "audit.html", viewport={"width": 390, "height": 800}) as tab:
        assert tab.locator(".findings li").count() == 2
        assert tab.locator("figure img").count() == 3
        assert tab.evaluate("[...document.images].every(i => i.complete && i.naturalWidth === 176)")
        assert "<b>.png has a mask over 90 % of it" in tab.inner_text("body")
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
