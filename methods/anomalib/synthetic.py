"""Synthetic anomalies: pieces of foreign textures, shaped by Perlin noise, as DRAEM's authors make them.

After ``data_loader.py`` and ``perlin.py`` of github.com/VitjanZ/DRAEM (commit 2dbf673). Its ten changes of a
texture come from imgaug 0.4.0; here they are OpenCV's and Pillow's, with the same ranges. All of them work
on uint8 images ``[S, S, 3]``. The authors read images by OpenCV, blue first, and imgaug takes blue for red;
textures are changed in that order here, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from methods.anomalib.photos import image_files

Pixels = NDArray[np.uint8]

SHARE = 0.5  # of the images that get an anomaly, as far as its mask is not empty
CHANGES = 3  # of a texture
FINEST = 5  # Perlin noise has 2⁰ to 2⁵ cells on a side
THRESHOLD = 0.5
TURN = 90.0  # largest rotation of Perlin noise in degrees
# Colour spaces, with their channel of brightness
BRIGHTNESS = {"YCrCb": 0, "HSV": 2, "HLS": 1, "Lab": 0, "Luv": 0, "YUV": 0}


class Draw:
    """Numbers from a generator.

    Args:
        generator: on the CPU.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def array(self, *shape: int) -> NDArray[np.float64]:
        """Numbers in [0, 1)."""
        return torch.rand(shape, generator=self._generator, dtype=torch.float64).numpy()

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * float(self.array(1)[0])

    def integer(self, low: int, high: int) -> int:
        """An integer from low to high, both of them possible."""
        return int(torch.randint(low, high + 1, (1,), generator=self._generator))

    def several(self, count: int, of: int) -> list[int]:
        """Distinct integers below ``of``, in a random order."""
        found: list[int] = torch.randperm(of, generator=self._generator)[:count].tolist()
        return found


def perlin_noise(side: int, cells: Sequence[int], angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gradient noise, about −1 to 1, ``[side, side]``.

    Perlin, "Improving noise", 2002: fade 6t⁵ − 15t⁴ + 10t³, times √2.

    Args:
        side: of the image.
        cells: how many there are down and across; each divides ``side``.
        angles: of the gradient at each corner of a cell, in radians, one more each way than there are cells.
    """
    (y, row), (x, column) = (np.modf(np.arange(side) * count / side) for count in cells)
    gradients = np.stack([np.cos(angles), np.sin(angles)])

    def corner(down: int, right: int) -> NDArray[np.float64]:
        vertical, horizontal = gradients[:, row.astype(int) + down][:, :, column.astype(int) + right]
        along: NDArray[np.float64] = vertical * (y - down)[:, None] + horizontal * (x - right)
        return along

    fade_y, fade_x = (6 * t**5 - 15 * t**4 + 10 * t**3 for t in (y[:, None], x))
    left = corner(0, 0) + fade_y * (corner(1, 0) - corner(0, 0))
    right = corner(0, 1) + fade_y * (corner(1, 1) - corner(0, 1))
    noise: NDArray[np.float64] = math.sqrt(2) * (left + fade_x * (right - left))
    return noise


def rotated(image: NDArray[Any], degrees: float) -> NDArray[Any]:
    """Turns an image about its middle, clockwise; bilinear, zero outside."""
    side = image.shape[0]
    middle = (side - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), -degrees, 1.0)
    return cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR)


def gamma(image: Pixels, exponents: Sequence[float]) -> Pixels:
    """255 (v/255)^γ, with an exponent for each channel, rounded down."""
    level = np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    table = (level ** np.asarray(exponents, np.float32) * 255).clip(0, 255).astype(np.uint8)
    return np.stack([table[image[..., c], c] for c in range(3)], axis=-1)


def brightness(image: Pixels, space: str, factor: float, offset: float, factor_first: bool) -> Pixels:
    """Multiplies and shifts the channel of brightness in a colour space of :data:`BRIGHTNESS`."""
    found = cv2.cvtColor(image, getattr(cv2, f"COLOR_RGB2{space}"))
    level = np.arange(256, dtype=np.float32)
    for multiply in (factor_first, not factor_first):
        level = level * np.float32(factor) if multiply else level + round(offset)
        level = np.floor(level.clip(0, 255))
    channel = BRIGHTNESS[space]
    found[..., channel] = level.astype(np.uint8)[found[..., channel]]
    return np.asarray(cv2.cvtColor(found, getattr(cv2, f"COLOR_{space}2RGB")), np.uint8)


def hue_and_saturation(image: Pixels, hue: int, saturation: int) -> Pixels:
    """Shifts the hue by ``hue`` / 255 of a turn and the saturation by ``saturation`` / 255."""
    found = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(int)
    found[..., 0] = (found[..., 0] + int(hue / 255 * 180)) % 180  # OpenCV's turn is 180
    found[..., 1] = (found[..., 1] + saturation).clip(0, 255)
    return np.asarray(cv2.cvtColor(found.astype(np.uint8), cv2.COLOR_HSV2RGB), np.uint8)


def solarized(image: Pixels, threshold: float) -> Pixels:
    """Inverts the values from a threshold on."""
    return np.where(image >= int(threshold), 255 - image, image)


def posterized(image: Pixels, bits: int) -> Pixels:
    """Keeps the uppermost bits of each value."""
    return image & np.uint8(256 - 2 ** (8 - bits))


def sharpened(image: Pixels, factor: float) -> Pixels:
    """Pillow's: 0 smooths, 1 changes nothing, 2 sharpens."""
    from PIL import Image, ImageEnhance

    return np.asarray(ImageEnhance.Sharpness(Image.fromarray(image)).enhance(factor))


def contrasted(image: Pixels, percent: int) -> Pixels:
    """Stretches each channel to 0 … 255, without that many per cent of its values at either end."""
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.autocontrast(Image.fromarray(image), cutoff=percent))


def equalized(image: Pixels) -> Pixels:
    """Makes the histogram of each channel flat."""
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.equalize(Image.fromarray(image)))


def _brightness(image: Pixels, draw: Draw) -> Pixels:
    space = list(BRIGHTNESS)[draw.integer(0, len(BRIGHTNESS) - 1)]
    return brightness(
        image, space, draw.uniform(0.8, 1.2), draw.uniform(-30, 30), factor_first=draw.uniform(0, 1) < 0.5
    )


# The authors' ten with their ranges (data_loader.py, lines 80 to 89); what is not given there is imgaug's.
KINDS: tuple[Callable[[Pixels, Draw], Pixels], ...] = (
    lambda image, draw: gamma(image, [draw.uniform(0.5, 2) for _ in range(3)]),
    _brightness,
    lambda image, draw: sharpened(image, draw.uniform(0, 2)),
    lambda image, draw: hue_and_saturation(image, draw.integer(-50, 50), draw.integer(-50, 50)),
    lambda image, draw: solarized(image, draw.uniform(32, 128)) if draw.uniform(0, 1) < 0.5 else image,
    lambda image, draw: posterized(image, draw.integer(1, 8)),
    lambda image, draw: 255 - image,
    lambda image, draw: contrasted(image, draw.integer(0, 20)),
    lambda image, draw: equalized(image),
    lambda image, draw: rotated(image, draw.uniform(-45, 45)),
)


def blended(image: Tensor, texture: Pixels, mask: NDArray[np.bool_], opacity: float) -> Tensor:
    """Puts a texture into an image where a mask says so (paper of DRAEM, eq. 4).

    Args:
        image: ``[3, S, S]`` in [0, 1].
        texture: ``[S, S, 3]``, channels in the image's order.
        mask: ``[S, S]``.
        opacity: of the texture, in [0, 1].
    """
    foreign = torch.from_numpy(np.ascontiguousarray(texture)).permute(2, 0, 1).float() / 255
    return torch.where(torch.from_numpy(mask), opacity * foreign + (1 - opacity) * image, image)


class SyntheticAnomalies:
    """Makes training examples of normal images.

    An empty mask, which 5 % of them are, stays empty, as in the authors' code.

    Args:
        folder: of the textures.
        opacity: least and largest opacity of a texture.
        rotation: largest rotation of a normal image in degrees.
        rotated: share of the normal images that is rotated.
        generator: draws everything.

    Raises:
        FileNotFoundError: there is no texture in the folder.
    """

    def __init__(
        self,
        folder: Path,
        opacity: tuple[float, float],
        rotation: float,
        rotated: float,
        generator: torch.Generator,
    ) -> None:
        # By name: a folder lists its files in any order, and the draws are by number.
        self.paths = image_files(folder)
        self._opacity, self._rotation, self._rotated = opacity, rotation, rotated
        self._draw = Draw(generator)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Makes a batch.

        Args:
            images: uint8 ``[B, 3, S, S]``, RGB, on the CPU; S a multiple of 32.

        Returns:
            The images, some of them rotated, and the same with anomalies, ``[B, 3, S, S]`` in [0, 1]; and
            the masks of the anomalies, ``[B, 1, S, S]``, 0 or 1.

        Raises:
            ValueError: a texture cannot be read.
        """
        found = [self._example(image) for image in images.permute(0, 2, 3, 1).contiguous().numpy()]
        X, X_a, masks = (torch.stack(part) for part in zip(*found, strict=True))
        return X, X_a, masks

    def _example(self, image: Pixels) -> tuple[Tensor, Tensor, Tensor]:
        draw, side = self._draw, image.shape[0]
        if draw.uniform(0, 1) < self._rotated:
            image = rotated(image, draw.uniform(-self._rotation, self._rotation))
        X = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        mask = np.zeros((side, side), dtype=bool)
        X_a = X
        if draw.uniform(0, 1) < SHARE:
            mask = self._mask(side)
            X_a = blended(X, self._texture(side)[..., ::-1], mask, draw.uniform(*self._opacity))
        return X, X_a, torch.from_numpy(mask)[None].float()

    def _mask(self, side: int) -> NDArray[np.bool_]:
        cells = [2 ** self._draw.integer(0, FINEST) for _ in range(2)]
        angles = 2 * math.pi * self._draw.array(cells[0] + 1, cells[1] + 1)
        noise = rotated(perlin_noise(side, cells, angles), self._draw.uniform(-TURN, TURN))
        mask: NDArray[np.bool_] = noise > THRESHOLD
        return mask

    def _texture(self, side: int) -> Pixels:
        path = self.paths[self._draw.integer(0, len(self.paths) - 1)]
        read = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if read is None:
            raise ValueError(f"{path} is no image that OpenCV can read: fetch the textures again")
        image = np.asarray(cv2.resize(read, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)
        for number in self._draw.several(CHANGES, of=len(KINDS)):
            image = KINDS[number](image, self._draw)
        return image
