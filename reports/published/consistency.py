"""Do published numbers agree with each other? No measurement is needed to find out."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from harness.spec.protocols import unfilled
from reports.published.numbers import PAPER, Published
from reports.rankings.scores import MEAN

# How many test images a dataset has officially, by its name and that of the category.
TestImages = Mapping[str, Mapping[str, int]]

TOLERANCE = 0.1
"""How far a printed mean may be from that of its printed categories, in percentage points."""


@dataclass(frozen=True)
class Inconsistency:
    """A published number that contradicts others.

    Attributes:
        number: the number.
        kind: ``mean`` or ``pooled``.
        expected: what the other numbers say, in percent.
    """

    number: Published
    kind: str
    expected: str


@dataclass(frozen=True)
class Cut:
    """What the published code of ULSAD does not score of a dataset.

    Attributes:
        unscored: test images that fill no batch, of each category the last ones.
        images: test images by the official counts.
    """

    dataset: str
    unscored: int
    images: int


@dataclass(frozen=True)
class Audit:
    """What was found, and how many numbers could be checked.

    Attributes:
        means: how many means have their categories beside them.
        pooled: how many pooled image AUROCs have both kinds' values.
        cuts: of each dataset of the paper's numbers.
    """

    findings: tuple[Inconsistency, ...]
    means: int
    pooled: int
    cuts: tuple[Cut, ...] = ()

    def summary(self) -> str:
        """The counts in one sentence."""
        off = sum(f.kind == "mean" for f in self.findings)
        outside = len(self.findings) - off
        return (
            f"{off} of {self.means} printed means are off by more than {TOLERANCE} points from the mean of "
            f"their categories; {outside} of {self.pooled} pooled image AUROCs lie outside the structural "
            "and logical values whose count-weighted mean they are."
        )

    def cut_summary(self) -> list[str]:
        """What the paper's numbers were probably not measured on, in one sentence; none without counts."""
        images = sum(cut.images for cut in self.cuts)
        if not images:
            return []
        lost = sum(cut.unscored for cut in self.cuts)
        each = ", ".join(f"{cut.dataset} {cut.unscored} of {cut.images:,}" for cut in self.cuts)
        return [
            "The published code scores no incomplete batch, nor do the baselines in it: the paper's numbers "
            f"were probably measured without {lost:,} of {images:,} test images, "
            f"{100 * lost / images:.1f} % ({each})."
        ]

    def table(self) -> Table:
        """The findings for the terminal."""
        table = Table(title="Published numbers that contradict others", title_justify="left")
        for column in ("table", "dataset", "category", "method", "metric"):
            table.add_column(column, overflow="fold")
        table.add_column("printed", justify="right")
        table.add_column("expected", overflow="fold")
        for f in self.findings:
            n = f.number
            table.add_row(n.table, n.dataset, n.category, n.method, n.metric, n.printed, f.expected)
        return table


def check_consistency(numbers: Sequence[Published], test_images: TestImages | None = None) -> Audit:
    """Checks means against their categories, and pooled image AUROCs against both kinds of anomalies.

    Args:
        numbers: the published numbers.
        test_images: official counts, by which it is said how many the published code leaves out.
    """
    columns: dict[tuple[str, ...], list[Published]] = defaultdict(list)
    for n in numbers:
        columns[(n.source, n.table, n.dataset, n.split, n.method, n.metric)].append(n)
    findings, means = [], 0
    for column in columns.values():
        values = [n.value for n in column if n.category != MEAN]
        for n in column:
            if n.category == MEAN and values:
                means += 1
                mean = statistics.fmean(values)
                if abs(mean - n.value) > TOLERANCE:
                    findings.append(Inconsistency(n, "mean", f"{mean:.2f}, mean of {len(values)} categories"))
    # With the same normal images, the AUROC over all anomalies is both kinds' mean, weighted by counts.
    cells = {
        (n.source, n.dataset, n.split, n.category, n.method): n
        for n in numbers
        if n.metric == "image_auroc" and n.category != MEAN
    }
    pooled = 0
    for (source, dataset, split, category, method), n in cells.items():
        kinds = [cells.get((source, dataset, s, category, method)) for s in ("structural", "logical")]
        ends = sorted((k for k in kinds if k), key=lambda k: k.value)
        if split == "all" and len(ends) == 2:
            pooled += 1
            if not ends[0].value <= n.value <= ends[1].value:
                findings.append(Inconsistency(n, "pooled", f"{ends[0].printed} to {ends[1].printed}"))
    return Audit(tuple(findings), means, pooled, _cuts(numbers, test_images or {}))


def _cuts(numbers: Sequence[Published], test_images: TestImages) -> tuple[Cut, ...]:
    datasets = dict.fromkeys(n.dataset for n in numbers if n.source == PAPER and n.dataset in test_images)
    counts = {dataset: test_images[dataset].values() for dataset in datasets}
    return tuple(Cut(name, sum(map(unfilled, own)), sum(own)) for name, own in counts.items())
