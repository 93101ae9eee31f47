"""Pictures of a category's test images and masks, so that a report can show maps where the data is not.

One file per category, size and resize, of all its test images, shared by all runs that keep their maps; a
run's view says which of the images its maps are of. A file holds

- ``images`` and ``masks``, bytes: JPEG (colour) and PNG (one bit) files of the size of the maps, one after
  the other, with ``image_ends`` and ``mask_ends``, int64: where each ends;
- as metadata ``names``, ``kinds`` and ``defects``, lists in JSON, and ``side``, the size (files of earlier
  versions, which held smaller pictures, lack it).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open


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


def load_pictures(path: Path) -> Pictures | None:
    """Returns the pictures, or ``None`` where there are none or the file is damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            texts = file.metadata() or {}
            names, kinds, defects = (tuple(json.loads(texts[k])) for k in ("names", "kinds", "defects"))
            images = split_files(file.get_tensor("images"), file.get_tensor("image_ends"))
            masks = split_files(file.get_tensor("masks"), file.get_tensor("mask_ends"))
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    if len({len(part) for part in (names, kinds, defects, images, masks)}) != 1:
        return None
    return Pictures(names, kinds, defects, images, masks)


def joined(files: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Returns files one after the other, and where each ends."""
    return np.frombuffer(b"".join(files), np.uint8), np.cumsum([len(f) for f in files], dtype=np.int64)


def split_files(together: NDArray[np.uint8], ends: NDArray[np.int64]) -> tuple[bytes, ...]:
    """Returns the files that :func:`joined` put together."""
    raw = together.tobytes()
    starts = [0, *ends[:-1].tolist()]
    return tuple(raw[a:b] for a, b in zip(starts, ends.tolist(), strict=True))
