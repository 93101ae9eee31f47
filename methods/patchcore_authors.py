"""PatchCore's network, memory and scores as its authors' published code computes them.

amazon-science/patchcore-inspection, commit fcaa92f: ``src/patchcore/patchcore.py``, ``common.py`` and
``sampler.py``. No library offers this variant; ``docs/methods/patchcore.md`` says where anomalib's differs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.method import Prediction
from methods.anomalib.coreset import greedy_coreset_from
from methods.blur import blur, gaussian_kernel

PATCH = 3
# Values of a patch, of each feature map and of all together (the main command in their README).
VALUES = 1024
PROJECTED = 128
STARTS = 10
SIGMA = 4.0


def patches(features: Tensor) -> Tensor:
    """Cuts a feature map ``[B, C, h, w]`` into 3×3 patches, zeros beyond the border: ``[B, h·w, 9·C]``."""
    return F.unfold(features, PATCH, padding=PATCH // 2).transpose(1, 2)


def pool(maps: Sequence[Tensor]) -> Tensor:
    """Pools each feature map's patches to 1,024 values and brings them to the finest map's grid.

    A patch's 9·C values, channel by channel, are averaged in 1,024 bins of equal width that may overlap.
    The authors interpolate patches before they pool them. Both are linear, the one over positions and the
    other over values, so that their order matters to rounding only, and this one to memory as well.

    Args:
        maps: feature maps ``[B, C_i, h_i, w_i]``, the finest first.

    Returns:
        ``[B, h, w, maps, 1024]``.
    """
    shape = maps[0].shape[-2:]
    found = []
    for features in maps:
        pooled = F.adaptive_avg_pool1d(patches(features), VALUES).transpose(1, 2)
        grid = pooled.reshape(len(features), VALUES, *features.shape[-2:])
        if grid.shape[-2:] != shape:
            grid = F.interpolate(grid, shape, mode="bilinear", align_corners=False)
        found.append(grid.permute(0, 2, 3, 1))
    return torch.stack(found, dim=3)


def random_projection(features: int, generator: torch.Generator) -> Tensor:
    """Draws the projection ``[features, 128]``: a linear layer as PyTorch initialises it.

    Its weights are uniform within ±1/√features.
    """
    bound = 1 / math.sqrt(features)
    return torch.empty(PROJECTED, features).uniform_(-bound, bound, generator=generator).T


def starting_points(rows: int, generator: torch.Generator) -> Tensor:
    """Draws ten different rows, or all where there are fewer."""
    return torch.randperm(rows, generator=generator)[:STARTS]


class AuthorsMemory:
    """The patches that are kept, and the scores of others by their distances to them.

    Args:
        neighbours: the score of a patch is the mean over so many nearest neighbours.
        device: where it computes.

    Attributes:
        memory: the patches that are kept, ``[patches, 1024]``.
    """

    def __init__(self, neighbours: int, device: torch.device) -> None:
        self.memory = torch.empty(0, VALUES, device=device)
        self._neighbours = neighbours
        self._kernel = gaussian_kernel(SIGMA).to(device)

    def embed(self, maps: Sequence[Tensor]) -> Tensor:
        """Feature maps ``[B, C_i, h_i, w_i]`` → patches ``[B, h, w, 1024]`` on the finest map's grid."""
        pooled = pool(maps).flatten(3)
        return F.adaptive_avg_pool1d(pooled.flatten(1, 2), VALUES).reshape(*pooled.shape[:3], VALUES)

    def select(self, rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Returns the numbers ``[count]`` of the rows ``[N, 1024]`` to keep.

        The pick is always the row that is farthest from its nearest pick, by distances after a projection;
        none counts as farther than its mean distance to ten random rows.
        """
        projected = rows @ random_projection(rows.shape[1], generator).to(rows.device)
        starts = projected[starting_points(len(rows), generator).to(rows.device)]
        bound = torch.stack([torch.linalg.norm(projected - start, dim=1) for start in starts]).mean(dim=0)
        return greedy_coreset_from(projected, count, bound)

    def distances(self, rows: Tensor) -> Tensor:
        """Returns the mean squared distance of rows ``[N, 1024]`` to their nearest in memory, ``[N]``."""
        squares = rows.square().sum(dim=1, keepdim=True) + self.memory.square().sum(dim=1)
        near = (squares - 2 * rows @ self.memory.T).topk(
            min(self._neighbours, len(self.memory)), dim=1, largest=False
        )
        # A matrix product finds the neighbours; what it makes of small distances is rounding.
        return torch.stack(
            [(rows - self.memory[nearest]).square().sum(dim=1) for nearest in near.indices.T]
        ).mean(dim=0)

    def score(self, embedding: Tensor, size: int) -> Prediction:
        """Patches ``[1, h, w, 1024]`` → the largest distance as score, and the map of side ``size``."""
        grid = self.distances(embedding.flatten(0, 2)).reshape(1, 1, *embedding.shape[1:3])
        maps = F.interpolate(grid, (size, size), mode="bilinear", align_corners=False)[:, 0]
        return Prediction(score=grid.amax(dim=(1, 2, 3)), map=blur(maps, self._kernel, mirror="at the edge"))
