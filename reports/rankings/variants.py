"""Rankings of one dataset that differ in one thing alone, and what that changes, run by run."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.spec.fingerprints import Fingerprint
from harness.spec.record import RunRecord
from reports.rankings.leaderboard import Leaderboard
from reports.rankings.ranking import Cell, Ranking
from reports.rankings.scores import MEAN
from reports.rankings.statistics import estimate, units

# The protocols that are compared with strict, in the order of a table.
LEAKS = ("test-epoch", "test-statistics", "early-stop", "opencv-resize", "centre-crop", "drop-last", "paper")
_OF_PROTOCOL = (
    *("protocol", "resize", "crop", "mask_resize", "validation", "selection", "stopping"),
    "incomplete_batches",
)


@dataclass(frozen=True)
class Family:
    """Rankings that may be compared run by run.

    Attributes:
        title: what they have in common.
        variants: by what tells them apart, a protocol's name or a share.
    """

    title: str
    variants: Mapping[Any, Ranking]

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods of any of them."""
        return tuple(dict.fromkeys(m for ranking in self.variants.values() for m in ranking.methods))

    def cell(self, variant: Any, method: str, metric: str) -> Cell:
        """The mean over categories."""
        ranking = self.variants.get(variant)
        return ranking.cell(method, MEAN, "all", metric) if ranking else Cell(None, None, 0, 0, "not run")


@dataclass(frozen=True)
class Change:
    """A mean of paired differences in percentage points.

    Attributes:
        mean: over categories, of each the mean over seeds; over seeds where there is one category; not a
            number where a pair is missing.
        low: lower end of its 95 % interval, ``None`` for a single pair.
        high: upper end.
        pairs: runs that have a partner.
        runs: how many should have one.
    """

    mean: float
    low: float | None
    high: float | None
    pairs: int
    runs: int

    def text(self) -> str:
        """The change for people: ``+1.2 [+0.3, +2.1]``; in words where partners are missing."""
        if self.pairs != self.runs:
            return f"{self.pairs} of {self.runs} pairs"
        interval = (
            "" if self.low is None or self.high is None else f" [{_signed(self.low)}, {_signed(self.high)}]"
        )
        return f"{_signed(self.mean)}{interval}"


def leaks(board: Leaderboard) -> list[Family]:
    """Returns rankings that differ in the protocol, strict being one of them."""
    found = _families(board, _OF_PROTOCOL, "protocol")
    return [family for family in found if "strict" in family.variants]


def contaminated(board: Leaderboard) -> list[Family]:
    """Returns rankings that differ in the share of anomalous training images."""
    return _families(board, ("contamination",), "contamination")


def changes(family: Family, first: Any, second: Any, method: str, metric: str) -> Change | None:
    """Returns what the second variant has more than the first, run by run; ``None`` where no pair is.

    Runs are a pair that have the same method, settings, weights, category and seed.
    """
    rankings = [family.variants[v] for v in (first, second) if v in family.variants]
    if len(rankings) < 2:
        return None
    before, after = (_scores(ranking, method, metric) for ranking in rankings)
    common = sorted(before.keys() & after.keys())
    if not common:
        return None
    seeds = {seed for ranking in rankings for seed in ranking.seeds}
    runs = len(seeds) * len(rankings[0].split_categories("all"))
    by_category: dict[str, list[float]] = defaultdict(list)
    for key in common:
        by_category[key[0]].append(100 * (after[key] - before[key]))
    if len(common) != runs:
        return Change(float("nan"), None, None, len(common), runs)
    found = estimate(units(np.array([list(by_category.values())])))
    low, high = (None if end is None else float(end[0]) for end in (found.low, found.high))
    return Change(float(found.mean[0]), low, high, len(common), runs)


def _scores(ranking: Ranking, method: str, metric: str) -> dict[tuple[str, int, str], float]:
    found = {}
    for record in ranking.by_method.get(method, ()):
        value = record.metrics.get("all", {}).get(metric)
        if value is not None:
            found[(record.spec.category, record.spec.seed, _settings(record))] = value
    return found


def _settings(record: RunRecord) -> str:
    identity = record.identity
    return json.dumps([identity.config, identity.weights, identity.method_version], sort_keys=True)


def _families(board: Leaderboard, varied: tuple[str, ...], by: str) -> list[Family]:
    found: dict[tuple[str, str], dict[Any, Ranking]] = defaultdict(dict)
    for ranking in board.rankings:
        found[(ranking.dataset, _rest(ranking.fingerprint, varied))][getattr(ranking.fingerprint, by)] = (
            ranking
        )
    families = []
    for (dataset, _), variants in found.items():
        if len(variants) > 1:
            one = next(iter(variants.values())).fingerprint
            parts = [dataset, f"{one.image_size} px"]
            parts += [one.protocol] if by != "protocol" else []
            parts += ["native"] if one.evaluation_resolution == "native" else []
            parts += [f"{one.training_images} training images"] if one.training_images != "all" else []
            parts += ["random weights"] if one.backbone_weights != "pretrained" else []
            if by != "contamination" and one.contamination:
                parts.append(f"{100 * one.contamination:g} % anomalous training images")
            families.append(Family(" · ".join(parts), variants))
    return sorted(families, key=lambda family: family.title)


def _rest(fingerprint: Fingerprint, varied: tuple[str, ...]) -> str:
    shared = fingerprint.model_dump(mode="json", exclude={"weights", "score_rule", *varied})
    return json.dumps(shared, sort_keys=True)


def _signed(value: float) -> str:
    # Zero has one sign only.
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")
