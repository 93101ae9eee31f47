"""Frozen features of the training images: computed once and kept, where they fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from harness.method import Images

KEEP_AT_MOST = 2 * 1024**3


class FrozenFeatures:
    """Features of a fixed sequence of images, by index.

    Without augmentation a frozen network gives the same features in every epoch, so they are kept if all
    of them together take at most ``limit`` bytes, and computed again for every batch otherwise.

    Args:
        images: the images.
        extract: maps uint8 ``[B, 3, S, S]`` to features ``[B, ...]`` of each image on its own.
        batch_size: images per call of ``extract``.
        limit: bytes that may be kept.
    """

    def __init__(
        self,
        images: Images,
        extract: Callable[[Tensor], Tensor],
        batch_size: int = 16,
        limit: int = KEEP_AT_MOST,
    ) -> None:
        self._images = images
        self._extract = extract
        self._batch_size = batch_size
        self._kept: Tensor | None = None
        with torch.no_grad():
            first = extract(images.batch([0]))
            if first.nbytes * len(images) <= limit:
                self._kept = first.new_empty((len(images), *first.shape[1:]))
                for start, images_ in enumerate(images.batches(batch_size)):
                    rows = slice(start * batch_size, start * batch_size + len(images_))
                    self._kept[rows] = extract(images_)

    @property
    def kept(self) -> bool:
        """Whether the features are held in memory."""
        return self._kept is not None

    def __len__(self) -> int:
        return len(self._images)

    @torch.no_grad()
    def batch(self, indices: Sequence[int]) -> Tensor:
        """Returns the features of the images at ``indices``, ``[B, ...]``."""
        if self._kept is not None:
            return self._kept[list(indices)]
        return self._extract(self._images.batch(indices))
