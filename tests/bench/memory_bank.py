"""PatchCore's coreset and PaDiM's Gaussians, against anomalib's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.method import Setup, TrainingData
from harness.profiling.memory import PeakMemory
from methods.anomalib.coreset import greedy_coreset, sparse_projection
from methods.anomalib.padim import fit_gaussians
from tests.bench.pairs import Pair
from tests.bench.reconstruction import images

# Rows that are equally far but for this share are so within float32's rounding, which processors differ in.
ROUNDING = 1e-6
# Training images of the largest category of MVTec AD.
LARGEST = 391


def patches(rows: int, features: int) -> Tensor:
    """Returns clustered rows, as patches of one kind of object are."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(50, features, generator=generator)
    chosen = torch.randint(50, (rows,), generator=generator)
    return centres[chosen] + 0.3 * torch.randn(rows, features, generator=generator)


def _from_farthest(X: Tensor, picks: list[int]) -> float:
    """Returns by what share a pick was nearer than the farthest row at its turn, at most; in float64."""
    X = X.double()
    nearest = (X - X[picks[0]]).norm(dim=1)
    excess = 0.0
    for pick in picks[1:]:
        excess = max(excess, 1 - float(nearest[pick] / nearest.max()))
        nearest = torch.minimum(nearest, (X - X[pick]).norm(dim=1))
    return excess


def pairs(rounds: int = 3, rows: int = 20_000, features: int = 384) -> Iterator[Pair]:
    """Yields the comparisons; the coreset's picks are checked to be the same but for ties."""
    from anomalib.models.components.sampling import k_center_greedy
    from anomalib.models.components.stats.multi_variate_gaussian import MultiVariateGaussian

    X = patches(rows, features)
    projection = sparse_projection(rows, features, torch.Generator().manual_seed(1))
    count = rows // 20
    torch.manual_seed(7)
    start = int(torch.randint(rows, (1,)))

    class Projection:
        """Stands for anomalib's own random projection: both sides have the same."""

        def fit(self, _: Tensor) -> None:
            pass

        def transform(self, features: Tensor) -> Tensor:
            return features @ projection

    def theirs() -> list[int]:
        greedy: Any = k_center_greedy.KCenterGreedy(X, sampling_ratio=count / rows)
        greedy.model = Projection()
        torch.manual_seed(7)
        return [int(i) for i in greedy.select_coreset_idxs()]

    def ours() -> list[int]:
        return [int(i) for i in greedy_coreset(X @ projection, count, start)]

    mine, others = ours(), theirs()
    agree = next((i for i, (a, b) in enumerate(zip(mine, others, strict=True)) if a != b), count)
    excess = max(_from_farthest(X @ projection, picks) for picks in (mine, others))
    if excess > ROUNDING:
        raise RuntimeError(f"pick {agree} differs from anomalib's, and not by rounding: {excess:.1e}")
    same = "the same picks" if agree == count else f"the same picks up to {agree}, where rows tie"
    note = f"{count} of {rows} rows of {features} numbers, projected to {projection.shape[1]}; {same}"
    yield Pair("PatchCore's coreset", ours, theirs, "anomalib's", 3, rounds, note=note)

    E = patches(60 * 196, 100).reshape(60, 14, 14, 100).permute(0, 3, 1, 2).contiguous()
    yield Pair(
        "PaDiM's Gaussians",
        lambda: fit_gaussians(E.flatten(2), 0.01),
        lambda: MultiVariateGaussian().fit(E),
        "anomalib's",
        1,
        5,
        note="60 images, 14 × 14 positions, 100 channels",
    )
    note = f"{LARGEST} training images of 256 px, as MVTec AD's hazelnut has, and a batch predicted"
    yield Pair("PatchCore's memory", _patchcore_memory, lambda: 24_000, "24 GB", 1, 1, "MB", note)


class WideMaps:
    """Feature maps of the size that Wide-ResNet50-2 has, without its arithmetic."""

    channels, reductions = (512, 1024), (8, 16)
    mean, std = (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Patches of the images' grey values, times a random vector for each map, and noise."""
        found = []
        for channels, stride in zip(self.channels, self.reductions, strict=True):
            grey = F.avg_pool2d(x.mean(dim=1, keepdim=True), stride)
            vector = torch.randn(1, channels, 1, 1, generator=torch.Generator().manual_seed(channels))
            found.append(grey * vector + torch.randn(len(x), channels, *grey.shape[2:]))
        return found


def _patchcore_memory() -> float:
    """Returns the peak megabytes of PatchCore with the paper's settings, above what was held before."""
    from methods.anomalib.patchcore import PatchCore, PatchCoreConfig

    def none(_: str) -> Any:
        raise RuntimeError("nothing but feature maps is needed here")

    cpu = torch.device("cpu")
    method = PatchCore(PatchCoreConfig(), Setup(cpu, 256, 0, none, lambda *_: WideMaps(), none, Path()))
    some = images(LARGEST)
    memory = PeakMemory(cpu)
    method.fit(TrainingData(some, some, 0), lambda _: None)
    method.predict(some.batch(range(32)))
    return memory.read()["host"] / 1e6
