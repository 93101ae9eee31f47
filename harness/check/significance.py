"""The tests of a check, on plain arrays. ``docs/check.md`` has their measured error rates.

**Scores.** The unit is a seed: the difference new − baseline of the same seed. Nothing changed: all are 0,
bit by bit. A change of a library or of the machine shifts each seed at random; then they scatter around 0.
With five seeds a cell's own variance has four degrees of freedom, and hardly a t test survives a correction
over a hundred others. So variances are moderated as in Smyth (2004, doi:10.2202/1544-6115.1027): each is
drawn towards what the other cells have, as strongly as they agree among themselves. A method over all its
categories is tested beside its cells, with the variances of its cells added up and Welch–Satterthwaite's
degrees of freedom.

**Many tests.** Benjamini and Hochberg's (1995) procedure.

**Times.** Mann and Whitney's test, with the shift that Hodges and Lehmann's estimator gives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import special, stats

Array = npt.NDArray[np.float64]
# Below this a variance (percent points squared) is rounding.
_ROUNDING = 1e-8
# So many variances are needed to say how much they agree.
_ENOUGH = 3


def loss_p(differences: Sequence[Array]) -> Array:
    """Returns one-sided p-values of losses [cells], by moderated paired t tests.

    Args:
        differences: for each cell new − baseline by seed, two seeds or more.
    """
    sizes = np.array([len(d) for d in differences], dtype=np.float64)
    means = np.array([d.mean() for d in differences], dtype=np.float64)
    variances = np.array([d.var(ddof=1) for d in differences], dtype=np.float64)
    variances, freedom = moderate(variances, sizes - 1)
    return _lower_t(means, variances / sizes, freedom)


def moderate(variances: Array, freedom: Array) -> tuple[Array, Array]:
    """Draws variances towards each other.

    The prior, a scaled inverse χ² distribution, is fitted to the mean and variance of the logarithms.

    Args:
        variances: sample variances [n].
        freedom: their degrees of freedom [n].

    Returns:
        Moderated variances [n] and their degrees of freedom [n], infinite where all agree.
    """
    used = variances > _ROUNDING
    if used.sum() < _ENOUGH:
        return variances, freedom
    half = freedom[used] / 2
    logs = np.log(variances[used]) - special.digamma(half) + np.log(half)
    excess = float(logs.var(ddof=1) - special.polygamma(1, half).mean())
    if excess <= 0:
        common = float((variances * freedom)[used].sum() / freedom[used].sum())
        return np.where(used, common, variances), np.where(used, np.inf, freedom)
    prior = 2 * _inverse_trigamma(excess)
    centre = float(np.exp(logs.mean() + special.digamma(prior / 2) - np.log(prior / 2)))
    mixed = (freedom * variances + prior * centre) / (freedom + prior)
    return np.where(used, mixed, variances), np.where(used, freedom + prior, freedom)


def group_loss_p(differences: Sequence[Array]) -> float:
    """Returns the one-sided p-value of a loss of the mean over categories.

    Args:
        differences: by category as in :func:`loss_p`. With one seed anywhere the categories are the units
            (three or more, else 1 is returned), else the seeds within them.
    """
    sizes = np.array([len(d) for d in differences], dtype=np.float64)
    means = np.array([d.mean() for d in differences], dtype=np.float64)
    count = len(means)
    if sizes.min() < 2:
        if count < _ENOUGH:
            return 1.0
        error, freedom = means.var(ddof=1) / count, count - 1.0
    else:
        errors = np.array([d.var(ddof=1) for d in differences]) / sizes / count**2
        error = errors.sum()
        squares = float((errors**2 / (sizes - 1)).sum())
        freedom = float(error**2 / squares) if squares > 0 else 1.0
    return float(_lower_t(means.mean(keepdims=True), np.array([error]), np.array([freedom]))[0])


def discoveries(p: Array, rate: float) -> npt.NDArray[np.bool_]:
    """Returns which p-values [n] Benjamini and Hochberg's procedure calls discoveries at a false rate."""
    order = np.argsort(p)
    passing = np.flatnonzero(p[order] <= rate * np.arange(1, len(p) + 1) / max(len(p), 1))
    found = np.zeros(len(p), dtype=np.bool_)
    if len(passing):
        found[order[: passing[-1] + 1]] = True
    return found


def slow_down(before: Array, now: Array) -> float:
    """Returns how many times longer ``now`` takes: the median quotient of all pairs (Hodges–Lehmann)."""
    return float(np.median(now[:, None] / before[None]))


def slow_down_p(before: Array, now: Array) -> float:
    """Returns Mann and Whitney's one-sided p-value of ``now`` being longer."""
    return float(stats.mannwhitneyu(now, before, alternative="greater").pvalue)


def decidable(before: int, now: int, level: float) -> bool:
    """Whether so many times can give a p-value of ``level`` at all: 1 / (n over k) is the smallest."""
    return bool(special.comb(before + now, now) >= 1 / level)


def change_points(values: Array, level: float = 0.01, rounds: int = 999) -> list[int]:
    """Returns where a series changes its mean: the first positions of what is new, ascending.

    Binary segmentation: the split with the largest |t| of two samples counts if fewer than ``level`` of
    permutations of the series have one as large; then both parts in turn. Each side has three values or
    more, so that one outlier is no change; about ten values are needed to find any.

    Args:
        values: the series [n], oldest first.
        level: of the permutation test.
        rounds: number of permutations, drawn with a fixed seed.
    """
    if len(values) < 6 or np.ptp(values) < _ROUNDING:
        return []
    strongest = _split_strength(values[None])[0]
    at = int(strongest.argmax())
    draws = np.random.default_rng(0).permuted(np.tile(values, (rounds, 1)), axis=1)
    as_large = int((_split_strength(draws).max(axis=1) >= strongest[at] - _ROUNDING).sum())
    if (as_large + 1) / (rounds + 1) > level:
        return []
    split = at + 3
    later = [split + point for point in change_points(values[split:], level, rounds)]
    return [*change_points(values[:split], level, rounds), split, *later]


def _split_strength(series: Array) -> Array:
    """Share of the variance [rows, n − 5] that a split of each series [rows, n] explains: monotone in |t|."""
    size = series.shape[1]
    left = np.arange(3, size - 2)
    centred = series - series.mean(axis=1, keepdims=True)
    sums = centred.cumsum(axis=1)[:, left - 1]
    between = sums**2 * (1 / left + 1 / (size - left))
    return np.asarray(between / (centred**2).sum(axis=1, keepdims=True), dtype=np.float64)


def _lower_t(means: Array, squared_errors: Array, freedom: Array) -> Array:
    errors = np.sqrt(squared_errors)
    spread = errors > np.sqrt(_ROUNDING)
    p = stats.t.cdf(means / np.where(spread, errors, 1.0), freedom)
    # Without any scatter a difference is a difference.
    return np.asarray(np.where(spread, p, np.where(means < 0, 0.0, 1.0)), dtype=np.float64)


def _inverse_trigamma(value: float) -> float:
    """Newton's iteration on 1 / trigamma, as in the appendix of Smyth (2004)."""
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(special.polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(special.polygamma(2, x))
        x += step
        if -step / x < 1e-8:
            break
    return x
