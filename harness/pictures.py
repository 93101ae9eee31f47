"""Thumbnails of a category's test images and masks, so that a report can show maps where the data is not.

One file per category, size and resize, shared by all runs that keep their maps; image ``n`` belongs to map
``n``. A file holds

- ``images`` and ``masks``, bytes: JPEG (colour) and PNG (one bit) files, one after the other, with
  ``image_ends`` and ``mask_ends``, int64: where each ends;
- as metadata ``names``, ``kinds`` and ``defects``, lists in JSON.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from harness.dataset import Sample
from harness.files import write_atomically
from harness.images import load_images, load_masks
from harness.protocols import Crop, Resize

# Longest side in pixels; a JPEG of it takes 4 to 8 kB.
SIDE = 160
_QUALITY = 85


@dataclass(frozen=True)
class Pictures:
    """Test images as a report shows them, in the order of the test set.

    Attributes:
        names: ``folder/file`` of each image.
        kinds: ``normal`` or the kind of anomaly of each.
        defects: the defect's name of each, as the dataset calls it.
        images: JPEG files.
        masks: PNG files, white where anomalous.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    defects: tuple[str, ...]
    images: tuple[bytes, ...]
    masks: tuple[bytes, ...]


def pictures_path(record: Path, data: str, size: int, view: str) -> Path:
    """Returns where the thumbnails that belong to a record lie.

    Args:
        record: path of the record.
        data: fingerprint of the category's files.
        size: side of the run's images.
        view: how they came to it, see ``harness.spec.view``.
    """
    return record.parent.parent / f"{data}-{size}-{view}.images.safetensors"


def keep_pictures(
    path: Path, samples: Sequence[Sample], size: int, resize: Resize, cache: Path, crop: Crop = "none"
) -> None:
    """Writes thumbnails of test images, unless an earlier run on the same images did.

    Args:
        path: the file, see :func:`pictures_path`.
        samples: the test images.
        size: side that images and masks come at; thumbnails are at most :data:`SIDE` wide.
        resize: how images come to that size.
        cache: the cache folder.
        crop: whether their middle is cut out.

    Raises:
        OSError: the folder cannot be made or written.
        UserError: an image cannot be read.
    """
    if path.is_file():
        return
    side = min(SIDE, size)
    images = load_images([sample.image for sample in samples], size, resize, cache, crop)
    masks = load_masks([sample.masks for sample in samples], size, cache, crop)
    photos = [_jpeg(image, side) for image in images]
    drawn = [_png(mask, side) for mask in masks]
    arrays: dict[str, NDArray[Any]] = {
        "images": np.frombuffer(b"".join(photos), np.uint8),
        "image_ends": np.cumsum([len(p) for p in photos], dtype=np.int64),
        "masks": np.frombuffer(b"".join(drawn), np.uint8),
        "mask_ends": np.cumsum([len(d) for d in drawn], dtype=np.int64),
    }
    texts = {
        "names": [f"{s.image.parent.name}/{s.image.name}" for s in samples],
        "kinds": [s.kind for s in samples],
        "defects": [s.defect for s in samples],
    }
    write_atomically(path, save(arrays, {key: json.dumps(values) for key, values in texts.items()}))


def load_pictures(path: Path) -> Pictures | None:
    """Returns the thumbnails, or ``None`` where there are none or the file is damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            texts = file.metadata() or {}
            names, kinds, defects = (tuple(json.loads(texts[k])) for k in ("names", "kinds", "defects"))
            images = _parts(file.get_tensor("images"), file.get_tensor("image_ends"))
            masks = _parts(file.get_tensor("masks"), file.get_tensor("mask_ends"))
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    if len({len(part) for part in (names, kinds, defects, images, masks)}) != 1:
        return None
    return Pictures(names, kinds, defects, images, masks)


def _jpeg(image: NDArray[np.uint8], side: int) -> bytes:
    """RGB ``[S, S, 3]`` as a file."""
    small = Image.fromarray(np.ascontiguousarray(image))
    buffer = io.BytesIO()
    small.resize((side, side), Image.Resampling.BOX).save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()


def _png(mask: NDArray[np.uint8], side: int) -> bytes:
    """A mask ``[S, S]`` as a file; a quarter of a pixel counts, so that scratches stay in sight."""
    white = Image.fromarray((np.asarray(mask) > 0).astype(np.uint8) * 255)
    small = white.resize((side, side), Image.Resampling.BOX).point(lambda value: 255 if value >= 64 else 0)
    buffer = io.BytesIO()
    small.convert("1").save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _parts(joined: NDArray[np.uint8], ends: NDArray[np.int64]) -> tuple[bytes, ...]:
    raw = joined.tobytes()
    starts = [0, *ends[:-1].tolist()]
    return tuple(raw[a:b] for a, b in zip(starts, ends.tolist(), strict=True))
