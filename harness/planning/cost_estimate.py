"""What a suite or a plan costs, by records of such runs: nothing is predicted that has not been measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING

from harness.data.card import Card, CategoryCounts, dataset_names, load_card
from harness.data.image_roles import sizes
from harness.planning.forecast import Forecast, Workload, machine_of, workload_of
from harness.planning.order import work_of
from harness.registry.configuration import Configured, configure_methods
from harness.registry.methods import method_names
from harness.registry.names import parse_name
from harness.spec.record import RunRecord
from harness.spec.run import RunSpec
from harness.spec.suite import Suite

if TYPE_CHECKING:
    from harness.planning.plan import Plan


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
    each = len(_categories(suite)) * len(suite.seeds) * len(suite.protocols) * len(suite.contamination)
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
    wanted = [_works(suite, one) for one in configure_methods(suite)]
    by_machine: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        by_machine[machine_of(record)].append(record)
    best: list[float] = []
    where = ""
    for machine, own in by_machine.items():
        forecast = Forecast(own)
        expected = [[forecast.expect(work) for work in works] for works in wanted]
        found = [sum(e.seconds for e in one) for one in expected if all(e.measured for e in one)]
        if len(found) > len(best):
            best, where = found, machine
    if not best:
        return "not predicted: no earlier records of such runs"
    missing = len(wanted) - len(best)
    rest = f", {missing} of {len(wanted)} methods not predicted" if missing else ""
    return f"about {sum(best) * len(suite.seeds) / 3600:.1f} h on {where}{rest}"


def _works(suite: Suite, one: Configured) -> list[Workload]:
    """What the runs of a method with one seed have to do, by the datasets' cards."""
    config, works = one.config.model_dump(mode="json"), []
    for card, category in _categories(suite):
        test = sum((category.test or {}).values())
        for protocol, share in product(suite.protocols, suite.contamination):
            spec = RunSpec(
                dataset=card.name,
                category=category.name,
                method=one.label,
                seed=0,
                protocol=protocol,
                image_size=suite.image_size,
                evaluate=suite.evaluate,
                contamination=share,
            )
            known = category.train is not None and category.test is not None
            images = sizes(category.train or 0, category.validation, test, spec) if known else (0, 0)
            works.append(workload_of(spec, config, *images))
    return works


def _categories(suite: Suite) -> list[tuple[Card, CategoryCounts]]:
    """The categories of a suite by its datasets' cards, whatever of them is on disk."""
    cards = [load_card(name) for name in dataset_names(suite.datasets)]
    known = [(card, category) for card in cards for category in card.categories]
    chosen = {*suite.categories}
    return [(d, c) for d, c in known if not chosen or {c.name, f"{d.name}/{c.name}"} & chosen]


def expected_time(plan: Plan, forecast: Forecast, workers: int) -> str:
    """Returns a sentence on the time and memory that earlier records of such runs let expect.

    Args:
        plan: what to do.
        forecast: predicts by the earlier records.
        workers: how many runs are executed at a time.
    """
    # What is made from kept parts takes next to no time.
    todo = [task for task in plan.todo if task.made_from is None]
    if not todo:
        return "Nothing to train." if plan.todo else "Nothing to do."
    expected = [forecast.expect(work_of(task)) for task in todo]
    known = [one for one in expected if one.measured]
    if not known:
        return "No earlier records of such runs to predict the time from."
    seconds = [one.seconds for one in known]
    minutes = max(sum(seconds) / workers, max(seconds)) / 60
    memory = max((one.memory or 0 for one in known), default=0)
    most = f", {memory / 1e9:.1f} GB at most" if memory else ""
    rest = f"; {len(todo) - len(known)} more runs without such records" if len(known) < len(todo) else ""
    return f"By earlier records: about {minutes:.0f} min for {len(known)} runs{most}{rest}."
