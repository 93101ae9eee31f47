"""Small stand-ins for what the harness hands to a method: a backbone, a setup, images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.method import Images, Setup


class TinyBackbone:
    """Fixed random convolutions with the wanted strides."""

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def __init__(self, strides: Sequence[int]) -> None:
        self.reductions = tuple(strides)
        self.channels = tuple(6 + 2 * i for i in range(len(strides)))
        generator = torch.Generator().manual_seed(0)
        self.kernels = [
            torch.randn(c, 3, s, s, generator=generator) / s
            for c, s in zip(self.channels, strides, strict=True)
        ]

    def __call__(self, x: Tensor) -> list[Tensor]:
        return [F.conv2d(x, k, stride=s).relu() for k, s in zip(self.kernels, self.reductions, strict=True)]


def setup(size: int = 64) -> Setup:
    def none(_: str) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
        raise AssertionError("no whole network is needed here")

    return Setup(
        device=torch.device("cpu"),
        image_size=size,
        seed=0,
        load_network=none,
        load_features=lambda _, strides: TinyBackbone(strides),
        asset=lambda _: Path(),
        scratch=Path(),
    )


def images(count: int = 8, size: int = 64, seed: int = 0) -> Images:
    small = np.random.default_rng(seed).integers(0, 255, (count, size // 8, size // 8, 3), dtype=np.uint8)
    return Images(small.repeat(8, axis=1).repeat(8, axis=2))
