"""Checks a dataset on disk against its card and against itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.common.errors import UserError
from harness.common.parallel import in_threads
from harness.data.card import NORMAL, Card, dataset_root
from harness.data.decoding import read_image, read_mask
from harness.data.file_hashes import content_hashes
from harness.data.samples import CategoryData, Sample, category_names, find_images, scan_category


@dataclass(frozen=True)
class Problem:
    """Something wrong with a dataset.

    Attributes:
        severity: ``error`` makes numbers wrong or impossible; ``warning`` is worth knowing.
        category: the category concerned, empty for the dataset as a whole.
        path: the file or folder concerned, ``None`` for none in particular.
        message: one sentence.
    """

    severity: Literal["error", "warning"]
    category: str
    path: Path | None
    message: str


def check_dataset(
    card: Card, categories: Sequence[str] | None, data_root: Path | None, cache: Path
) -> list[Problem]:
    """Reads every file of a dataset and returns all that is wrong with it.

    Args:
        card: the dataset.
        categories: what to check; ``None`` is every category of the card.
        data_root: the folder that holds the datasets.
        cache: the cache folder, for content hashes.
    """
    try:
        root = dataset_root(card, data_root, cache)
        names = category_names(card, root) if categories is None else categories
    except UserError as error:
        return [Problem("error", "", data_root, str(error))]
    return [problem for name in names for problem in _check_category(card, name, root, cache)]


def _check_category(card: Card, category: str, root: Path, cache: Path) -> Iterator[Problem]:
    try:
        data = scan_category(card, category, root)
    except UserError as error:
        yield Problem("error", category, root / category, str(error))
        return
    yield from _check_counts(card, category, data)
    everything = (*data.train, *data.validation, *data.test)
    for problems in in_threads(lambda sample: list(_check_sample(category, sample)), everything):
        yield from problems
    yield from _check_stray_masks(card, category, data, root)
    yield from _check_doubles(category, data, cache)


def _check_counts(card: Card, category: str, data: CategoryData) -> Iterator[Problem]:
    official = card.counts(category)
    if official is None or official.train is None or official.test is None:
        for part, samples in (("training", data.train), ("test", data.test)):
            if not samples:
                yield Problem("error", category, None, f"There is no {part} image.")
    if official is None:
        return
    found = Counter(sample.kind for sample in data.test)
    pairs = []
    if official.train is not None:
        pairs.append(("training", len(data.train), official.train))
        pairs.append(("validation", len(data.validation), official.validation))
    if official.test is not None:
        kinds = sorted({*official.test, *found})
        pairs += [(f"{kind} test", found[kind], official.test.get(kind, 0)) for kind in kinds]
    for what, have, want in pairs:
        if have != want:
            yield Problem("error", category, None, f"There are {have} {what} images; the card says {want}.")


def _check_sample(category: str, sample: Sample) -> Iterator[Problem]:
    try:
        size = read_image(sample.image).size
    except UserError as error:
        yield Problem("error", category, sample.image, str(error))
        return
    if sample.kind == NORMAL:
        return
    if not sample.masks:
        yield Problem("error", category, sample.image, "The anomalous image has no mask.")
        return
    marked = False
    for path in sample.masks:
        try:
            mask = read_mask(path)
        except UserError as error:
            yield Problem("error", category, path, str(error))
            return
        marked = marked or bool(mask.any())
        height, width = mask.shape
        if (width, height) != size:
            text = f"The mask has {width}×{height} pixels, its image {size[0]}×{size[1]}."
            yield Problem("error", category, path, text)
    if not marked:
        yield Problem("warning", category, sample.masks[0], "The mask of an anomalous image marks nothing.")


def _check_stray_masks(card: Card, category: str, data: CategoryData, root: Path) -> Iterator[Problem]:
    used = {mask for sample in data.test for mask in sample.masks}
    for path in find_images(root, card.layout.masks, {"category": category}):
        if path not in used:
            yield Problem("warning", category, path, "The mask belongs to no anomalous test image.")


def _check_doubles(category: str, data: CategoryData, cache: Path) -> Iterator[Problem]:
    def images(samples: Iterable[Sample]) -> list[Path]:
        return [sample.image for sample in samples if sample.image.is_file()]

    learned = images((*data.train, *data.validation))
    seen = dict(zip(content_hashes(learned, cache), learned, strict=True))
    tested = images(data.test)
    for path, digest in zip(tested, content_hashes(tested, cache), strict=True):
        if digest in seen:
            yield Problem("warning", category, path, f"The test image is identical to {seen[digest]}.")
