"""Thresholds from the scores of normal validation images, and what they do on the test images."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.data.card import NORMAL
from harness.spec.operating_points import TARGETS, Operating, Threshold

Floats = NDArray[np.float64]

RECALLS = (0.95, 0.99)
# The upper part of the scores that is taken for a tail, and how many of them a fit needs: with fewer it stops
# far more images than it is meant to, see docs/line.md.
TAIL = 0.25
LEAST = 25
# Below −1/2 the estimate has no usual distribution (R. L. Smith, Biometrika 1985); from 1 on no mean exists.
_SHAPES = (-0.5, 1.0)


def operating_points(
    normal: NDArray[np.float32],
    maps: NDArray[np.float32],
    scores: NDArray[np.float32],
    kinds: Sequence[str],
    splits: Collection[str],
    from_test: bool = False,
) -> Operating:
    """Returns thresholds and what they do.

    Args:
        normal: scores of the normal validation images, ``[V]``.
        maps: their anomaly maps, ``[V, S, S]``.
        scores: of the test images, finite, ``[N]``.
        kinds: ``normal`` or the kind of anomaly of each test image.
        splits: kinds that count on their own too.
        from_test: whether the validation images are the normal test images.
    """
    values = scores.astype(np.float64)
    labels = np.array(kinds)
    groups = {NORMAL: labels == NORMAL, "all": labels != NORMAL}
    groups |= {kind: labels == kind for kind in sorted({*splits} & {*kinds} - {NORMAL})}
    by_group = {name: values[rows] for name, rows in groups.items()}
    images = {name: len(own) for name, own in by_group.items()}
    left_out = []
    if from_test:
        left_out.append(
            "the thresholds are from the normal test images that their false alarms are counted on"
        )
    if not (np.isfinite(normal).all() and np.isfinite(maps).all()):
        left_out.append("no threshold: a validation image has a score or map that is not finite")
        return Operating(validation=len(normal), images=images, left_out=left_out)
    corners = frontier(by_group[NORMAL], by_group["all"])
    thresholds, missing = _thresholds(normal.astype(np.float64), by_group)
    return Operating(
        validation=len(normal),
        images=images,
        thresholds=thresholds,
        frontier=[_threshold("frontier", None, t, by_group) for t in corners],
        fpr={
            name: {f"{recall:g}": false_positives(by_group[NORMAL], own, recall) for recall in RECALLS}
            for name, own in by_group.items()
            if name != NORMAL and len(own) and images[NORMAL]
        },
        map_range=(float(np.median(maps)), float(maps.max())),
        left_out=left_out + missing,
    )


def _thresholds(normal: Floats, groups: dict[str, Floats]) -> tuple[list[Threshold], list[str]]:
    """Returns what normal validation images give, and in words what they do not."""
    found, missing = [], []
    count = len(normal)
    found += [_threshold("quantile", target, quantile(normal, target), groups) for target in TARGETS]
    if below := [f"{100 * target:g} %" for target in TARGETS if 1 / (count + 1) > target]:
        missing.append(
            f"for {' and '.join(below)} the quantile is the highest of {count} scores, which promises no "
            f"less than {100 / (count + 1):.1f} % false alarms"
        )
    fitted = tail(normal)
    if isinstance(fitted, str):
        return found, [*missing, f"no extreme-value thresholds: {fitted}"]
    found += [_threshold("extreme value", target, beyond(fitted, target), groups) for target in TARGETS]
    return found, missing


def _threshold(rule: str, target: float | None, value: float, groups: dict[str, Floats]) -> Threshold:
    above = {name: int((own > value).sum()) for name, own in groups.items()}
    return Threshold.model_validate({"rule": rule, "target": target, "value": value, "above": above})


def quantile(normal: Floats, target: float) -> float:
    """Returns the threshold that a new normal image is above with a probability of at most ``target``.

    The k-th lowest of n scores with k = ⌈(n + 1)(1 − target)⌉, whatever their distribution, if the new image
    comes from the same one (split conformal prediction; Papadopoulos et al., ECML 2002). Where k is above n
    there is no such score, and the highest is returned.
    """
    count = len(normal)
    # Rounding must not carry a whole number past itself.
    k = math.ceil((count + 1) * (1 - target) - 1e-9)
    return float(np.sort(normal)[min(k, count) - 1])


Tail = tuple[float, float, float, float]


def tail(normal: Floats) -> Tail | str:
    """Fits a generalised Pareto distribution to the upper quarter of scores (peaks over a threshold).

    J. Pickands, "Statistical Inference Using Extreme Order Statistics", Annals of Statistics 1975; by maximum
    likelihood.

    Returns:
        Where the tail begins, its share of the scores, shape ξ and scale σ; or in words why there is none.
    """
    from scipy.optimize import minimize
    from scipy.stats import genpareto

    count = len(normal)
    used = int(TAIL * count)
    if used < LEAST:
        need = math.ceil(LEAST / TAIL)
        return f"{count} validation images are too few, a fit needs {need}"
    ordered = np.sort(normal)
    begin = float(ordered[-used - 1])
    excess = ordered[-used:] - begin
    unit = float(excess.mean())
    if unit <= 0:
        return f"the highest {used + 1} scores are equal"
    values = excess / unit

    def loss(parameters: Floats) -> float:
        found = float(genpareto.nnlf((parameters[0], 0.0, math.exp(parameters[1])), values))
        return found if math.isfinite(found) else sys.float_info.max

    with np.errstate(all="ignore"):
        fit = minimize(loss, (0.1, 0.0), method="Nelder-Mead", bounds=(_SHAPES, (-10, 10)))
    shape, scale = float(fit.x[0]), math.exp(fit.x[1])
    if not fit.success:
        return f"the fit to {used} scores found no best shape"
    return begin, used / count, shape, scale * unit


def beyond(fitted: Tail, target: float) -> float:
    """Returns what a share ``target`` of scores is above: u + σ/ξ ((target / share)^−ξ − 1)."""
    from scipy.stats import genpareto

    begin, share, shape, scale = fitted
    return begin + float(genpareto.isf(target / share, shape, scale=scale))


def false_positives(normal: Floats, anomalous: Floats, recall: float) -> float:
    """Returns the share of normal scores at or above the highest that ``recall`` of the others reach."""
    k = math.ceil(recall * len(anomalous) - 1e-9)
    return float((normal >= np.sort(anomalous)[-k]).mean())


def frontier(normal: Floats, anomalous: Floats) -> list[float]:
    """Returns the thresholds at the corners of the ROC curve's convex hull, descending.

    Each is half-way between two scores. Stopping nothing and stopping all are corners too, and left out.
    """
    if not (len(normal) and len(anomalous)):
        return []
    cuts = np.unique(np.concatenate([normal, anomalous]))[::-1]
    alarms = len(normal) - np.searchsorted(np.sort(normal), cuts, side="left")
    found = len(anomalous) - np.searchsorted(np.sort(anomalous), cuts, side="left")
    hull: list[int] = []
    points = [(0, 0), *zip(alarms.tolist(), found.tolist(), strict=True)]
    for place, (x, y) in enumerate(points):
        while len(hull) > 1:
            (ax, ay), (bx, by) = points[hull[-2]], points[hull[-1]]
            if (bx - ax) * (y - ay) < (by - ay) * (x - ax):
                break
            hull.pop()
        hull.append(place)
    return [float(cuts[i - 1] + cuts[i]) / 2 for i in hull if 0 < i < len(cuts)]
