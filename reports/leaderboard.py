"""Records → one tidy table. Everything that a report shows comes from it; nothing downstream recomputes.

A *ranking* is what may be compared: one dataset under one protocol fingerprint, in one state of its
files, with one set of weights per backbone. A mean over categories exists only where every category and every
seed of the ranking is there.
"""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.spec import KINDS_MEAN, Fingerprint, Identity, RunRecord
from harness.store import newest
from reports.badges import Outdated, badges_of, newest_versions, outdated_notes, outdated_of
from reports.grid import MEAN as MEAN
from reports.grid import STATES, Grid, Summary, fill
from reports.tidy import COLUMNS as COLUMNS
from reports.tidy import tidy

METRICS: Mapping[str, str] = {
    "image_auroc": "Image AUROC",
    "pixel_auroc": "Pixel AUROC",
    "aupro": "AUPRO",
    "image_ap": "Image AP",
    "image_f1max": "Image F1-max",
    "pixel_ap": "Pixel AP",
    "pixel_f1max": "Pixel F1-max",
    "map_max_auroc": "Image AUROC of the maps' maxima",
    "spro_0.05": "sPRO (FPR ≤ 0.05)",
    "spro_0.01": "sPRO (FPR ≤ 0.01)",
    "spro_0.1": "sPRO (FPR ≤ 0.1)",
    "spro_0.3": "sPRO (FPR ≤ 0.3)",
    "spro_1": "sPRO (FPR ≤ 1)",
}


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
        return tuple(
            m
            for m in METRICS
            if m in there or not (split == KINDS_MEAN or m.startswith(("spro_", "map_max_")))
        )

    @cached_property
    def _metrics(self) -> dict[str, set[str]]:
        # Most records have the same ones.
        there = {
            (split, *scores) for record in self.records.values() for split, scores in record.metrics.items()
        }
        found: dict[str, set[str]] = defaultdict(set)
        for split, *names in there:
            found[split].update(names)
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


@dataclass(frozen=True)
class Leaderboard:
    """Everything that reports show.

    Attributes:
        rankings: what may be compared, by dataset and fingerprint.
        notes: what was left out or kept apart, in sentences.
    """

    rankings: tuple[Ranking, ...]
    notes: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """The tidy table, in percent, with the columns :data:`COLUMNS`.

        ``values`` holds for each row a list, one number per seed of the ranking in the order of the seeds,
        ``None`` where there is none; in the rows of means these are the seeds' means over categories.
        ``low`` and ``high`` are the ends of Student's 95 % interval of ``mean`` over seeds.
        """
        return tidy(self.rankings)


def build(
    records: Sequence[RunRecord],
    damaged: Sequence[tuple[Path, str]] = (),
    versions: Mapping[str, int] | None = None,
) -> Leaderboard:
    """Groups records into rankings.

    Of several records of one run (its method, data or weights have changed since) the newest counts.

    Args:
        records: what was run.
        damaged: path and reason of files that are no readable record.
        versions: of the methods that are installed, by name; a record may know of a newer one.
    """
    notes = [f"Damaged record skipped: {path}: {reason}." for path, reason in damaged]
    known = newest_versions(records, versions or {})
    latest = newest(records)
    if older := len(records) - len(latest):
        notes.append(f"{older} older records of the same runs are superseded by newer ones.")
    # A category's files may have changed: only records of their newest state stand side by side.
    files: dict[tuple[str, str], str] = {}
    tables: dict[tuple[str, str, str], str] = {}
    states = []
    for record in latest:
        spec, identity = record.spec, record.identity
        place = (spec.dataset, spec.category)
        files[place] = identity.data
        tables[(*place, spec.evaluate)] = identity.defects
        states.append((record, place, spec.evaluate, identity))
    current = [
        record
        for record, place, evaluate, identity in states
        if identity.data == files[place] and identity.defects == tables[(*place, evaluate)]
    ]
    if outdated := len(latest) - len(current):
        notes.append(f"{outdated} records are left out: the files of their category have changed since.")
    # Records that come from the cache share their fingerprints: each is worked out once.
    distinct = {id(record.fingerprint): record.fingerprint for record in current}
    short = {key: found.short() for key, found in distinct.items()}
    groups: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for record in current:
        groups[(record.spec.dataset, short[id(record.fingerprint)])].append(record)
    rankings = []
    for (dataset, name), members in sorted(groups.items()):
        parts = _apart(members)
        if len(parts) > 1:
            notes.append(
                f"{dataset}, {name}: weights of one backbone differ between runs, which are ranked "
                f"apart, in {len(parts)} rankings."
            )
        for suffix, part in parts.items():
            full = f"{name}-{suffix}" if len(parts) > 1 else name
            rankings.append(_ranking(dataset, full, part, known))
    notes += outdated_notes(old for ranking in rankings for old in ranking.outdated)
    return Leaderboard(tuple(rankings), tuple(notes))


def selection_gaps(board: Leaderboard) -> list[tuple[str, str, float | None, float | None, str]]:
    """What selecting the epoch on test data adds: ``(dataset, method, selected, last, "5 of 6")``.

    Both are image AUROC in percent, means over all runs of a method, ``None`` unless every run has both.
    """
    rows: list[tuple[str, str, float | None, float | None, str]] = []
    for ranking in board.rankings:
        for method in ranking.methods:
            pairs = [
                (record.metrics["all"]["image_auroc"], record.metrics_last["all"]["image_auroc"])
                for record in ranking.by_method[method]
                if record.metrics and record.metrics_last
            ]
            both = [(a, b) for a, b in pairs if a is not None and b is not None]
            want = len(ranking.categories) * len(ranking.seeds)
            selected, last = None, None
            if both and len(both) == want:
                selected, last = (100 * statistics.fmean(values) for values in zip(*both, strict=True))
            if both:
                rows.append((ranking.dataset, method, selected, last, f"{len(both)} of {want}"))
    return rows


def _apart(records: list[RunRecord]) -> dict[str, list[RunRecord]]:
    """Splits records where one backbone has two sets of weights."""
    distinct = {id(record.fingerprint): record.fingerprint for record in records}
    weights: dict[str, set[str]] = defaultdict(set)
    for found in distinct.values():
        for backbone, sha in found.weights.items():
            weights[backbone].add(sha)
    suffixes = {}
    for key, found in distinct.items():
        odd = [f"{b}={s}" for b, s in sorted(found.weights.items()) if len(weights[b]) > 1]
        suffixes[key] = hashlib.sha256("|".join(odd).encode()).hexdigest()[:4]
    parts: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        parts[suffixes[id(record.fingerprint)]].append(record)
    return parts


def _ranking(dataset: str, name: str, records: list[RunRecord], versions: Mapping[str, int]) -> Ranking:
    labels = _labels(records)
    kinds: set[str] = set().union(*(record.metrics for record in records)) - {"all"}
    categories = max((record.categories for record in records), key=len)
    return Ranking(
        dataset=dataset,
        name=name,
        fingerprint=records[0].fingerprint,
        methods=tuple(sorted(set(labels.values()))),
        categories=tuple(categories),
        seeds=tuple(sorted({record.spec.seed for record in records})),
        splits=("all", *sorted(kinds)),
        records={(labels[r.key], r.spec.category, r.spec.seed): r for r in records},
        outdated=outdated_of(records, versions),
    )


def _labels(records: Iterable[RunRecord]) -> dict[str, str]:
    """Names each record's row: the method, and what tells its settings from others of the same name."""
    by_method: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        by_method[record.spec.method].append(record)
    labels = {}
    for method, members in by_method.items():
        distinct = {id(record.identity): record.identity for record in members}
        settings = {key: _settings(identity) for key, identity in distinct.items()}
        keys = sorted(set().union(*settings.values()))
        differing = [k for k in keys if len({s.get(k) for s in settings.values()}) > 1]
        names = {}
        for key, own in settings.items():
            shown = ", ".join(f"{k}={own[k]}" for k in differing if k in own)
            names[key] = f"{method} ({shown})" if shown else method
        for record in members:
            labels[record.key] = names[id(record.identity)]
    return labels


def _settings(identity: Identity) -> dict[str, str]:
    own = {key: str(value) for key, value in identity.config.items()}
    return (
        own
        | {"version": str(identity.method_version)}
        | ({"source": identity.source[:8]} if identity.source else {})
    )
