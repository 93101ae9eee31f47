"""What all figures for papers share: colours, axes, names that fit, and rows of pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from harness.common.text import visible
from harness.results.category_pictures import Pictures
from reports.page.gallery import gallery_choices, places_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by the colour-blind too; shapes and dashes repeat what they say.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "D", "^", "v", "P", "X")
RC: Any = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "svg.hashsalt": "ulsad-bench",
    "savefig.bbox": "tight",
    "text.parse_math": False,
}


def axes_of(width: float, height: float) -> tuple[Figure, Axes]:
    """Returns a figure of a size in inches, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def shortened(name: str) -> str:
    """Returns a name as a figure has room for it; variants differ at the end, so the middle goes."""
    shown = visible(name)
    return shown if len(shown) <= 30 else f"{shown[:9]}…{shown[-20:]}"


def typical(pictures: Pictures, scores: Sequence[npt.NDArray[np.float32]]) -> list[int]:
    """Returns the images in the middle of what all methods' scores say, of each kind of anomaly."""
    anomalous = np.array([kind != "normal" for kind in pictures.kinds])
    places = np.stack([places_of(own) for own in scores])
    found = gallery_choices(places, anomalous, pictures.kinds)
    return [n for title, _, own in found if "Typical" in title for n in own]


def photos(pictures: Pictures, n: int) -> list[npt.NDArray[np.uint8]]:
    """Returns an image and its mask, RGB ``[H, W, 3]``."""
    files = (pictures.images[n], pictures.masks[n])
    return [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in files]


def picture_rows(heads: Sequence[str], rows: Sequence[Sequence[npt.NDArray[Any]]]) -> Figure:
    """Returns rows of pictures: photographs in RGB, maps ``[H, W]`` from 0 to 255 in colours."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.85 * len(heads), 0.9 * len(rows)))
    for place, row in enumerate(rows):
        for column, picture in enumerate(row):
            axes = figure.add_subplot(len(rows), len(heads), place * len(heads) + column + 1)
            # As methods themselves bring their maps to the size of the image.
            smooth = "bilinear" if picture.ndim == 2 else "antialiased"
            axes.imshow(picture, cmap="inferno", vmin=0, vmax=255, interpolation=smooth)
            axes.set_axis_off()
            if place == 0:
                axes.set_title(heads[column], fontsize=5)
    figure.subplots_adjust(wspace=0.05, hspace=0.05)
    return figure
