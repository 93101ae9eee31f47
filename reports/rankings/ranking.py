"""What may be compared: one dataset under one protocol fingerprint."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from harness.spec.fingerprints import Fingerprint
from harness.spec.metrics import METRICS, completed
from harness.spec.record import KINDS_MEAN, RunRecord
from reports.rankings.badges import Outdated, badges_of
from reports.rankings.scores import MEAN, STATES, Grid, Summary, fill


def split_title(split: str) -> str:
    """Names a split for people: ``logical anomalies``."""
    if split == KINDS_MEAN:
        return "mean over the kinds of anomalies"
    return f"{split} anomalies"


@dataclass(frozen=True)
class Cell:
    """A number of a table, in percent, or why there is none.

    Attributes:
        mean: mean over seeds, ``None`` where incomplete, failed or undefined.
        std: sample standard deviation over seeds, ``None`` for fewer than two.
        have: how many of the runs behind it have the metric.
        want: how many there should be.
        reason: in words why ``mean`` is missing, empty otherwise.
    """

    mean: float | None
    std: float | None
    have: int
    want: int
    reason: str = ""

    def text(self, digits: int = 1) -> str:
        """The cell for people: ``93.8 ± 0.4``, ``93.8``, or the reason."""
        if self.mean is None:
            return self.reason
        return f"{self.mean:.{digits}f}" + (f" ± {self.std:.{digits}f}" if self.std is not None else "")


@dataclass(frozen=True)
class Ranking:
    """One dataset under one fingerprint: the runs that may be compared.

    Attributes:
        name: short fingerprint, unique within the dataset.
        records: the records by label of the method, category and seed.
        splits: ``all`` first.
        outdated: methods with records of a version that is not the newest: name, version, the newest.
    """

    dataset: str
    name: str
    fingerprint: Fingerprint
    methods: tuple[str, ...]
    categories: tuple[str, ...]
    seeds: tuple[int, ...]
    splits: tuple[str, ...]
    records: Mapping[tuple[str, str, int], RunRecord]
    outdated: tuple[Outdated, ...] = ()

    def split_categories(self, split: str) -> tuple[str, ...]:
        """The categories that a mean over a split runs over: those which have that kind of anomaly."""
        return self._split_categories.get(split, self.categories)

    @cached_property
    def _split_categories(self) -> dict[str, tuple[str, ...]]:
        own = next(iter(self.records.values())).split_categories
        named = {split: {*some} for split, some in own.items()}
        return {split: tuple(c for c in self.categories if c in some) for split, some in named.items()}

    def metrics(self, split: str) -> tuple[str, ...]:
        """The metrics of a split: LOCO's where some record has them; in the mean over the kinds no others."""
        there = self._metrics.get(split, set())
        return tuple(m for m in METRICS if m in there or not (split == KINDS_MEAN or METRICS[m].optional))

    @cached_property
    def _metrics(self) -> dict[str, set[str]]:
        # Most records have the same ones.
        there = {
            (split, *scores) for record in self.records.values() for split, scores in record.metrics.items()
        }
        found: dict[str, set[str]] = defaultdict(set)
        for split, *names in there:
            found[split].update(completed(dict.fromkeys(names)))
        return dict(found)

    @cached_property
    def by_method(self) -> dict[str, list[RunRecord]]:
        """The records of each method's label."""
        found: dict[str, list[RunRecord]] = {method: [] for method in self.methods}
        for (method, _, _), record in self.records.items():
            found[method].append(record)
        return found

    @cached_property
    def grid(self) -> Grid:
        """Every number of the ranking, in percent."""
        methods, categories, seeds = self._places
        columns = [(split, metric) for split in self.splits for metric in self.metrics(split)]
        # A category that the dataset no longer has is in no table.
        placed = (
            ((methods[m], categories[c], seeds[s]), record)
            for (m, c, s), record in self.records.items()
            if c in categories
        )
        return fill(placed, (len(methods), len(categories), len(seeds)), columns)

    @cached_property
    def _places(self) -> tuple[dict[str, int], dict[str, int], dict[int, int]]:
        methods, categories = ({n: i for i, n in enumerate(x)} for x in (self.methods, self.categories))
        return methods, categories, {seed: i for i, seed in enumerate(self.seeds)}

    @cached_property
    def _means(self) -> dict[tuple[str, ...], Summary]:
        """What the seeds say on the mean over each choice of categories that a split has."""
        chosen = {self.categories, *self._split_categories.values()}
        return {names: self.grid.means([self._places[1][c] for c in names]) for names in chosen}

    def summary(self, category: str, split: str) -> Summary:
        """What the seeds say for each method and column of :attr:`grid`, [M, K]; see :meth:`cell`."""
        return self._means[self.split_categories(split)] if category == MEAN else self._cells[category]

    @cached_property
    def _cells(self) -> dict[str, Summary]:
        """What the seeds say on each category."""
        return {category: self.grid.cell(c) for category, c in self._places[1].items()}

    def cell(self, method: str, category: str, split: str, metric: str) -> Cell:
        """The cell of a category, or of ``mean``: the mean over categories."""
        place = self._places[0].get(method)
        if place is None:
            names = self.split_categories(split) if category == MEAN else (category,)
            return Cell(None, None, 0, len(self.seeds) * len(names), "not run")
        return self.cells(category, split, metric, [place])[0]

    def cells(
        self, category: str, split: str, metric: str, methods: Sequence[int] | None = None
    ) -> list[Cell]:
        """The cells of all methods, or of those at some places."""
        chosen = list(range(len(self.methods)) if methods is None else methods)
        names = self.split_categories(split) if category == MEAN else (category,)
        want = len(self.seeds) * len(names)
        if not self._places[1].keys() >= {*names}:
            return [Cell(None, None, 0, want, "not run") for _ in chosen]
        k = self.grid.column(split, metric)
        found = self.summary(category, split)
        columns = (found.counts[0, chosen, k], found.mean[chosen, k], found.std[chosen, k])
        cells = []
        for m, have, mean, std in zip(chosen, *(column.tolist() for column in columns), strict=True):
            some = "" if have == want else f"{have} of {want}"
            if mean == mean:
                # Some seeds may be there only: shown, but counted as incomplete.
                cells.append(Cell(mean, std if std == std else None, have, want, some))
            else:
                cells.append(Cell(None, None, have, want, some if have else self._reason(m, names, k)))
        return cells

    def _reason(self, method: int, names: Sequence[str], k: int) -> str:
        """The most frequent reason stands for all, the first of those as frequent."""
        categories = [self._places[1][name] for name in names]
        reasons = Counter(self.grid.states[method, categories, :, k].T.ravel().tolist()).most_common(1)
        return STATES[reasons[0][0]] if reasons else "not run"

    def scores(self, split: str, metric: str) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
        """The methods that have every run, and their scores [methods, categories, seeds], in percent."""
        categories = [self._places[1][c] for c in self.split_categories(split)]
        found = self.grid.values[..., self.grid.column(split, metric)][:, categories]
        whole = [bool(categories) and not np.isnan(scores).any() for scores in found]
        return tuple(m for m, there in zip(self.methods, whole, strict=True) if there), found[whole]

    def gaps(self, method: str) -> npt.NDArray[np.float64] | None:
        """Selected minus last image AUROC [1, categories, seeds], percent; ``None`` if a run lacks one."""
        grid = []
        for category in self.categories:
            for seed in self.seeds:
                record = self.records.get((method, category, seed))
                if record is None or not record.metrics or not record.metrics_last:
                    return None
                selected, last = (m["all"]["image_auroc"] for m in (record.metrics, record.metrics_last))
                if selected is None or last is None:
                    return None
                grid.append(100 * (selected - last))
        return np.array(grid, dtype=np.float64).reshape(1, len(self.categories), len(self.seeds))

    def badges(self) -> tuple[str, ...]:
        """What a reader must know about these numbers before using them."""
        return self._badges

    @cached_property
    def _badges(self) -> tuple[str, ...]:
        return badges_of(self.fingerprint, self.records.values(), self.outdated)


def ranks(cells: Sequence[Cell], digits: int = 1) -> list[int]:
    """Returns 1 for the best, 2 for the second of complete cells, as printed (ties together), else 0."""
    shown = [round(c.mean, digits) if c.mean is not None and c.have == c.want else None for c in cells]
    order = sorted({value for value in shown if value is not None}, reverse=True)[:2]
    return [order.index(value) + 1 if value in order else 0 for value in shown]


def told(cell: Cell) -> str:
    """The number, or why there is none; what a part of the seeds gave is told in words only."""
    if cell.have == cell.want and cell.mean is not None:
        return cell.text()
    some = "" if cell.mean is None else f", which give {cell.mean:.1f}"
    return f"{cell.reason} runs{some}" if " of " in cell.reason and cell.have else cell.reason
