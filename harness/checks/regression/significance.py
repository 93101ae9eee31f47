"""The tests of a check, on plain arrays. ``docs/check.md`` has their measured error rates.

**Scores.** The unit is a seed: the difference new − baseline of the same seed. Nothing changed: all are 0,
bit by bit. A change of a library or of the machine shifts each seed at random; then they scatter around 0.
With five seeds a cell's own variance has four degrees of freedom, and hardly a t test survives a correction
over a hundred others. So variances are moderated as in Smyth (2004, doi:10.2202/1544-6115.1027): each is
drawn towards what the other cells have, as strongly as they agree among themselves. Seeds that all differ by
the same amount, as AUROCs of few images may, have no variance of their own: they take the other cells', and
where those have none either, nothing is known of chance and nothing is tested. A method over all its
categories is tested beside its cells, with the variances of its cells added up and Welch–Satterthwaite's
degrees of freedom.

**Many tests.** Benjamini and Hochberg's (1995) procedure.

**Times.** Mann and Whitney's test, with the shift that Hodges and Lehmann's estimator gives. With five
runs on each side its smallest p-value is 0.004, too large for ninety of them. So a moderated t test of the
logarithms, which knows the noise of the other cells, must agree.
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


class Losses:
    """Moderated paired t tests of losses.

    Args:
        differences: for each cell and metric new − baseline by seed, two seeds or more.
        kinds: the metric of each, by number. Every metric has a noise of its own to be drawn towards.
    """

    def __init__(self, differences: Sequence[Array], kinds: Sequence[int]) -> None:
        sizes = np.array([len(d) for d in differences], dtype=np.float64)
        variances = np.array([d.var(ddof=1) for d in differences], dtype=np.float64)
        moderated, self._freedom = moderate(variances, sizes - 1, np.array(kinds, dtype=np.int64))
        self.testable = moderated > _ROUNDING
        self._means = np.array([d.mean() for d in differences], dtype=np.float64)
        self._errors = moderated / sizes

    def p(self) -> Array:
        """Returns the one-sided p-values of the cells' losses [cells], 0.5 where not ``testable``."""
        return _lower_t(self._means, self._errors, self._freedom)

    def group_p(self, cells: Sequence[int], mean: float, count: int) -> float:
        """Returns the one-sided p-value of a loss of the mean over categories, 0.5 where no cell is testable.

        Args:
            cells: positions of those categories whose cells are among the tests.
            mean: the mean difference over all categories.
            count: number of all categories.
        """
        errors = self._errors[list(cells)] / count**2
        squares = float((errors**2 / self._freedom[list(cells)]).sum())
        total = float(errors.sum())
        freedom = total**2 / squares if squares > 0 else np.inf
        return float(_lower_t(np.array([mean]), np.array([total]), np.array([freedom]))[0])


def mean_loss_p(means: Array) -> float:
    """Returns the one-sided p-value of a loss, the differences [n] of categories being the units.

    A t test, or a sign test where all differ by the same amount.
    """
    if means.var() <= _ROUNDING:
        side = 0.5 ** len(means)
        return side if means[0] < 0 else 1 - side
    error = means.var(ddof=1, keepdims=True) / len(means)
    return float(_lower_t(means.mean(keepdims=True), error, np.array([len(means) - 1.0]))[0])


def moderate(variances: Array, freedom: Array, kinds: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """Draws variances towards each other.

    The prior, a scaled inverse χ² distribution, is fitted to the logarithms of those above rounding: its
    centre to their mean within each kind, its degrees of freedom to their variance around that. The others of
    such a kind are drawn towards it too.

    Args:
        variances: sample variances [n].
        freedom: their degrees of freedom [n].
        kinds: numbers [n] of what is drawn together.

    Returns:
        Moderated variances [n] and their degrees of freedom [n], infinite where all agree.
    """
    used = variances > _ROUNDING
    for kind in np.unique(kinds):
        if (used & (kinds == kind)).sum() < _ENOUGH:
            used &= kinds != kind
    if not used.any():
        return variances, freedom
    half = freedom[used] / 2
    logs = np.log(variances[used]) - special.digamma(half) + np.log(half)
    present, which, counts = np.unique(kinds[used], return_inverse=True, return_counts=True)
    centres = np.bincount(which, logs) / counts
    around = float(((logs - centres[which]) ** 2).sum() / (len(logs) - len(present)))
    excess = around - float(special.polygamma(1, half).mean())
    prior = 2 * _inverse_trigamma(excess) if excess > 0 else np.inf
    drawn = np.isin(kinds, present)
    places = np.searchsorted(present, kinds[drawn])
    if np.isinf(prior):
        total = np.bincount(which, freedom[used] * variances[used]) / np.bincount(which, freedom[used])
        mixed = total[places]
    else:
        centre = np.exp(centres + special.digamma(prior / 2) - np.log(prior / 2))[places]
        mixed = (freedom[drawn] * variances[drawn] + prior * centre) / (freedom[drawn] + prior)
    moderated, degrees = variances.copy(), freedom.copy()
    moderated[drawn], degrees[drawn] = mixed, freedom[drawn] + prior
    return moderated, degrees


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


def longer_p(pairs: Sequence[tuple[Array, Array]], common: float) -> Array:
    """Returns one-sided p-values [cells] of moderated t tests of times being longer.

    Args:
        pairs: for each cell the logarithms of times before and now.
        common: logarithm of what all cells share, which is taken off.
    """
    freedom = np.array([len(old) + len(new) - 2 for old, new in pairs], dtype=np.float64)
    squares = [((old - old.mean()) ** 2).sum() + ((new - new.mean()) ** 2).sum() for old, new in pairs]
    variances, moderated = moderate(
        np.array(squares, dtype=np.float64) / freedom, freedom, np.zeros(len(pairs), dtype=np.int64)
    )
    weights = np.array([1 / len(old) + 1 / len(new) for old, new in pairs])
    gains = np.array([old.mean() + common - new.mean() for old, new in pairs], dtype=np.float64)
    return _lower_t(gains, variances * weights, moderated)


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
    # Without any scatter nothing is known of chance.
    return np.asarray(np.where(spread, p, 0.5), dtype=np.float64)


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
