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
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.spec import KINDS_MEAN, PROTOCOLS, Fingerprint, RunRecord

COLUMNS = (
    "dataset",
    "category",
    "split",
    "method",
    "protocol",
    "fingerprint",
    "metric",
    "mean",
    "std",
    "seeds",
    "complete",
)
METRICS: Mapping[str, str] = {
    "image_auroc": "Image AUROC",
    "pixel_auroc": "Pixel AUROC",
    "aupro": "AUPRO",
    "image_ap": "Image AP",
    "image_f1max": "Image F1-max",
    "pixel_ap": "Pixel AP",
    "pixel_f1max": "Pixel F1-max",
    "spro_0.05": "sPRO (FPR ≤ 0.05)",
    "spro_0.01": "sPRO (FPR ≤ 0.01)",
    "spro_0.1": "sPRO (FPR ≤ 0.1)",
    "spro_0.3": "sPRO (FPR ≤ 0.3)",
    "spro_1": "sPRO (FPR ≤ 1)",
}
MEAN = "mean"


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
    """

    dataset: str
    name: str
    fingerprint: Fingerprint
    methods: tuple[str, ...]
    categories: tuple[str, ...]
    seeds: tuple[int, ...]
    splits: tuple[str, ...]
    records: Mapping[tuple[str, str, int], RunRecord]

    def split_categories(self, split: str) -> tuple[str, ...]:
        """The categories that a mean over a split runs over: those which have that kind of anomaly."""
        record = next(iter(self.records.values()))
        own = record.split_categories.get(split)
        return self.categories if own is None else tuple(c for c in self.categories if c in own)

    def metrics(self, split: str) -> tuple[str, ...]:
        """The metrics of a split: sPRO where some record has it; in the mean over the kinds nothing else."""
        there = set().union(*(record.metrics.get(split, {}) for record in self.records.values()))
        return tuple(m for m in METRICS if m in there or not (split == KINDS_MEAN or m.startswith("spro_")))

    def cell(self, method: str, category: str, split: str, metric: str) -> Cell:
        """The cell of a category, or of ``mean``: the mean over categories."""
        categories = self.split_categories(split) if category == MEAN else (category,)
        have, reasons, per_seed = 0, Counter[str](), []
        for seed in self.seeds:
            values = []
            for name in categories:
                value, reason = _value(self.records.get((method, name, seed)), split, metric)
                if value is None:
                    reasons[reason] += 1
                else:
                    values.append(value)
            have += len(values)
            if values and len(values) == len(categories):
                per_seed.append(statistics.fmean(values))
        want = len(self.seeds) * len(categories)
        if have == want and per_seed:
            std = statistics.stdev(per_seed) if len(per_seed) > 1 else None
            return Cell(statistics.fmean(per_seed), std, have, want)
        if category != MEAN and per_seed:
            # Some seeds are there: shown, but counted as incomplete.
            std = statistics.stdev(per_seed) if len(per_seed) > 1 else None
            return Cell(statistics.fmean(per_seed), std, have, want, f"{have} of {want}")
        if category == MEAN and have:
            return Cell(None, None, have, want, f"{have} of {want}")
        return Cell(None, None, have, want, reasons.most_common(1)[0][0] if reasons else "not run")

    def scores(self, split: str, metric: str) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
        """The methods that have every run, and their scores [methods, categories, seeds], in percent."""
        names, found = [], []
        categories = self.split_categories(split)
        for method in self.methods:
            grid = [
                [_value(self.records.get((method, c, s)), split, metric)[0] for s in self.seeds]
                for c in categories
            ]
            if grid and all(value is not None for row in grid for value in row):
                names.append(method)
                found.append(grid)
        shape = (len(names), len(categories), len(self.seeds))
        return tuple(names), np.array(found, dtype=np.float64).reshape(shape)

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
        found = []
        if PROTOCOLS[self.fingerprint.protocol].uses_test_data:
            found.append("selects on test data")
        if any("random" in record.fingerprint.weights.values() for record in self.records.values()):
            found.append("random weights")
        if self.fingerprint.training_images != "all":
            found.append(f"{self.fingerprint.training_images} training images")
        return tuple(found)


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
        """The tidy table, in percent, with the columns :data:`COLUMNS`."""
        rows = []
        for ranking in self.rankings:
            for split in ranking.splits:
                categories = ranking.split_categories(split)
                for category in (*categories, MEAN):
                    for method in ranking.methods:
                        for metric in ranking.metrics(split):
                            cell = ranking.cell(method, category, split, metric)
                            count = f"{cell.have} of {cell.want}"
                            head = (ranking.dataset, category, split, method, ranking.fingerprint.protocol)
                            seeds = cell.have if category != MEAN else len(ranking.seeds)
                            rows.append((*head, ranking.name, metric, cell.mean, cell.std, seeds, count))
        return pd.DataFrame(rows, columns=list(COLUMNS))


def build(records: Sequence[RunRecord], damaged: Sequence[tuple[Path, str]] = ()) -> Leaderboard:
    """Groups records into rankings.

    Of several records of one run (its method, data or weights have changed since) the newest counts.
    """
    notes = [f"Damaged record skipped: {path}: {reason}." for path, reason in damaged]
    newest: dict[str, RunRecord] = {}
    for record in sorted(records, key=lambda record: record.finished):
        newest[record.spec.model_dump_json()] = record
    if older := len(records) - len(newest):
        notes.append(f"{older} older records of the same runs are superseded by newer ones.")
    # A category's files may have changed: only records of their newest state stand side by side.
    files = {(r.spec.dataset, r.spec.category): r.identity.data for r in newest.values()}
    tables = {(r.spec.dataset, r.spec.category, r.spec.evaluate): r.identity.defects for r in newest.values()}
    current = [
        r
        for r in newest.values()
        if r.identity.data == files[(r.spec.dataset, r.spec.category)]
        and r.identity.defects == tables[(r.spec.dataset, r.spec.category, r.spec.evaluate)]
    ]
    if outdated := len(newest) - len(current):
        notes.append(f"{outdated} records are left out: the files of their category have changed since.")
    groups: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for record in current:
        groups[(record.spec.dataset, record.fingerprint.short())].append(record)
    rankings = []
    for (dataset, name), members in sorted(groups.items()):
        parts = _apart(members)
        if len(parts) > 1:
            notes.append(
                f"{dataset}, {name}: weights of one backbone differ between runs, which are ranked "
                f"apart, in {len(parts)} rankings."
            )
        for suffix, part in parts.items():
            rankings.append(_ranking(dataset, f"{name}-{suffix}" if len(parts) > 1 else name, part))
    return Leaderboard(tuple(rankings), tuple(notes))


def selection_gaps(board: Leaderboard) -> list[tuple[str, str, float, float]]:
    """What selecting the epoch on test data adds: ``(dataset, method, selected, last)``.

    Both are image AUROC in percent, means over all runs of a method that have both.
    """
    rows = []
    for ranking in board.rankings:
        for method in ranking.methods:
            pairs = [
                (record.metrics["all"]["image_auroc"], record.metrics_last["all"]["image_auroc"])
                for (name, _, _), record in ranking.records.items()
                if name == method and record.metrics and record.metrics_last
            ]
            both = [(a, b) for a, b in pairs if a is not None and b is not None]
            if both:
                selected, last = (100 * statistics.fmean(values) for values in zip(*both, strict=True))
                rows.append((ranking.dataset, method, selected, last))
    return rows


def _value(record: RunRecord | None, split: str, metric: str) -> tuple[float | None, str]:
    if record is None:
        return None, "not run"
    if record.outcome != "ok":
        return None, record.outcome.replace("_", " ")
    scores = record.metrics.get(split, {})
    value = scores.get(metric)
    return (100 * value, "") if value is not None else (None, "undefined")


def _apart(records: list[RunRecord]) -> dict[str, list[RunRecord]]:
    """Splits records where one backbone has two sets of weights."""
    weights: dict[str, set[str]] = defaultdict(set)
    for record in records:
        for backbone, sha in record.fingerprint.weights.items():
            weights[backbone].add(sha)
    parts: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        odd = [f"{b}={s}" for b, s in sorted(record.fingerprint.weights.items()) if len(weights[b]) > 1]
        parts[hashlib.sha256("|".join(odd).encode()).hexdigest()[:4]].append(record)
    return parts


def _ranking(dataset: str, name: str, records: list[RunRecord]) -> Ranking:
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
    )


def _labels(records: Iterable[RunRecord]) -> dict[str, str]:
    """Names each record's row: the method, and what tells its settings from others of the same name."""
    by_method: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        by_method[record.spec.method].append(record)
    labels = {}
    for method, members in by_method.items():
        settings = {record.key: _settings(record) for record in members}
        keys = sorted(set().union(*settings.values()))
        differing = [k for k in keys if len({s.get(k) for s in settings.values()}) > 1]
        for record in members:
            own = settings[record.key]
            shown = ", ".join(f"{k}={own[k]}" for k in differing if k in own)
            labels[record.key] = f"{method} ({shown})" if shown else method
    return labels


def _settings(record: RunRecord) -> dict[str, str]:
    identity = record.identity
    own = {key: str(value) for key, value in identity.config.items()}
    return (
        own
        | {"version": str(identity.method_version)}
        | ({"source": identity.source[:8]} if identity.source else {})
    )
