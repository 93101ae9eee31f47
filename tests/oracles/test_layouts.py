"""Dataset cards against anomalib's own datasets: the same folders, read by both."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from harness.data.card import NORMAL, load_card
from harness.data.decoding import image_size, read_mask
from harness.data.samples import read_category
from tests.oracles.agreement import Agree, noise

pytest.importorskip("anomalib", reason="the extra 'anomalib' is not installed")

HEIGHT, WIDTH = 6, 9


class Item(NamedTuple):
    """What is compared of one image; image and mask by their content, as a conversion moves files."""

    split: str
    label: str
    kind: str
    image: str
    mask: bytes


class Folder:
    """Writes images and masks that are all different, so that none can be taken for another."""

    def __init__(self, root: Path) -> None:
        self.root, self.written = root, 0

    def _pixels(self, path: str, shape: tuple[int, ...]) -> tuple[Path, NDArray[np.float32]]:
        self.written += 1
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        return self.root / path, noise(int(np.prod(shape)), self.written).reshape(shape)

    def image(self, path: str, gray: bool = False) -> None:
        """Writes an image in the format of its suffix."""
        file, pixels = self._pixels(path, (HEIGHT, WIDTH) if gray else (HEIGHT, WIDTH, 3))
        Image.fromarray((255 * pixels).astype(np.uint8)).save(file)

    def mask(self, path: str, *values: int) -> None:
        """Writes a mask whose anomalous pixels, half of all, have these values in turn."""
        file, pixels = self._pixels(path, (HEIGHT, WIDTH))
        chosen = np.resize(np.array(values or (255,), np.uint8), pixels.shape)
        Image.fromarray(np.where(pixels > 0.5, chosen, np.uint8(0))).save(file)


def mvtec(folder: Folder) -> None:
    """Gray images, file names that come back in every folder, a suffix in capitals."""
    for split in ("train", "test"):
        for stem in ("000", "001", "010"):
            folder.image(f"grid/{split}/good/{stem}.png", gray=True)
    for defect in ("bent", "metal_contamination", "thread"):
        for name in ("000.png", "001.PNG", "010.png"):
            folder.image(f"grid/test/{defect}/{name}", gray=True)
            folder.mask(f"grid/ground_truth/{defect}/{name[:3]}_mask.png")


def mvtec_loco(folder: Folder) -> None:
    """A validation part, and one to three masks of an image, with a value for each kind of defect."""
    for split in ("train", "validation", "test"):
        for stem in ("000", "001"):
            folder.image(f"screw_bag/{split}/good/{stem}.png")
    for kind in ("logical_anomalies", "structural_anomalies"):
        for number in range(3):
            folder.image(f"screw_bag/test/{kind}/{number:03}.png")
            for mask in range(number + 1):
                folder.mask(f"screw_bag/ground_truth/{kind}/{number:03}/{mask:03}.png", 255 - number - mask)


def visa(folder: Folder) -> None:
    """Names that normal and anomalous images share, masks of several values, a table in mixed order."""
    rows = []
    for number in range(6):
        image = f"candle/Data/Images/Normal/{number:04}.JPG"
        folder.image(image)
        rows.append(["candle", "test" if number % 3 == 1 else "train", "normal", image, ""])
    for number in range(3):
        image = f"candle/Data/Images/Anomaly/{number:03}.JPG"
        mask = f"candle/Data/Masks/Anomaly/{number:03}.png"
        folder.image(image)
        folder.mask(mask, 1, 2, 7)
        rows.insert(0, ["candle", "test", "anomaly", image, mask])
    (folder.root / "split_csv").mkdir()
    with (folder.root / "split_csv" / "1cls.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["object", "split", "label", "image", "mask"], *rows])


def btad(folder: Folder) -> None:
    """Images as .bmp and as .png in one folder, masks as .png: anomalib looks for no others."""
    for name in ("0000.bmp", "0001.png", "0002.bmp"):
        folder.image(f"03/train/ok/{name}")
        folder.image(f"03/test/ok/{name}")
        folder.image(f"03/test/ko/{name}")
        folder.mask(f"03/ground_truth/ko/{name[:4]}.png")


def mpdd(folder: Folder) -> None:
    """The layout of MVTec AD."""
    for split in ("train", "test"):
        for stem in ("000", "001"):
            folder.image(f"connector/{split}/good/{stem}.png")
    for defect in ("parts_mismatch", "scratches"):
        for stem in ("000", "001", "002"):
            folder.image(f"connector/test/{defect}/{stem}.png")
            folder.mask(f"connector/ground_truth/{defect}/{stem}_mask.png")


MADE: dict[str, tuple[str, Callable[[Folder], None]]] = {
    "mvtec": ("grid", mvtec),
    "mvtec_loco": ("screw_bag", mvtec_loco),
    "visa": ("candle", visa),
    "btad": ("03", btad),
    "mpdd": ("connector", mpdd),
}


def content(image: Path) -> str:
    return hashlib.sha256(image.read_bytes()).hexdigest()


def by_card(dataset: str, category: str, root: Path) -> Iterator[Item]:
    """The images as our card reads them."""
    card = load_card(dataset).model_copy(update={"folders": (root.name,)})
    data = read_category(card, category, root.parent)
    for split, part in (("train", data.train), ("val", data.validation), ("test", data.test)):
        for sample in part:
            height, width = image_size(sample.image)
            mask = np.zeros((height, width), bool)
            for path in sample.masks:
                mask |= read_mask(path) > 0
            yield Item(split, sample.defect, sample.kind, content(sample.image), mask.tobytes())


def by_anomalib(dataset: str, category: str, root: Path) -> Iterator[Item]:
    """The images as anomalib's dataset gives them; it converts VisA's folders itself before."""
    import pandas
    from anomalib.data import Visa
    from anomalib.data.datasets import image as theirs

    if dataset == "visa":
        converted = Visa(root=root, category=category)
        converted.apply_cls1_split()
        root = Path(converted.split_root)
    made: dict[str, Any] = {
        "mvtec": theirs.MVTecADDataset,
        "mvtec_loco": theirs.MVTecLOCODataset,
        "visa": theirs.VisaDataset,
        "btad": theirs.BTechDataset,
        "mpdd": theirs.MPDDDataset,
    }
    # The conversion gives VisA's labels the names of folders.
    labels = {"good": "normal", "bad": "anomaly"} if dataset == "visa" else {}
    kinds = {"logical_anomalies": "logical", "structural_anomalies": "structural"}
    # Its reader of LOCO puts lists into a column of text, which pandas 3 refuses unless told otherwise.
    old = pandas.option_context("future.infer_string", False) if dataset == "mvtec_loco" else nullcontext()
    with old:
        read = made[dataset](root=root, category=category)
    for row, item in zip(read.samples.itertuples(), read, strict=True):
        assert int(item.gt_label) == row.label_index
        kind = kinds.get(row.label, "anomalous") if row.label_index else NORMAL
        mask = np.asarray(item.gt_mask).squeeze() > 0
        label = labels.get(row.label, row.label)
        yield Item(row.split, label, kind, content(Path(row.image_path)), mask.tobytes())


def differing(dataset: str, category: str, root: Path) -> tuple[int, int]:
    """How many images are read differently, of how many; each image is there once."""
    ours, theirs = list(by_card(dataset, category, root)), list(by_anomalib(dataset, category, root))
    assert len({item.image for item in ours}) == len(ours)
    assert len({item.image for item in theirs}) == len(theirs)
    assert all(any(item.mask) == (item.kind != NORMAL) for item in theirs)
    apart = {*ours} ^ {*theirs}
    return len({item.image for item in apart}), len(theirs)


@pytest.mark.filterwarnings("ignore:The 'future.infer_string' option is deprecated")
@pytest.mark.parametrize("dataset", MADE)
def test_cards_read_what_anomalib_reads(dataset: str, tmp_path: Path, agree: Agree) -> None:
    category, make = MADE[dataset]
    folder = Folder(tmp_path / "made")
    make(folder)
    apart, images = differing(dataset, category, folder.root)
    check = f"{category}: image, split, label, kind, mask of {images} made images"
    agree(f"card {dataset}", check, f"anomalib {version('anomalib')}'s dataset", apart, 0, "items")


@pytest.mark.parametrize(("dataset", "category"), [("mpdd", "metal_plate"), ("mvtec", "screw")])
def test_cards_read_real_folders_as_anomalib_does(dataset: str, category: str, agree: Agree) -> None:
    shared = os.environ.get("BENCH_SHARED")
    if not shared:
        pytest.skip("BENCH_SHARED names no folder with real images")
    apart, images = differing(dataset, category, Path(shared) / "data" / dataset)
    check = f"{category}: image, split, label, kind, mask of {images} real images"
    agree(f"card {dataset}", check, f"anomalib {version('anomalib')}'s dataset", apart, 0, "items")
