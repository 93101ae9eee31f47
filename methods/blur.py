"""The separable Gaussian blur of anomaly maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian_kernel(sigma: float) -> Tensor:
    """Returns the weights of a Gaussian of 2·int(4σ + 0.5) + 1 pixels, summing to 1."""
    radius = int(4 * sigma + 0.5)
    x = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (x / sigma) ** 2)
    return (weights / weights.sum()).float()


def blur(maps: Tensor, kernel: Tensor) -> Tensor:
    """Blurs maps ``[B, H, W]`` with a separable kernel, reflecting at the border."""
    radius = len(kernel) // 2
    y = F.pad(maps[:, None], (radius, radius, radius, radius), mode="reflect")
    y = F.conv2d(F.conv2d(y, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return y[:, 0]
