"""Folders of photographs that EfficientAD learns from beside its training images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from harness.method import shuffled
from methods.features import KEEP_AT_MOST

PENALTY_GREY = 0.3
_SUFFIXES = {".png", ".jpg", ".jpeg"}


def image_files(folder: Path) -> list[Path]:
    """Lists the images below a folder by name.

    Raises:
        FileNotFoundError: there is none.
    """
    found = [path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES]
    if not found:
        raise FileNotFoundError(f"There is no image in {folder}: fetch them again")
    return sorted(found, key=Path.as_posix)


def read_image(path: Path, side: int | None = None) -> Tensor:
    """Reads an image as uint8 RGB ``[3, H, W]``, resized to a square of the given side if there is one."""
    from PIL import Image

    with Image.open(path) as file:
        image = file.convert("RGB")
    if side is not None:
        image = image.resize((side, side), Image.Resampling.BILINEAR)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1).contiguous()


def grey(images: Tensor) -> Tensor:
    """Replaces the channels of ``[..., 3, H, W]`` by their luma (ITU-R 601), thrice."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device).view(3, 1, 1)
    return (images * weights).sum(dim=-3, keepdim=True).expand_as(images)


def random_crop(photo: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Cuts a random square out of uint8 ``[3, H, W]`` and resizes it to ``side``; float in [0, 1].

    Its side is drawn between ``side`` (or the photograph's, if smaller) and the photograph's shorter one.
    """
    height, width = photo.shape[1:]
    u, v, w = torch.rand(3, generator=generator).tolist()
    shorter = min(height, width)
    cut = round(min(side, shorter) + u * max(shorter - side, 0))
    top, left = int(v * (height - cut + 1)), int(w * (width - cut + 1))
    square = photo[None, :, top : top + cut, left : left + cut].float() / 255
    size = (side, side)
    return torch.nn.functional.interpolate(square, size=size, mode="bilinear", antialias=True)[0]


class PenaltyImages:
    """Photographs in a random order, for ever: squashed to 2S × 2S, the middle S × S of them, some grey.

    As in anomalib and in github.com/nelson1425/EfficientAD. Decoded images are kept while they fit into
    memory.

    Args:
        folder: where they lie.
        size: side S.
        generator: of the order and of which are grey (30 %).
    """

    def __init__(self, folder: Path, size: int, generator: torch.Generator) -> None:
        self._paths = image_files(folder)
        self._size = size
        self._generator = generator
        self._order: list[int] = []
        self._kept: dict[int, Tensor] = {}
        self._room = KEEP_AT_MOST // (3 * size * size)

    def __iter__(self) -> Iterator[Tensor]:
        """The iterator is the object itself."""
        return self

    def __next__(self) -> Tensor:
        """Returns float ``[1, 3, S, S]`` in [0, 1] on the CPU."""
        if not self._order:
            self._order = [row for rows in shuffled(len(self._paths), 1, self._generator) for row in rows]
        image = self._image(self._order.pop(0)).float()[None] / 255
        is_grey = float(torch.rand((), generator=self._generator)) < PENALTY_GREY
        return grey(image) if is_grey else image

    def state_dict(self) -> dict[str, list[int]]:
        """Returns which photographs are still to come, in their order; the generator is its owner's."""
        return {"order": list(self._order)}

    def load_state_dict(self, state: Mapping[str, list[int]]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self._order = list(state["order"])

    def _image(self, index: int) -> Tensor:
        if index in self._kept:
            return self._kept[index]
        side, start = self._size, self._size // 2
        large = read_image(self._paths[index], 2 * side)
        image = large[:, start : start + side, start : start + side].clone()
        if len(self._kept) < self._room:
            self._kept[index] = image
        return image
