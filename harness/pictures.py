"""Pictures of a category's test images and masks, so that a report can show maps where the data is not.

One file per category, size and resize, of all its test images, shared by all runs that keep their maps; a
run's view says which of the images its maps are of. A file holds

- ``images`` and ``masks``, bytes: JPEG (colour) and PNG (one bit) files of the size of the maps, one after
  the other, with ``image_ends`` and ``mask_ends``, int64: where each ends;
- as metadata ``names``, ``kinds`` and ``defects``, lists in JSON, and ``side``, the size (files of earlier
  versions, which held smaller pictures, lack it).
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

    def only(self, rows: Sequence[int]) -> Pictures:
        """Returns the pictures of some of the images."""
        lists = (self.names, self.kinds, self.defects, self.images, self.masks)
        return Pictures(*(tuple(values[row] for row in rows) for values in lists))  # type: ignore[arg-type]


def pictures_path(record: Path, data: str, size: int, view: str) -> Path:
    """Returns where the pictures that belong to a record lie.

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
    """Writes pictures of test images, unless an earlier run on the same images did.

    Args:
        path: the file, see :func:`pictures_path`.
        samples: the test images.
        size: side that images and masks come at.
        resize: how images come to that size.
        cache: the cache folder.
        crop: whether their middle is cut out.

    Raises:
        OSError: the folder cannot be made or written.
        UserError: an image cannot be read.
    """
    if _side(path) == str(size):
        return
    images = load_images([sample.image for sample in samples], size, resize, cache, crop)
    masks = load_masks([sample.masks for sample in samples], size, cache, crop)
    arrays: dict[str, NDArray[Any]] = {}
    arrays["images"], arrays["image_ends"] = joined([_jpeg(image) for image in images])
    arrays["masks"], arrays["mask_ends"] = joined([_png(mask) for mask in masks])
    texts = {
        "names": [f"{s.image.parent.name}/{s.image.name}" for s in samples],
        "kinds": [s.kind for s in samples],
        "defects": [s.defect for s in samples],
    }
    described = {key: json.dumps(values) for key, values in texts.items()}
    write_atomically(path, save(arrays, described | {"side": str(size)}))


def load_pictures(path: Path) -> Pictures | None:
    """Returns the pictures, or ``None`` where there are none or the file is damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            texts = file.metadata() or {}
            names, kinds, defects = (tuple(json.loads(texts[k])) for k in ("names", "kinds", "defects"))
            images = parts(file.get_tensor("images"), file.get_tensor("image_ends"))
            masks = parts(file.get_tensor("masks"), file.get_tensor("mask_ends"))
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    if len({len(part) for part in (names, kinds, defects, images, masks)}) != 1:
        return None
    return Pictures(names, kinds, defects, images, masks)


def joined(files: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Returns files one after the other, and where each ends."""
    return np.frombuffer(b"".join(files), np.uint8), np.cumsum([len(f) for f in files], dtype=np.int64)


def parts(together: NDArray[np.uint8], ends: NDArray[np.int64]) -> tuple[bytes, ...]:
    """Returns the files that :func:`joined` put together."""
    raw = together.tobytes()
    starts = [0, *ends[:-1].tolist()]
    return tuple(raw[a:b] for a, b in zip(starts, ends.tolist(), strict=True))


def _side(path: Path) -> str:
    """The size of the pictures in a file, empty where that is not known."""
    try:
        with safe_open(path, framework="numpy") as file:
            return str((file.metadata() or {}).get("side", ""))
    except (OSError, SafetensorError):
        return ""


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    """RGB ``[S, S, 3]`` as a file."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()


def _png(mask: NDArray[np.uint8]) -> bytes:
    """A mask ``[S, S]`` as a file, in one bit."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(mask) > 0).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
