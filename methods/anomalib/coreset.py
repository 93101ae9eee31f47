"""Greedy k-centre selection, exact and fast.

O. Sener, S. Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018,
algorithm 1, as PatchCore uses it (paper, section 3.2): the next pick is always the row farthest from its
nearest pick so far. anomalib measures every row against every new pick. Here a row's last known distance is
kept as an upper bound, since picks only bring it down, and a row is measured again only when its bound is
among the largest. Distances are computed as anomalib computes them, so that the picks are the same. The
authors' code begins with another bound instead of a first pick, and goes on alike.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

WORKING = 1024
MATRIX = 2**22


def sparse_projection(rows: int, features: int, generator: torch.Generator, eps: float = 0.9) -> Tensor:
    """Returns a sparse random projection that nearly keeps distances (Li, Hastie and Church, KDD 2006).

    Entries are 0, or ±1 with a probability of 1/√features in all, scaled; the number of components is
    Johnson and Lindenstrauss' for ``eps``, which may exceed the number of features.

    Args:
        rows: number of vectors that will be projected.
        features: their length.
        generator: draws the entries.
        eps: allowed distortion; anomalib takes 0.9 for PatchCore.

    Returns:
        float32 ``[features, components]``.
    """
    components = max(1, int(4 * math.log(rows) / (eps**2 / 2 - eps**3 / 3)))
    density = 1 / math.sqrt(features)
    draws = torch.rand(2, features, components, generator=generator)
    signs = torch.where(draws[1] < 0.5, -1.0, 1.0)
    return torch.where(draws[0] < density, signs, 0.0) / math.sqrt(density * components)


def greedy_coreset(X: Tensor, count: int, start: int) -> Tensor:
    """Selects rows one by one, each the farthest from those already selected.

    Args:
        X: float ``[N, d]``.
        count: how many to select, at most N.
        start: the first of them.

    Returns:
        Indices ``[count]`` in the order of selection. Among equally far rows any may come first.
    """
    picks = torch.empty(count, dtype=torch.long, device=X.device)
    picks[0] = start
    return _fill(X, picks, 1, torch.linalg.norm(X - X[start], dim=1))


def greedy_coreset_from(X: Tensor, count: int, bound: Tensor) -> Tensor:
    """Selects rows one by one, each the one with the largest bound or distance to those already selected.

    Args:
        X: float ``[N, d]``.
        count: how many to select, at most N.
        bound: float ``[N]``; no row counts as farther than this, whatever has been selected.

    Returns:
        Indices ``[count]`` in the order of selection. Among equally far rows any may come first.
    """
    picks = torch.empty(count, dtype=torch.long, device=X.device)
    return _fill(X, picks, 0, bound.clone())


def _fill(X: Tensor, picks: Tensor, done: int, bound: Tensor) -> Tensor:
    """Completes ``picks`` after the first ``done``; ``bound`` is each row's distance to those, or less."""
    count = len(picks)
    seen = torch.full((len(X),), done, dtype=torch.long, device=X.device)
    size = min(WORKING, len(X))
    while done < count:
        top = bound.topk(min(size + 1, len(X)))
        rows = top.indices[:size]
        limit = top.values[-1] if len(X) > size else bound.new_tensor(-1.0)
        W = X[rows]
        distances = _catch_up(W, bound[rows], X[picks[:done]], seen[rows])
        while done < count:
            farthest = int(distances.argmax())
            if distances[farthest] < limit:
                break
            picks[done] = rows[farthest]
            distances = torch.minimum(distances, torch.linalg.norm(W - W[farthest], dim=1))
            done += 1
        bound[rows] = distances
        seen[rows] = done
    return picks


def _catch_up(W: Tensor, distances: Tensor, picks: Tensor, seen: Tensor) -> Tensor:
    """Measures rows against the picks they have not seen; rows that lag alike go together."""
    order = seen.argsort()
    step = 128
    for start in range(0, len(order), step):
        part = order[start : start + step]
        unseen = picks[int(seen[part[0]]) :]
        for first in range(0, len(unseen), MATRIX // step):
            distances[part] = _nearest(W[part], unseen[first : first + MATRIX // step], distances[part])
    return distances


def _nearest(W: Tensor, picks: Tensor, distances: Tensor) -> Tensor:
    """Returns the least of ``distances`` and the distances to ``picks``.

    A matrix product finds the candidates; only those are measured as exactly as all the others are.
    """
    w, p = W.square().sum(dim=1, keepdim=True), picks.square().sum(dim=1)
    squared = w + p - 2 * W @ picks.T
    doubt = 1e-5 * (w + p.max())
    least = torch.minimum(squared.amin(dim=1), distances.square())[:, None]
    row, pick = (squared <= least + doubt).nonzero(as_tuple=True)
    exact = torch.linalg.norm(W[row] - picks[pick], dim=1)
    return distances.scatter_reduce(0, row, exact, "amin")
