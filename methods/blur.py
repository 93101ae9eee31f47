"""The separable Gaussian blur of anomaly maps."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian_kernel(sigma: float) -> Tensor:
    """Returns the weights of a Gaussian of 2·int(4σ + 0.5) + 1 pixels, summing to 1."""
    radius = int(4 * sigma + 0.5)
    x = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (x / sigma) ** 2)
    return (weights / weights.sum()).float()


def blur(
    maps: Tensor, kernel: Tensor, mirror: Literal["at the pixel", "at the edge"] = "at the pixel"
) -> Tensor:
    """Blurs maps ``[B, H, W]`` with a separable kernel.

    Args:
        maps: the maps.
        kernel: of :func:`gaussian_kernel`.
        mirror: how a line … a b c goes on beyond its end. ``at the pixel``: b a …, PyTorch's ``reflect``;
            ``at the edge``: c b a …, the default of SciPy's filters.
    """
    radius = len(kernel) // 2
    if mirror == "at the pixel":
        y = F.pad(maps[:, None], (radius, radius, radius, radius), mode="reflect")
    else:
        rows, columns = (_mirrored(size, radius, maps.device) for size in maps.shape[-2:])
        y = maps[:, None, rows][..., columns]
    y = F.conv2d(F.conv2d(y, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return y[:, 0]


def _mirrored(size: int, radius: int, device: torch.device) -> Tensor:
    """Returns the indices of a line that is mirrored at its edges as often as ``radius`` asks for."""
    i = torch.arange(-radius, size + radius, device=device) % (2 * size)
    return torch.minimum(i, 2 * size - 1 - i)
