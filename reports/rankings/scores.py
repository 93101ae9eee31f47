"""The numbers of a ranking as one array, and what tables say about them: means, spread, what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import fsum

import numpy as np
import numpy.typing as npt
from scipy import stats

from harness.spec.metrics import METRICS, completed
from harness.spec.record import RunRecord

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
# Why there is no number, by code; 0 is a number.
STATES = ("", "not run", "failed", "out of memory", "timeout", "undefined")
# The category of a row that is the mean over categories.
MEAN = "mean"
_NOT_RUN, _UNDEFINED = 1, STATES.index("undefined")
_LEVEL = 0.95


@dataclass(frozen=True)
class Summary:
    """What seeds say together; every array has the same shape, NaN where there is nothing to say.

    Attributes:
        per_seed: the value of each seed, with the seeds as one more axis at the end.
        mean: mean over the seeds that are there, in percent.
        std: sample standard deviation over them, from two on.
        low: lower end of Student's 95 % interval of the mean over seeds, from two on; not clipped to 0.
        high: upper end, not clipped to 100.
        counts: how many runs are in each of :data:`STATES`, with the states as one more axis in front.
    """

    per_seed: Array
    mean: Array
    std: Array
    low: Array
    high: Array
    counts: Counts


@dataclass(frozen=True)
class Grid:
    """The numbers of M methods, C categories, S seeds and K columns.

    Attributes:
        columns: place of each split and metric; the last place, K - 1, is that of a metric no run has.
        values: [M, C, S, K] in percent, NaN where there is none.
        states: [M, C, S, K], index in :data:`STATES`.
    """

    columns: Mapping[tuple[str, str], int]
    values: Array
    states: npt.NDArray[np.uint8]

    def column(self, split: str, metric: str) -> int:
        """The place of a column."""
        return self.columns.get((split, metric), self.values.shape[-1] - 1)

    def cell(self, category: int) -> Summary:
        """What the seeds of a category say, [M, K]."""
        return _summary(self.values[:, category].swapaxes(1, 2), _counts(self.states[:, category], (1,)))

    def means(self, categories: Sequence[int]) -> Summary:
        """What the seeds say on the mean over some categories, [M, K], where all their runs are there."""
        values, states = self.values[:, categories], self.states[:, categories]
        complete = (states == 0).all(axis=1)
        per_seed = np.full(complete.shape, np.nan)
        if categories:
            per_seed[complete] = _mean(np.moveaxis(values, 1, -1)[complete])
        found = _summary(np.moveaxis(per_seed, 1, -1), _counts(states, (1, 2)))
        partial = ~complete.all(axis=1)
        for array in (found.mean, found.std, found.low, found.high):
            array[partial] = np.nan
        return found


def fill(
    records: Iterable[tuple[tuple[int, int, int], RunRecord]],
    shape: tuple[int, int, int],
    columns: Sequence[tuple[str, str]],
) -> Grid:
    """Makes the grid of records.

    Args:
        records: each record with its place among methods, categories and seeds.
        shape: how many methods, categories and seeds there are.
        columns: split and metric of each column, those of a split together.
    """
    width = len(columns) + 1
    splits = [(split, [metric for _, metric in pairs]) for split, pairs in groupby(columns, lambda c: c[0])]
    # Looked for first: of a hundred thousand records nearly all have them.
    derived = {split: {m for m in metrics if METRICS[m].follows} for split, metrics in splits}
    places, rows, codes = [], [], []
    for place, record in records:
        row: list[float | None] = []
        for split, metrics in splits:
            # Of a run without numbers nothing counts, whatever it has.
            scores = record.metrics.get(split, {}) if record.outcome == "ok" else {}
            if not derived[split] <= scores.keys():
                scores = completed(scores)
            row += map(scores.get, metrics)
        places.append(place)
        rows.append([*row, None])
        codes.append(_UNDEFINED if record.outcome == "ok" else STATES.index(record.outcome.replace("_", " ")))
    values = np.full((*shape, width), np.nan)
    states = np.full((*shape, width), _NOT_RUN, dtype=np.uint8)
    if places:
        at = tuple(np.array(places).T)
        found = 100 * np.array(rows, dtype=np.float64)
        values[at] = found
        states[at] = np.where(np.isnan(found), np.array(codes, dtype=np.uint8)[:, None], 0)
    return Grid({column: k for k, column in enumerate(columns)}, values, states)


def _summary(per_seed: Array, counts: Counts) -> Summary:
    """Mean, deviation and interval over the last axis, of what is there."""
    mean = _mean(per_seed)
    there = ~np.isnan(per_seed)
    count = there.sum(axis=-1)
    # Distances from the first value, so that equal values have no spread at all, not a rounding's worth.
    if per_seed.shape[-1]:
        first = np.take_along_axis(per_seed, there.argmax(axis=-1)[..., None], axis=-1)
        apart = np.where(there, per_seed - first, 0.0)
    else:
        apart = np.zeros_like(per_seed)
    several = count > 1
    size = np.where(several, count, 2)
    centre = (apart.sum(axis=-1) / size)[..., None]
    squares = np.where(there, (apart - centre) ** 2, 0.0).sum(axis=-1)
    std = np.where(several, np.sqrt(squares / (size - 1)), np.nan)
    most = int(size.max(initial=2))
    t = np.array([np.nan, np.nan, *stats.t.ppf((1 + _LEVEL) / 2, np.arange(1, most))])
    half = t[size] * std / np.sqrt(size)
    return Summary(per_seed, mean, std, mean - half, mean + half, counts)


def _mean(values: Array) -> Array:
    """Means over the last axis of what is there, rounded once: their order never depends on that of sums."""
    rows = values.reshape(-1, values.shape[-1])
    found = np.full(len(rows), np.nan)
    count = (~np.isnan(rows)).sum(axis=1)
    whole, some = count == values.shape[-1], np.flatnonzero((count > 0) & (count < values.shape[-1]))
    if values.shape[-1]:
        found[whole] = np.array([*map(fsum, rows[whole].tolist())]) / values.shape[-1]
    for place in some.tolist():
        found[place] = fsum(value for value in rows[place].tolist() if value == value) / int(count[place])
    return found.reshape(values.shape[:-1])


def _counts(states: npt.NDArray[np.uint8], axes: tuple[int, ...]) -> Counts:
    """How often each state is there along some axes."""
    return np.stack([(states == code).sum(axis=axes) for code in range(len(STATES))])
