"""Each problem that the check of a dataset finds."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.checks.dataset.completeness import Problem, check_dataset
from harness.data.card import Card, load_card

CARD = """
schema = 1
title = "Own"
licence = "mine"
homepage = "https://example.org"
folders = ["own"]
[layout]
train = ["{category}/train/good/*"]
validation = ["{category}/validation/good/*"]
test = ["{category}/test/*/*"]
masks = ["{category}/ground_truth/{defect}/{stem}_mask.*"]
[[categories]]
name = "bolt"
train = 3
test = { normal = 2, anomalous = 2 }
"""


@pytest.fixture
def bolt(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "own/bolt"
    mask = np.zeros((12, 10), np.uint8)
    mask[3:5, 3:5] = 255
    names = [f"train/good/{i}.png" for i in range(3)]
    names += [f"test/{defect}/{i}.png" for defect in ("good", "dent") for i in range(2)]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(folder / name)
    (folder / "ground_truth/dent").mkdir(parents=True)
    for i in range(2):
        Image.fromarray(mask).save(folder / f"ground_truth/dent/{i}_mask.png")
    return folder


def card(tmp_path: Path) -> Card:
    path = tmp_path / "own.toml"
    path.write_text(CARD)
    return load_card(path)


def check(tmp_path: Path, categories: list[str] | None = None) -> list[Problem]:
    return check_dataset(card(tmp_path), categories, tmp_path, tmp_path / "cache")


def only(problems: list[Problem]) -> Problem:
    assert len(problems) == 1, problems
    return problems[0]


def test_sound_dataset(tmp_path: Path, bolt: Path) -> None:
    assert check(tmp_path) == []


def test_missing_folders(tmp_path: Path) -> None:
    assert "tried own" in only(check(tmp_path)).message
    (tmp_path / "own").mkdir()
    problem = only(check(tmp_path))
    assert problem.category == "bolt"
    assert "is not in" in problem.message
    assert "no category 'nut'" in only(check(tmp_path, ["nut"])).message


def test_wrong_counts(tmp_path: Path, bolt: Path) -> None:
    (bolt / "train/good/0.png").unlink()
    (bolt / "test/good/0.png").unlink()
    (bolt / "validation/good").mkdir(parents=True)
    Image.new("L", (3, 3)).save(bolt / "validation/good/0.png")
    assert [(p.severity, p.message) for p in check(tmp_path)] == [
        ("error", "There are 2 training images; the card says 3."),
        ("error", "There are 1 validation images; the card says 0."),
        ("error", "There are 1 normal test images; the card says 2."),
    ]


def test_no_images_without_counts(tmp_path: Path, bolt: Path) -> None:
    for path in (bolt / "train/good").iterdir():
        path.unlink()
    path = tmp_path / "plain.toml"
    path.write_text(CARD.split("[[categories]]")[0])
    problem = only(check_dataset(load_card(path), None, tmp_path, tmp_path / "cache"))
    assert problem.message == "There is no training image."


@pytest.mark.parametrize("name", ["train/good/1.png", "test/dent/0.png", "ground_truth/dent/0_mask.png"])
def test_truncated_and_unreadable(tmp_path: Path, bolt: Path, name: str) -> None:
    content = (bolt / name).read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"text"):
        (bolt / name).write_bytes(damaged)
        problem = only(check(tmp_path))
        assert (problem.severity, problem.path) == ("error", bolt / name)
        assert name in problem.message


def test_image_without_mask(tmp_path: Path, bolt: Path) -> None:
    (bolt / "ground_truth/dent/1_mask.png").unlink()
    problem = only(check(tmp_path))
    assert (problem.severity, problem.path) == ("error", bolt / "test/dent/1.png")


def test_mask_without_image(tmp_path: Path, bolt: Path) -> None:
    stray = bolt / "ground_truth/dent/7_mask.png"
    stray.write_bytes((bolt / "ground_truth/dent/1_mask.png").read_bytes())
    problem = only(check(tmp_path))
    assert (problem.severity, problem.path) == ("warning", stray)


def test_mask_of_another_size(tmp_path: Path, bolt: Path) -> None:
    Image.new("L", (12, 10), 255).save(bolt / "ground_truth/dent/1_mask.png")
    problem = only(check(tmp_path))
    assert problem.severity == "error"
    assert "12×10" in problem.message
    assert "10×12" in problem.message


def test_empty_mask(tmp_path: Path, bolt: Path) -> None:
    Image.new("L", (10, 12)).save(bolt / "ground_truth/dent/1_mask.png")
    problem = only(check(tmp_path))
    assert (problem.severity, problem.path) == ("warning", bolt / "ground_truth/dent/1_mask.png")


def test_training_image_among_the_test_images(tmp_path: Path, bolt: Path) -> None:
    (bolt / "test/good/1.png").write_bytes((bolt / "train/good/2.png").read_bytes())
    problem = only(check(tmp_path))
    assert (problem.severity, problem.path) == ("warning", bolt / "test/good/1.png")
    assert "2.png" in problem.message


@pytest.mark.skipif("BENCH_SHARED" not in os.environ, reason="BENCH_SHARED does not point to real data")
@pytest.mark.parametrize(("name", "category"), [("mpdd", "metal_plate"), ("mvtec", "screw")])
def test_real_category_has_no_error(name: str, category: str, tmp_path: Path) -> None:
    root = Path(os.environ["BENCH_SHARED"]) / "data"
    assert check_dataset(load_card(name), [category], root, tmp_path) == []
