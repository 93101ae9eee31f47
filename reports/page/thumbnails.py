"""Pictures of the gallery: maps in colours, masks as outlines, and thumbnails."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

# Black, violet, red, orange, light yellow: lightness alone tells low from high, also in print.
_STOPS = np.array(
    [[0, 0, 4], [58, 15, 110], [140, 41, 129], [222, 73, 104], [254, 159, 109], [252, 253, 191]], np.float64
)
_TABLE = np.stack(
    [np.interp(np.arange(256), np.linspace(0, 255, len(_STOPS)), _STOPS[:, c]) for c in range(3)], axis=1
).astype(np.uint8)
# Yellow within black: one of them is seen on whatever the picture shows.
_LINE, _EDGE = (255, 230, 0), (0, 0, 0)


def heat(grey: npt.NDArray[np.uint8]) -> bytes:
    """Returns a map ``[H, W]`` in colours, as a JPEG file."""
    return _jpeg(Image.fromarray(_TABLE[grey]), 85)


def outlined(image: bytes, mask: bytes) -> bytes:
    """Returns an image with the outline of its mask, as a JPEG file; without a mask the image as it is.

    Args:
        image: a file.
        mask: a file of the same size, white where anomalous.
    """
    inside = _pixels(mask, "L") > 0
    if not inside.any():
        return image
    around = _grown(inside)
    pixels = _pixels(image, "RGB")
    pixels[_grown(around) & ~around] = _EDGE
    pixels[around & ~inside] = _LINE
    # Lines of one pixel keep their colour only where colours are kept for every pixel.
    return _jpeg(Image.fromarray(pixels), 90, subsampling=0)


def thumbnail(image: bytes, side: int) -> str:
    """Returns an image file at most ``side`` pixels wide as the address of its data."""
    with Image.open(io.BytesIO(image)) as picture:
        mask = picture.mode == "1"
        grey = picture.convert("L") if mask else picture
        if max(picture.size) > side:
            grey = grey.resize((side, side), Image.Resampling.BOX)
        if not mask:
            return _address(_jpeg(grey.convert("RGB"), 80), "jpeg")
        # A quarter of a pixel counts, so that scratches stay in sight.
        buffer = io.BytesIO()
        grey.point(lambda value: 255 if value >= 64 else 0).convert("1").save(buffer, "PNG", optimize=True)
        return _address(buffer.getvalue(), "png")


def _grown(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """A region and the pixels that touch it, corners included."""
    found = inside.copy()
    for axis in (0, 1):
        before, after = np.roll(found, 1, axis), np.roll(found, -1, axis)
        # What leaves on one side must not come in on the other.
        before[(slice(None),) * axis + (0,)] = False
        after[(slice(None),) * axis + (-1,)] = False
        found = found | before | after
    return found


def _pixels(file: bytes, mode: str) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(file)) as picture:
        return np.array(picture.convert(mode))


def _jpeg(picture: Image.Image, quality: int, subsampling: int = -1) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, optimize=True, subsampling=subsampling)
    return buffer.getvalue()


def _address(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
