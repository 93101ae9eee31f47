"""Frozen features of the training images: computed once and kept, where there is room for them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal
from uuid import uuid4

import torch
from torch import Tensor

from harness.method import Images, Setup

# Where features are kept, as records say it.
Place = Literal["the device's memory", "the host's memory", "a file", "nowhere, computed for every batch"]
# So many bytes of the host's memory; so large a share of the free disk, of a GPU, and of what is free of it.
# The whole GPU counts, so that a run needs the same memory whenever nothing else is there.
KEEP_AT_MOST = 2 * 1024**3
_DISK = 0.25
_GPU, _FREE = 0.25, 0.5


class FrozenFeatures:
    """Features of a fixed sequence of images, by index.

    Without augmentation a frozen network gives the same features in every epoch, so they are computed once
    and kept where :func:`find_place` says, which goes into ``setup.choices``.

    Args:
        images: the images.
        extract: maps uint8 ``[B, 3, S, S]`` to features ``[B, ...]`` of each image on its own.
        setup: the method's.
        batch_size: images per call of ``extract``.
        name: what they are, for ``setup.choices``.

    Attributes:
        place: where they are kept.
        device: where :meth:`batch` gives them.
    """

    def __init__(
        self,
        images: Images,
        extract: Callable[[Tensor], Tensor],
        setup: Setup,
        batch_size: int = 16,
        name: str = "features",
    ) -> None:
        self._images, self._extract, self.device = images, extract, setup.device
        self._kept: Tensor | None = None
        with torch.no_grad():
            first = extract(images.batch([0]))
        self.place = find_place(first.nbytes * len(images), setup)
        shape = (len(images), *first.shape[1:])
        match self.place:
            case "the device's memory":
                self._kept = first.new_empty(shape)
            case "the host's memory":
                self._kept = first.new_empty(shape, device="cpu")
            case "a file":
                self._kept = _mapped(setup.scratch / f"features-{uuid4().hex}", shape, first.dtype)
        if self._kept is not None:
            self._fill(self._kept, batch_size)
        setup.choices[name] = self.place

    @torch.no_grad()
    def _fill(self, kept: Tensor, batch_size: int) -> None:
        for start, images in enumerate(self._images.batches(batch_size)):
            kept[start * batch_size : start * batch_size + len(images)] = self._extract(images)

    def __len__(self) -> int:
        return len(self._images)

    @torch.no_grad()
    def batch(self, indices: Sequence[int]) -> Tensor:
        """Returns the features of the images at ``indices`` on the device, ``[B, ...]``."""
        if self._kept is not None:
            return self._kept[list(indices)].to(self.device)
        return self._extract(self._images.batch(indices))


def find_place(size: int, setup: Setup) -> Place:
    """Returns where so many bytes of features are kept: in the fastest memory that has room for them.

    A disk gives them back faster than a CPU computes them, but not than a GPU does.
    """
    on_gpu = setup.device.type == "cuda"
    if on_gpu:
        free, whole = torch.cuda.mem_get_info(setup.device)
        if size <= min(_GPU * whole, _FREE * free):
            return "the device's memory"
    if size <= KEEP_AT_MOST:
        return "the host's memory"
    if not on_gpu and size <= _DISK * shutil.disk_usage(setup.scratch).free:
        return "a file"
    return "nowhere, computed for every batch"


def _mapped(path: Path, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Returns a tensor that lies in a new file."""
    count = torch.Size(shape).numel()
    with path.open("wb") as file:
        # Without its space reserved, writing to a mapped file on a full disk kills the process.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, count * dtype.itemsize)
        else:
            file.truncate(count * dtype.itemsize)
    return torch.from_file(str(path), shared=True, size=count, dtype=dtype).view(shape)
