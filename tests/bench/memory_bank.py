"""PatchCore's coreset and PaDiM's Gaussians, against anomalib's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from methods.anomalib.coreset import greedy_coreset, sparse_projection
from methods.anomalib.padim import fit_gaussians
from tests.bench.pairs import Pair

# Rows that are equally far but for this share are so within float32's rounding, which processors differ in.
ROUNDING = 1e-6


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
