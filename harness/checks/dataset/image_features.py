"""What an audit keeps of one image: its exposure, its size, its hash and its fine detail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from harness.common.parallel import in_threads
from harness.data.decoding import read_rgb
from harness.data.samples import Sample

_HASHED, _KEPT = 32, 8
# Side, and σ of the blur that is taken off: what is left tells two screws in the same position apart, and
# survives JPEG, half the resolution and another brightness.
_DETAIL, _SIGMA = 128, 2.0


@dataclass(frozen=True)
class Look:
    """One image.

    Attributes:
        sample: the image with its masks.
        size: width and height in pixels.
        brightness: mean grey value in [0, 255].
        contrast: standard deviation of the grey values.
        hash: 63 bits of :func:`phash`.
        detail: the image at 128 × 128 less its blur, float32 [16384].
    """

    sample: Sample
    size: tuple[int, int]
    brightness: float
    contrast: float
    hash: NDArray[np.bool_]
    detail: NDArray[np.float32]


def phash(grey: Image.Image) -> NDArray[np.bool_]:
    """Returns the perceptual hash of a grey image, 63 bits.

    The image is averaged to 32 × 32; of its discrete cosine transform (type II) the lowest 8 × 8 coefficients
    count, without the first, which is brightness alone: a bit tells whether a coefficient is above their
    median. See Zauner, "Implementation and benchmarking of perceptual image hash functions" (2010), 3.2.1.
    """
    small = np.asarray(grey.resize((_HASHED, _HASHED), Image.Resampling.BOX), np.float64)
    low = np.asarray(dctn(small, norm="ortho"))[:_KEPT, :_KEPT].ravel()[1:]
    return np.asarray(low > np.median(low), np.bool_)


def look_at(sample: Sample) -> Look:
    """Reads an image.

    Raises:
        UserError: it cannot be read.
    """
    pixels = read_rgb(sample.image)
    grey = Image.fromarray(pixels).convert("L")
    values = np.asarray(grey, np.float64)
    small: NDArray[Any] = np.asarray(grey.resize((_DETAIL, _DETAIL), Image.Resampling.BILINEAR), np.float32)
    detail = small - cv2.GaussianBlur(small, (0, 0), _SIGMA)
    return Look(
        sample=sample,
        size=grey.size,
        brightness=float(values.mean()),
        contrast=float(values.std()),
        hash=phash(grey),
        detail=np.asarray(detail, np.float32).ravel(),
    )


def look_at_all(samples: tuple[Sample, ...]) -> list[Look]:
    """Reads images, several at a time, in their order."""
    return in_threads(look_at, samples)
