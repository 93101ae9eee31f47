"""Image files and masks as arrays of pixels."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from harness.common.errors import UserError
from harness.spec.protocols import ImageFit

Pixels = NDArray[np.uint8]
# Pillow goes by the content and not by the name: of its other formats some start programs.
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
# Pixels of the longest side; how many there may be in all is Pillow's own limit, 89 million.
_LONGEST = 1 << 15
_EXIF_ORIENTATION = 0x0112


def read_image(path: Path) -> Image.Image:
    """Opens and fully decodes an image; an EXIF orientation, where present, is applied.

    A broken file, or one that claims more pixels than Pillow accepts, is a UserError.
    """
    with _opened(path) as image:
        image.load()
        return image if image.getexif().get(_EXIF_ORIENTATION, 1) == 1 else ImageOps.exif_transpose(image)


def image_size(path: Path) -> tuple[int, int]:
    """Returns height and width that :func:`read_image` gives an image, from its header."""
    with _opened(path) as image:
        width, height = image.size
        # Orientations from 5 on lie on their side.
        return (width, height) if image.getexif().get(_EXIF_ORIENTATION, 1) > 4 else (height, width)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=_FORMATS) as image:
            width, height = image.size
            if width * height > (Image.MAX_IMAGE_PIXELS or math.inf) or max(width, height) > _LONGEST:
                raise UserError(f"{path} has too many pixels ({width} × {height}): scale it down.")
            # A JPEG may carry a second image for other displays; the first is what everybody sees.
            if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
                raise UserError(f"{path} holds {frames} images: save the one that counts by itself.")
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{path} has too many pixels ({error}): scale it down.") from error
    except (UserError, MemoryError):
        raise
    except Exception as error:  # on a damaged file Pillow raises whatever a decoder stumbles over
        raise UserError(
            f"{path} cannot be read as an image ({error}): restore it from the source."
        ) from error


def read_rgb(path: Path) -> Pixels:
    """Reads an image as RGB ``[H, W, 3]``: 16 bits are scaled to 8, palettes looked up, alpha dropped."""
    return np.asarray(_rgb(read_image(path), path), np.uint8)


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode == "F":
        raise UserError(f"{path} holds floating-point pixels: save it with 8 or 16 bits a channel.")
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit values at 255 instead of scaling them.
        wide = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def read_mask(path: Path) -> Pixels:
    """Reads a mask as 0 and 1 ``[H, W]``: any value other than 0 (black) is anomalous."""
    image = read_image(path)
    if image.mode not in ("1", "L") and not image.mode.startswith(("I", "F")):
        image = _rgb(image, path)
    marked = np.asarray(image) != 0
    return np.asarray(marked.any(axis=2) if marked.ndim == 3 else marked, np.uint8)


def read_resized(path: Path, fit: ImageFit) -> Pixels:
    """Reads an image, resized and cropped as a protocol says: RGB ``[size, size, 3]``."""
    image, side = _rgb(read_image(path), path), fit.side
    if fit.resize == "opencv":
        whole = cv2.resize(np.asarray(image), (side, side), interpolation=cv2.INTER_LINEAR)
        return _middle(np.asarray(whole, np.uint8), fit.size)
    return _middle(np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)), fit.size)


def resized_masks(paths: Sequence[Path], fit: ImageFit) -> Pixels:
    """Returns the union of an image's masks at its size, uint8 ``[size, size]``."""
    side = fit.side
    united = np.zeros((side, side), np.uint8)
    for path in paths:
        united |= np.asarray(
            cv2.resize(read_mask(path), (side, side), interpolation=cv2.INTER_NEAREST), np.uint8
        )
    return _middle(united, fit.size)


def _middle(pixels: Pixels, size: int) -> Pixels:
    start = (len(pixels) - size) // 2
    return pixels[start : start + size, start : start + size]
