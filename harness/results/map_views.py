"""What a report shows of kept maps: pictures of them, and curves over their pixels.

A file ``<key>.view.safetensors`` lies beside the maps and follows from them and the masks. It holds

- ``scores``, float32 ``[N]``;
- ``greys``, bytes: of each map a JPEG file in grey, one after the other, from black at the median of all
  values of the maps to white at their highest thousandth, with ``grey_ends``, int64: where each ends;
- ``curve``, float32 ``[3, K]``, see :func:`curve`.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open

from harness.results.category_pictures import Pictures, split_files


@dataclass(frozen=True)
class View:
    """Of one run.

    Attributes:
        scores: float32 ``[N]``.
        greys: JPEG files, one for each map, at its size.
        curve: see :func:`curve`.
        rows: of the category's test images, those that the maps are of; empty in earlier views, of all.
    """

    scores: NDArray[np.float32]
    greys: tuple[bytes, ...]
    curve: NDArray[np.float32]
    rows: tuple[int, ...]

    def own(self, pictures: Pictures) -> Pictures | None:
        """Returns those of a category's pictures that the maps are of; ``None`` where they do not fit."""
        rows = self.rows or tuple(range(len(pictures.names)))
        fit = len(rows) == len(self.scores) and max(rows) < len(pictures.names)
        return pictures.only(rows) if fit else None

    def grey(self, n: int) -> NDArray[np.uint8]:
        """Returns a map as uint8 ``[H, W]``."""
        return np.asarray(Image.open(io.BytesIO(self.greys[n])))


def load_view(path: Path) -> View | None:
    """Returns a view, or ``None`` where there is none or the file is damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            scores, curve = file.get_tensor("scores"), file.get_tensor("curve")
            greys = split_files(file.get_tensor("greys"), file.get_tensor("grey_ends"))
            rows = tuple(file.get_tensor("rows").tolist()) if "rows" in [*file.keys()] else ()
    except (OSError, SafetensorError, ValueError):
        return None
    whole = len(scores) == len(greys) and len(rows) in (0, len(scores)) and len(curve) == 3
    return View(scores, greys, curve, rows) if whole else None
