"""Cards and the reading of the five layouts, on tiny trees."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
from PIL import Image

from harness.common.errors import UserError
from harness.data.card import card_names, dataset_root, load_card
from harness.data.samples import on_disk, read_category

OWN = """
schema = 1
title = "Own"
licence = "mine"
homepage = "https://example.org"
folders = ["own"]
[layout]
train = ["{category}/train/good/*"]
test = ["{category}/test/*/*"]
masks = ["{category}/ground_truth/{defect}/{stem}_mask.*"]
"""


def picture(path: Path, value: int = 9) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), value).save(path)
    return path


def mvtec_tree(root: Path, category: str = "screw") -> Path:
    folder = root / category
    for name in ("001.png", "000.png"):
        picture(folder / "train/good" / name)
    picture(folder / "test/good/000.png")
    picture(folder / "test/scratch/000.PNG")
    picture(folder / "ground_truth/scratch/000_mask.png", 255)
    return folder


def own_card(tmp_path: Path, text: str = OWN) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(text)
    return path


def test_built_in_cards_have_the_official_totals() -> None:
    totals = {
        "btad": (1799, 0, {"anomalous": 290, "normal": 451}),
        "mpdd": (888, 0, {"anomalous": 282, "normal": 176}),
        "mvtec": (3629, 0, {"anomalous": 1258, "normal": 467}),
        "mvtec_loco": (1772, 304, {"structural": 432, "logical": 561, "normal": 575}),
        "visa": (8659, 0, {"anomalous": 1200, "normal": 962}),
    }
    assert set(card_names()) == {*totals, "demo"}
    for name, (train, validation, test) in totals.items():
        card = load_card(name)
        assert sum(c.train or 0 for c in card.categories) == train
        assert sum(c.validation for c in card.categories) == validation
        assert {kind: sum((c.test or {})[kind] for c in card.categories) for kind in test} == test
        assert card.licence_verified is (name != "btad")
        assert card.citation.startswith("@")


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("schema = 1", "schema = ", ["not valid TOML", "line 2"]),
        ("schema = 1", "schema = 2", ["'schema'"]),
        ('licence = "mine"', "", ["'licence'", "required"]),
        ("[layout]", "[layout]\nmask = 3", ["'layout.mask'"]),
        ('["own"]', '["../own"]', ["'folders.0'", "'..'"]),
        ('["own"]', '["/own"]', ["'folders.0'", "relative"]),
        ('["own"]', '["C:/own"]', ["'folders.0'", "relative"]),
        ("{stem}_mask", "{stm}_mask", ["'layout.masks.0'", "{stm}"]),
        ('"{category}/test/*/*"', '"{category}/../test/*/*"', ["'layout.test.0'", "'..'"]),
        ("[layout]", '[layout]\ncsv = "a.csv"', ["'layout'", "not both"]),
        ("[layout]", '[layout]\nkinds = { ok = "normal" }', ["'layout'", "into normal"]),
        ("[layout]", '[[categories]]\nname = "a"\n[[categories]]\nname = "a"\n[layout]', ["listed twice"]),
        ("[layout]", '[[categories]]\nname = "a"\ntrain = -1\n[layout]', ["'categories.0.train'"]),
        ('"{category}/test/*/*"', '"{category}/test/**a/*"', ["'layout.test.0'", "'**' must stand alone"]),
        ('"{category}/test/*/*"', '"{category}\\u0000/test/*"', ["'layout.test.0'", "null character"]),
        ("schema = 1", "schema = " + "[" * 5000, ["not valid TOML", "nested too deeply"]),
        ("schema = 1", "schema" + ".a" * 60_000 + " = 1", ["not valid TOML", "more than 64 parts"]),
        ("schema = 1", "schema = " + "1" * 5000, ["not valid TOML"]),
        ("schema = 1", "#" * 1_100_000, ["cannot be read", "larger than 1 MB"]),
    ],
)
def test_mistakes_in_cards_are_named(tmp_path: Path, old: str, new: str, parts: list[str]) -> None:
    path = own_card(tmp_path, OWN.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        load_card(path)
    for part in [str(path), *parts]:
        assert part in str(error.value)


def test_unknown_card() -> None:
    with pytest.raises(UserError, match="'mvtec'"):
        load_card("mvtek")
    with pytest.raises(UserError, match="cannot be read"):
        load_card("nowhere.toml")


def test_mvtec_and_mpdd(tmp_path: Path) -> None:
    for name in ("mvtec", "mpdd"):
        category = "screw" if name == "mvtec" else "tubes"
        folder = mvtec_tree(tmp_path / name, category)
        (folder / "train/good/notes.txt").write_text("no image")
        (folder / "train/good/._000.png").write_text("hidden")
        data = read_category(load_card(name), category, tmp_path)
        assert [s.image.name for s in data.train] == ["000.png", "001.png"]
        assert data.validation == ()
        assert [(s.kind, s.defect, len(s.masks)) for s in data.test] == [
            ("normal", "good", 0),
            ("anomalous", "scratch", 1),
        ]
        assert data.train[0].kind == "normal"


def test_other_folder_names(tmp_path: Path) -> None:
    mvtec_tree(tmp_path / "mvtec_anomaly_detection")
    assert len(read_category(load_card("mvtec"), "screw", tmp_path).test) == 2


def test_loco_unites_kinds_and_masks(tmp_path: Path) -> None:
    folder = tmp_path / "mvtec_loco" / "pushpins"
    picture(folder / "train/good/000.png")
    picture(folder / "validation/good/000.png")
    picture(folder / "test/good/000.png")
    for kind in ("structural_anomalies", "logical_anomalies"):
        picture(folder / "test" / kind / "000.png")
        picture(folder / "test" / kind / "001.png")
        for stem, count in (("000", 1), ("001", 3)):
            for number in range(count):
                picture(folder / "ground_truth" / kind / stem / f"{number:03d}.png", 200)
    data = read_category(load_card("mvtec_loco"), "pushpins", tmp_path)
    assert [(s.kind, s.image.stem, len(s.masks)) for s in data.test] == [
        ("normal", "000", 0),
        ("logical", "000", 1),
        ("logical", "001", 3),
        ("structural", "000", 1),
        ("structural", "001", 3),
    ]
    assert len(data.validation) == 1


@pytest.mark.parametrize(("image", "mask"), [("bmp", "png"), ("png", "bmp"), ("BMP", "bmp"), ("png", "png")])
def test_btad_suffixes(tmp_path: Path, image: str, mask: str) -> None:
    folder = tmp_path / "BTech_Dataset_transformed" / "01"
    picture(folder / f"train/ok/0000.{image}")
    picture(folder / f"test/ok/0000.{image}")
    picture(folder / f"test/ko/0000.{image}")
    wanted = picture(folder / f"ground_truth/ko/0000.{mask}", 255)
    picture(folder / f"ground_truth/ko/00001.{mask}", 255)
    data = read_category(load_card("btad"), "01", tmp_path)
    assert [(s.kind, s.masks) for s in data.test] == [("anomalous", (wanted,)), ("normal", ())]


def visa_tree(root: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    table = root / "split_csv/1cls.csv"
    table.parent.mkdir(parents=True)
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["object", "split", "label", "image", "mask"])
        writer.writerow(["pcb1", "train", "normal", "pcb1/Data/Images/Normal/0.JPG", ""])
        for row in rows:
            writer.writerow(["candle", *row])
            for path in row[2:]:
                if path and ".." not in path:
                    picture(root / path)
    return table


VISA = [
    ("train", "normal", "candle/Data/Images/Normal/2.JPG", ""),
    ("train", "normal", "candle/Data/Images/Normal/1.JPG", ""),
    ("test", "normal", "candle/Data/Images/Normal/0.JPG", ""),
    ("test", "anomaly", "candle/Data/Images/Anomaly/0.JPG", "candle/Data/Masks/Anomaly/0.png"),
]


def test_visa(tmp_path: Path) -> None:
    visa_tree(tmp_path / "visa", VISA)
    card = load_card("visa")
    data = read_category(card, "candle", tmp_path)
    assert [s.image.stem for s in data.train] == ["1", "2"]
    assert [(s.kind, s.masks) for s in data.test] == [
        ("anomalous", (tmp_path / "visa/candle/Data/Masks/Anomaly/0.png",)),
        ("normal", ()),
    ]
    with pytest.raises(UserError, match=r"'pcb1'.*is not in .*there: candle"):
        read_category(card, "pcb1", tmp_path)
    data.test[0].masks[0].unlink()
    with pytest.raises(UserError, match=r"Masks/Anomaly/0.png does not exist"):
        read_category(card, "candle", tmp_path)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("test", "normal", "../candle/0.JPG", ""), "may not contain"),
        (("tset", "normal", "candle/0.JPG", ""), "split 'tset'"),
        (("train", "anomaly", "candle/0.JPG", ""), "label 'anomaly'"),
    ],
)
def test_mistakes_in_the_csv(tmp_path: Path, row: tuple[str, str, str, str], words: str) -> None:
    visa_tree(tmp_path / "visa", [*VISA, row])
    with pytest.raises(UserError, match=words):
        read_category(load_card("visa"), "candle", tmp_path)


def test_csv_without_a_column(tmp_path: Path) -> None:
    visa_tree(tmp_path / "visa", VISA).write_text("object,split,image,mask\n")
    with pytest.raises(UserError, match="has no column 'label'"):
        read_category(load_card("visa"), "candle", tmp_path)


def test_missing_things_are_named(tmp_path: Path) -> None:
    card = load_card("mvtec")
    with pytest.raises(UserError, match="BENCH_DATA"):
        read_category(card, "screw", None)
    with pytest.raises(UserError, match=r"tried mvtec, .*--data-root"):
        read_category(card, "screw", tmp_path)
    folder = mvtec_tree(tmp_path / "mvtec")
    with pytest.raises(UserError, match=r"no category 'screws'\. Did you mean 'screw'"):
        read_category(card, "screws", tmp_path)
    with pytest.raises(UserError, match=r"'bottle' .*there: screw"):
        read_category(card, "bottle", tmp_path)
    (folder / "ground_truth/scratch/000_mask.png").unlink()
    with pytest.raises(UserError, match=r"scratch.000.PNG has no mask"):
        read_category(card, "screw", tmp_path)
    for image in (folder / "test").rglob("*.*"):
        image.unlink()
    with pytest.raises(UserError, match="No test image"):
        read_category(card, "screw", tmp_path)
    for image in (folder / "train").rglob("*.*"):
        image.unlink()
    with pytest.raises(UserError, match="No training image"):
        read_category(card, "screw", tmp_path)


def test_own_dataset(tmp_path: Path) -> None:
    card = load_card(own_card(tmp_path))
    assert card.name == "own"
    mvtec_tree(tmp_path / "own", "a [1]")  # brackets mean something in glob patterns
    mvtec_tree(tmp_path / "own", "b")
    data = read_category(card, "a [1]", tmp_path)
    assert (len(data.train), len(data.test), len(data.test[1].masks)) == (2, 2, 1)
    with pytest.raises(UserError, match="no category"):
        read_category(card, "..", tmp_path)
    assert dataset_root(card, tmp_path) == tmp_path / "own"


def test_what_is_on_disk_is_said(tmp_path: Path) -> None:
    mvtec = load_card("mvtec")
    assert on_disk(mvtec, None) == "unknown without --data-root or BENCH_DATA"
    assert on_disk(mvtec, tmp_path) == f"not in {tmp_path}"
    mvtec_tree(tmp_path / "mvtec", "screw")
    assert on_disk(mvtec, tmp_path) == f"1 of 15 categories (screw) in {tmp_path / 'mvtec'}"
    assert on_disk(load_card("demo"), tmp_path) == "made on first use"


@pytest.mark.skipif("BENCH_SHARED" not in os.environ, reason="BENCH_SHARED does not point to real data")
@pytest.mark.parametrize(("name", "category"), [("mpdd", "metal_plate"), ("mvtec", "screw")])
def test_real_category(name: str, category: str) -> None:
    card = load_card(name)
    data = read_category(card, category, Path(os.environ["BENCH_SHARED"]) / "data")
    counts = card.counts(category)
    assert counts is not None
    assert len(data.train) == counts.train
    found = [s.kind for s in data.test]
    assert {kind: found.count(kind) for kind in set(found)} == counts.test
