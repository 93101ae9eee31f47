"""What a suite costs, by records of the same methods: nothing is predicted that has not been measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from statistics import fmean
from typing import Any

from harness.dataset import dataset_names, load_card
from harness.registry import method_names, parse_name
from harness.spec import RunRecord, Suite

# Hyper-parameters that say how long a training is.
LENGTHS = ("epochs", "steps", "sub_epochs", "max_epochs", "distill_steps", "batch_size", "width")


@dataclass(frozen=True)
class Size:
    """How many runs a suite has.

    Attributes:
        each: runs of each of its methods.
        methods: names, those in ``all`` included.
        points: further records that are made from kept parts.
    """

    each: int
    methods: tuple[str, ...]
    points: int

    @property
    def runs(self) -> int:
        """Runs that are trained."""
        return self.each * len(self.methods)


def size_of(suite: Suite) -> Size:
    """Counts the runs of a suite by its datasets' cards, whatever of them is on disk."""
    cards = [load_card(name) for name in dataset_names(suite.datasets)]
    known = [f"{card.name}/{category.name}" for card in cards for category in card.categories]
    chosen = [n for n in known if not suite.categories or {n, n.partition("/")[2]} & {*suite.categories}]
    each = len(chosen) * len(suite.seeds) * len(suite.protocols) * len(suite.contamination)
    methods = [m for name in suite.methods for m in (method_names() if name == "all" else [name])]
    grids = [suite.grid.get(parse_name(name).short(), {}) for name in methods]
    points = sum(prod(len(values) for values in grid.values()) for grid in grids if grid)
    return Size(each, tuple(methods), each * points)


def predicted(suite: Suite, size: Size, records: Sequence[RunRecord]) -> str:
    """Says how many hours a suite takes on one machine, by runs as long, of the same methods and image size.

    Args:
        suite: its settings.
        size: its runs.
        records: earlier runs.
    """
    hours: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        spent, spec = record.timings, record.spec
        if spent and spec.image_size == suite.image_size and spec.limit_train is None:
            machine = str(record.environment.get("gpu") or record.environment.get("cpu") or "unknown machine")
            hours[machine][_kind(spec.method, spec.params)].append(spent.total / 3600)
    wanted = [_kind(name, suite.set.get(parse_name(name).short(), {})) for name in size.methods]
    for machine, known in sorted(hours.items(), key=lambda item: -sum(kind in item[1] for kind in wanted)):
        found = [fmean(known[kind]) * size.each for kind in wanted if kind in known]
        if found:
            rest = f", {len(wanted) - len(found)} of {len(wanted)} methods not predicted"
            return f"about {sum(found):.1f} h on {machine}{rest if len(found) < len(wanted) else ''}"
    return "not predicted: no earlier records of such runs"


def _kind(method: str, params: dict[str, Any]) -> str:
    """A method without what hardly changes its time, and with what does."""
    name = parse_name(method)
    lengths = {key: str(value) for key, value in (params | dict(name.params)).items() if key in LENGTHS}
    return f"{name.short()} {sorted(lengths.items())}"
