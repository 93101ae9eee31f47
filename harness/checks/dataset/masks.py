"""Masks that look wrong: each in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from harness.data.card import NORMAL, Card
from harness.data.decoding import image_size, read_image, read_mask
from harness.data.samples import Sample, find_images

# With more grey values than a table of labels has, a mask has soft edges.
_LABELS = 8


def mask_faults(sample: Sample, most: float) -> Iterator[str]:
    """Yields what looks wrong with the masks of an anomalous image.

    Args:
        sample: the image with its masks.
        most: percent of the image from which a mask is suspiciously large.

    Raises:
        UserError: the image or a mask cannot be read.
    """
    if not sample.masks:
        yield "has no mask"
        return
    size = image_size(sample.image)
    united = np.zeros(size, np.uint8)
    for path in sample.masks:
        mask = read_mask(path)
        if mask.shape != size:
            of_mask, of_image = (f"{width}×{height}" for height, width in (mask.shape, size))
            yield f"has a mask of {of_mask} pixels, but is {of_image} itself"
            mask = np.asarray(cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
        united |= mask
        if grey := _grey_levels(path):
            yield grey
    if not united.any():
        yield "is anomalous, but its mask marks nothing"
    elif (share := 100 * float(united.mean())) > most:
        yield f"has a mask over {share:.0f} % of it"


def masks_of_normals(card: Card, category: str, root: Path, sample: Sample) -> tuple[Path, ...]:
    """Returns masks that lie where those of a normal image would, and mark something.

    Tables (cards with ``csv``) name no masks for normal images.
    """
    if sample.kind != NORMAL or card.layout.csv is not None:
        return ()
    names = {"category": category, "defect": sample.defect, "stem": sample.image.stem}
    return tuple(path for path in find_images(root, card.layout.masks, names) if read_mask(path).any())


def _grey_levels(path: Path) -> str:
    """Says how many values a mask has between black and its brightest one, if any."""
    values = np.unique(np.asarray(read_image(path).convert("L")))
    between = values[(values > 0) & (values < values.max())]
    if not len(between):
        return ""
    if len(values) <= _LABELS:
        listed = ", ".join(str(value) for value in values if value)
        return f"has a mask with the values {listed}: each counts as anomalous"
    return f"has a mask with {len(values)} grey values: soft edges count as anomalous up to the faintest"
