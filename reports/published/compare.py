"""Published beside measured: each pair of numbers, their difference, and what differs between the setups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from harness.spec.metrics import METRICS
from harness.spec.protocols import unfilled
from harness.spec.record import RunRecord
from reports.published.numbers import PAPER, Published
from reports.rankings.leaderboard import Leaderboard
from reports.rankings.ranking import Cell, Ranking
from reports.rankings.scores import MEAN

_BACKBONE = "wide_resnet50_2"
_SEEDS = 5


@dataclass(frozen=True)
class Pair:
    """A published number and the measured one of the same cell.

    Attributes:
        tables: numbers of the tables that print this number.
        ranking: the ranking that holds the measured number.
        method: label of the method's row in the ranking.
        measured: in percent.
        reasons: what differs between the two setups, in words; never complete.
    """

    published: Published
    tables: tuple[str, ...]
    ranking: str
    method: str
    measured: Cell
    reasons: tuple[str, ...]

    @property
    def difference(self) -> float:
        """Measured − published, in percentage points."""
        return (self.measured.mean or 0.0) - self.published.value


def compare_published(board: Leaderboard, published: Sequence[Published]) -> list[Pair]:
    """Returns a pair for every measured cell for which a number was published."""
    printed: dict[tuple[str, ...], dict[tuple[str, str, str], list[Published]]] = defaultdict(dict)
    for n in published:
        if n.unit == "%" and n.metric in METRICS:
            key = (n.dataset, n.method, n.category, n.split, n.metric)
            printed[key].setdefault((n.source, n.printed, n.printed_std), []).append(n)
    known = {key[:2] for key in printed}
    pairs = []
    for ranking in board.rankings:
        for label in ranking.methods:
            records = ranking.by_method[label]
            method = records[0].spec.method.partition("[")[0]
            if (ranking.dataset, method) not in known:
                continue
            for split in ranking.splits:
                for category in (*ranking.split_categories(split), MEAN):
                    for metric in ranking.metrics(split):
                        same = printed.get((ranking.dataset, method, category, split, metric))
                        cell = ranking.cell(label, category, split, metric) if same else None
                        if not same or cell is None or cell.mean is None:
                            continue
                        for found in same.values():
                            tables = tuple(n.table for n in found)
                            reasons = _reasons(ranking, records, cell, found[0])
                            pairs.append(Pair(found[0], tables, ranking.name, label, cell, reasons))
    return pairs


def frame(pairs: Sequence[Pair]) -> pd.DataFrame:
    """The pairs as a table, in percent and percentage points."""
    return pd.DataFrame(
        [
            {
                "dataset": p.published.dataset,
                "category": p.published.category,
                "split": p.published.split,
                "method": p.method,
                "metric": p.published.metric,
                "source": p.published.source,
                "tables": " ".join(p.tables),
                "published": p.published.printed,
                "published_std": p.published.printed_std,
                "fingerprint": p.ranking,
                "measured": p.measured.mean,
                "measured_std": p.measured.std,
                "difference": p.difference,
                "why": "; ".join(p.reasons),
            }
            for p in pairs
        ]
    )


def _reasons(ranking: Ranking, records: list[RunRecord], cell: Cell, published: Published) -> tuple[str, ...]:
    """What differs, from the fingerprint and the records only."""
    f = ranking.fingerprint
    found = []
    if published.source == PAPER:
        if f.selection != "best_test_image_auroc":
            found.append(f"protocol {f.protocol}: the paper selects the epoch on the test set")
        if f.resize != "opencv":
            found.append(f"resize {f.resize}: the paper's is OpenCV's")
        if f.incomplete_batches == "kept" and (lost := _probably_unscored(records, published.category)):
            found.append(f"all test images scored: the paper's code probably left out {lost}")
        if f.image_size != 256:
            found.append(f"{f.image_size} pixels: the paper's images have 256")
        if len(ranking.seeds) != _SEEDS:
            found.append(f"{len(ranking.seeds)} of {_SEEDS} seeds")
        used = {str(r.identity.config["backbone"]) for r in records if "backbone" in r.identity.config}
        found += [
            f"backbone {name}: the paper's is Wide-ResNet50-2"
            for name in sorted(used)
            if name.partition(".")[0] != _BACKBONE
        ]
    else:
        found.append("how the published number was made is not recorded")
    if f.evaluation_resolution == "native":
        found.append("pixel metrics at the masks' own size")
    if f.backbone_weights != "pretrained":
        found.append("random weights")
    if f.crop != "none":
        found.append(f"{f.crop} crop")
    if f.stopping != "none":
        found.append("training stops early")
    if f.contamination:
        found.append(f"{100 * f.contamination:g} % anomalous training images")
    if f.training_images != "all":
        found.append(f"{f.training_images} training images")
    if cell.have != cell.want:
        found.append(f"{cell.have} of {cell.want} runs")
    found += sorted({f"{k} = {v}" for r in records for k, v in r.spec.params.items() if k != "backbone"})
    found += sorted({remark.rstrip(".") for r in records for remark in r.remarks})
    found.append(f"metrics of this package, version {f.metrics_version}")
    return tuple(found)


def _probably_unscored(records: list[RunRecord], category: str) -> str:
    """How many of a category's test images, or of all, fill no batch of the published code."""
    # Runs on one category count the same images, but for those that were moved to the training images.
    there = {
        r.spec.category: r.counts["test"] + r.counts.get("moved", 0)
        for r in records
        if category in (MEAN, r.spec.category) and "test" in r.counts
    }
    lost = sum(map(unfilled, there.values()))
    return f"{lost} of {sum(there.values())}" if lost else ""
