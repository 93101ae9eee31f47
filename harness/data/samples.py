"""Dataset cards, and the reading of one category of a dataset by its card.

A card is a TOML file that says where the images of a dataset lie, which are normal, and how many there
should be. Five published datasets and the demo have built-in cards; an own dataset is a card given by path.
"""

from __future__ import annotations

import csv
import glob
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.common.defaults import IMAGE_SUFFIXES
from harness.common.errors import UserError, nearest
from harness.data.card import CSV_COLUMNS, NORMAL, Card, Layout, dataset_root, inside


@dataclass(frozen=True)
class Sample:
    """One image: its masks are united, its defect is its folder or its label in a CSV file."""

    image: Path
    masks: tuple[Path, ...] = ()
    kind: str = NORMAL
    defect: str = ""


@dataclass(frozen=True)
class CategoryData:
    """The images of one category, each part in sorted order."""

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]


def on_disk(card: Card, data_root: Path | None) -> str:
    """Says in a few words where a dataset lies and how many of its categories are there."""
    if card.generator:
        return "made on first use"
    if data_root is None:
        return "unknown without --data-root or BENCH_DATA"
    folder = next((data_root / name for name in card.folders if (data_root / name).is_dir()), None)
    if folder is None:
        return f"not in {data_root}"
    names = category_names(card, folder)
    there = [name for name in names if (folder / name).is_dir()]
    few = f" ({', '.join(there)})" if 0 < len(there) < min(len(names), 4) else ""
    return f"{len(there)} of {len(names)} categories{few} in {folder}"


def category_names(card: Card, root: Path) -> list[str]:
    """Returns the card's categories in its order, or those found in the dataset's folder."""
    if card.categories:
        return [category.name for category in card.categories]
    if card.layout.csv is not None:
        return sorted({row["object"] for row in _csv_rows(card.layout.csv, root)})
    return sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def read_category(
    card: Card, category: str, data_root: Path | None, cache: Path | None = None
) -> CategoryData:
    """Lists the images of one category; whatever is missing is a UserError that names it.

    Only that category must be on disk.
    """
    root = dataset_root(card, data_root, cache)
    data = scan_category(card, category, root)
    for what, part in (("training", data.train), ("test", data.test)):
        if not part:
            raise UserError(f"No {what} image of category '{category}' was found in {root}.")
    for sample in data.test:
        if sample.kind != NORMAL and not sample.masks:
            raise UserError(
                f"Anomalous image {sample.image} has no mask: restore it from {card.homepage} or correct the "
                f"masks pattern of card '{card.name}'."
            )
    if card.layout.csv is not None:
        for path in (p for s in (*data.train, *data.validation, *data.test) for p in (s.image, *s.masks)):
            if not path.is_file():
                raise UserError(f"{path} does not exist, but {root / card.layout.csv} lists it.")
    return data


def scan_category(card: Card, category: str, root: Path) -> CategoryData:
    """Lists what there is of one category below the dataset's folder, complete or not."""
    known = category_names(card, root)
    if category not in known:
        raise UserError(f"Dataset '{card.name}' has no category '{category}'. {nearest(category, known)}")
    layout = card.layout
    if layout.csv is not None:
        data = _scan_csv(layout, layout.csv, category, root)
        absent = not any(s.image.is_file() for s in (*data.train, *data.test))
    else:
        data = _scan_patterns(layout, category, root)
        absent = not (data.train or data.validation or data.test)
    if absent and not (root / category).is_dir():
        present = [name for name in known if (root / name).is_dir()]
        raise UserError(
            f"Category '{category}' of dataset '{card.name}' is not in {root} (there: "
            f"{', '.join(present) or 'no category'}): get it from {card.homepage}."
        )
    return data


def _scan_patterns(layout: Layout, category: str, root: Path) -> CategoryData:
    def samples(patterns: Iterable[str], tested: bool) -> Iterator[Sample]:
        for image in find_images(root, patterns, {"category": category}):
            defect = image.parent.name
            kind = layout.kind(defect) if tested else NORMAL
            names = {"category": category, "defect": defect, "stem": image.stem}
            masks = () if kind == NORMAL else find_images(root, layout.masks, names)
            yield Sample(image, tuple(masks), kind, defect)

    train, validation = samples(layout.train, False), samples(layout.validation, False)
    return CategoryData(tuple(train), tuple(validation), tuple(samples(layout.test, True)))


def find_images(root: Path, patterns: Iterable[str], names: Mapping[str, str]) -> list[Path]:
    """Returns the image files that match any pattern, sorted; a placeholder not in ``names`` matches all."""
    found: set[Path] = set()
    for pattern in patterns:
        for placeholder in ("category", "defect", "stem"):
            value = glob.escape(names[placeholder]) if placeholder in names else "*"
            pattern = pattern.replace(f"{{{placeholder}}}", value)
        # Hidden files are left out: copying from a Mac leaves '._000.png' beside '000.png'.
        found.update(
            path
            for path in root.glob(pattern)
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
        )
    return sorted(found, key=Path.as_posix)


def _csv_rows(name: str, root: Path) -> list[dict[str, str]]:
    path = root / name
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = sorted(CSV_COLUMNS - set(reader.fieldnames or ()))
            if missing:
                raise UserError(f"{path} has no column '{missing[0]}'; it needs {sorted(CSV_COLUMNS)}.")
            return [{column: row[column] or "" for column in CSV_COLUMNS} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}, which lists the images, cannot be read: {error}.") from error


def _scan_csv(layout: Layout, name: str, category: str, root: Path) -> CategoryData:
    parts: dict[str, list[Sample]] = {"train": [], "validation": [], "test": []}
    for row in _csv_rows(name, root):
        if row["object"] != category:
            continue
        kind = layout.kind(row["label"])
        try:
            image = root / inside(row["image"])
            masks = (root / inside(row["mask"]),) if row["mask"] and kind != NORMAL else ()
        except ValueError as error:
            raise UserError(f"{root / name}: {error}.") from error
        if row["split"] not in parts or (row["split"] != "test" and kind != NORMAL):
            raise UserError(
                f"{root / name}: {row['image']} has split '{row['split']}' and label '{row['label']}'; "
                "normal images may be in train, validation or test, anomalous ones in test."
            )
        parts[row["split"]].append(Sample(image, masks, kind, row["label"]))
    ordered = {key: tuple(sorted(part, key=lambda s: s.image.as_posix())) for key, part in parts.items()}
    return CategoryData(**ordered)
