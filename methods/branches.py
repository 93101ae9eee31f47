"""ULSAD without its networks: distances, attention, and from the branches' maps to one anomaly map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.method import Prediction
from methods.blur import blur


def upsample(x: Tensor, size: int) -> Tensor:
    """Bilinear interpolation of ``[B, C, h, w]`` to ``[B, C, size, size]``."""
    return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)


def distance(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """l_v + λ l_d per position: ``[B, c, ...]`` twice → ``[B, ...]``, at least 0.

    l_v(a, b) = ‖a − b‖² is divided by the number of channels, as in the code; l_d(a, b) = 1 − cos(a, b).
    """
    l_v = (a - b).square().mean(dim=1)
    if weight == 0:
        return l_v
    return l_v + weight * (1 - F.cosine_similarity(a, b, dim=1))


def attend(queries: Tensor, Z: Tensor) -> Tensor:
    """Attention over true features, eq. 3 (queries Z) and 4 (queries Ẑ); the softmax runs over the keys.

    Args:
        queries: ``[B, c*, k*]``.
        Z: keys and values, ``[B, c*, k*]``.

    Returns:
        ``[B, c*, k*]``: for each query, the average of Z's columns weighted by softmax(ZᵀẐ / √c*).
    """
    keys = Z.transpose(1, 2)
    return F.scaled_dot_product_attention(queries.transpose(1, 2), keys, keys).transpose(1, 2)


def attention(queries: Tensor, U: Tensor) -> Tensor:
    """Attention that each position of U gets, mean over queries: ``[B, c*, h*, w*]`` → ``[B, h*, w*]``."""
    weights = queries.flatten(2).transpose(1, 2) @ U.flatten(2) / U.shape[1] ** 0.5
    received: Tensor = weights.softmax(dim=2).mean(dim=1)
    return received.view(len(U), *U.shape[2:])


def quantiles(
    maps: Tensor,
    at: tuple[float, float],
    kernel: Tensor | None,
    size: int,
    most: int,
    generator: torch.Generator,
) -> Tensor:
    """Returns q_α and q_β of each branch over the pixels of normal maps, ``[branches, 2]``.

    The maps are blurred, as in the code, although those that :func:`combine` normalises by them are not yet.

    Args:
        maps: ``[branches, N, h, w]``.
        at: α and β.
        kernel: of the blur, ``None`` for none.
        size: side that the maps are upsampled to.
        most: of more pixels than this, so many random ones count.
        generator: draws them.
    """
    upsampled = (upsample(branch[:, None], size)[:, 0] for branch in maps)
    pixels = torch.stack([(m if kernel is None else blur(m, kernel)).flatten() for m in upsampled])
    if pixels.shape[1] > most:
        chosen = torch.randint(pixels.shape[1], (most,), generator=generator)
        pixels = pixels[:, chosen.to(pixels.device)]
    levels = torch.tensor(at, device=pixels.device)
    return torch.stack([torch.quantile(branch, levels) for branch in pixels])


def combine(maps: Sequence[Tensor], q: Tensor | None, kernel: Tensor | None, size: int) -> Prediction:
    """M = (t(M^l) + t(M^g)) / 2, each blurred after its normalisation; the score is its maximum.

    Args:
        maps: of each branch, ``[B, h, w]``.
        q: from :func:`quantiles`; without them raw maps are averaged.
        kernel: of the blur, ``None`` for none.
        size: side that the maps are upsampled to.
    """
    maps = [upsample(m[:, None], size)[:, 0] for m in maps]
    if q is not None:
        # t(M) = 0.1 (M − q_α) / (q_β − q_α); the paper's parentheses are misprinted.
        spread = (q[:, 1] - q[:, 0]).clamp_min(1e-12)
        maps = [0.1 * (m - low) / width for m, low, width in zip(maps, q[:, 0], spread, strict=True)]
    if kernel is not None:
        maps = [blur(m, kernel) for m in maps]
    combined = torch.stack(maps).mean(dim=0)
    parts = dict(zip(("local", "global"), maps, strict=False))
    return Prediction(score=combined.amax(dim=(1, 2)), map=combined, parts=parts)
